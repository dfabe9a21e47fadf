"""The project's own verdict: docs/verdict.md, from a results database.

    D="--data FOLDER --cache cache/verdict --split train --split validation --no-text --store mean"
    python embed.py run cola sst2 --encoder minilm --limit 4000 $D
    python embed.py run mrpc rte --encoder minilm $D
    python embed.py run mrpc rte --encoder minilm --pairs siamese ${D% --store mean}
    python embed.py run cola mrpc rte sst2 --encoder mpnet --limit 2000 $D
    python fit_heads.py sweep benchmarks/verdict.toml --cache cache/verdict --results runs/verdict.sqlite
    python benchmarks/verdict.py runs/verdict.sqlite

Every number and every sentence on findings comes from the report's own inference; nothing is typed by hand, so that the
page can be made again from any sweep. Run twice, the sweep trains nothing and the page is the same.
"""

import argparse
import shutil
from importlib.resources import files
from pathlib import Path

from pipeline.report import charts
from pipeline.report.gather import gather
from pipeline.report.model import is_kan
from pipeline.report.provenance import provenance
from pipeline.report.svg import family_style
from pipeline.report.verdict import conclude, interval, signed

ABOUT = (
    "A task's name ends in `.siamese` where its two sentences were encoded apart, in `.limit4000` where only so many "
    "training rows were encoded. Every family has the same rates to choose from on its selection rows, the same seeds, "
    "and widths that match its parameters to the others'. How differences are judged: [decisions](decisions.md)."
)
#: What is not the same as in the first verdict, whatever came out.
CHANGED = (
    "One interval for new seeds and new rows decides, in the task's own metric. The first verdict asked two tests, of "
    "which one counted accuracy whatever the metric, and its intervals counted the residual variance twice.",
    "Comparisons were planned: every family against `mlp` and `linear`, and the mean over tasks against `mlp`. The "
    "first verdict corrected over every pair of families and both tests.",
    "Output layers start at zero for every family, and `linear` is solved, not stepped. In the first verdict a convex "
    "problem depended on its start, and `mlp` began with outputs ten times as large as a KAN head's.",
    "Selection rows share no sentence with training rows. SST-2's training rows are phrases of one another: its "
    "selection scores were ten points above the reported ones.",
    "Rates down to 1e-4 are among those that every family tries; the first verdict began at 6e-4.",
)
#: What the papers claim of heads on frozen text embeddings, in points.
CLAIM = 0.10


def picture(path, frame):
    """One SVG that stands alone, with the report's colours."""
    style = files("pipeline.report").joinpath("template/style.css").read_text(encoding="utf-8")
    style = style.partition("@media (max-width")[0] + family_style()
    head, _, rest = str(frame.svg()).partition(">")
    size = f'width="{1.25 * frame.width:.0f}" height="{1.25 * frame.height:.0f}"'
    back = '<rect width="100%" height="100%" style="fill:var(--card)"/>'
    text = f'{head} {size} style="font-family:system-ui,sans-serif"><style>{style}</style>{back}{rest}\n'
    path.write_text(text, encoding="utf-8")


def table(header, rows):
    """A Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def score_table(findings):
    """Mean scores, a line a setting, a column a family."""
    rows = []
    for one in findings.settings:
        cells = []
        for family in findings.families:
            line = one.chosen.get(family)
            cells.append("" if line is None else f"{line.mean:.3f} ± {line.std or 0:.3f}")
        majority = one.guess("majority")
        first = [one.label, one.metric, f"{one.train_rows:,} / {one.rows:,}"]
        rows.append([*first, "" if majority is None else f"{majority:.3f}", *cells])
    header = ["task", "metric", "training / reported rows", "majority", *(f"`{name}`" for name in findings.families)]
    return table(header, rows)


def difference_table(findings, baseline):
    """Differences from one baseline with their intervals, bold where found."""
    families = [name for name in findings.families if name != baseline]
    rows = []
    for one in findings.settings:
        cells = {}
        for contrast in one.contrasts:
            if baseline in (contrast.first, contrast.second):
                gap = contrast.above(contrast.other(baseline))
                mark = {"found": "**", "equivalent": "="}.get(gap.word(findings.margin), "")
                cells[contrast.other(baseline)] = f"{mark}{interval(gap)}{mark if mark == '**' else ''}"
        rows.append([one.label, *(cells.get(name, "") for name in families)])
    return table(["task", *(f"`{name}`" for name in families)], rows)


def means(findings):
    """The means over tasks, in words."""
    return [
        f"- {one.first} − {one.second}: {interval(one.estimate)} over {len(one.tasks)} tasks: "
        f"{one.estimate.word(findings.margin)}"
        for one in findings.contrasts.means
    ]


def against_papers(findings):
    """What the sweep says of a gain of ten points, and of MLPs that win."""
    gaps = [
        (one.above(one.other("mlp")), f"`{one.other('mlp')}` on {setting.label}")
        for setting in findings.settings
        for one in setting.contrasts
        if "mlp" in (one.first, one.second) and is_kan(one.other("mlp"))
    ]
    if not gaps:
        return ["The sweep holds no pair of a KAN head and `mlp`, so it says nothing about the papers."]
    largest, where = max(gaps, key=lambda row: row[0].value)
    excluded = sum(gap.high < CLAIM for gap, _ in gaps)
    gains, losses = ([f"{where} ({signed(gap.value)})" for gap, where in gaps if gap.found and (gap.value > 0) is up]
                     for up in (True, False))  # fmt: skip
    return [
        "- *A KAN head gains ten points over an MLP head* (FR-KAN, arXiv 2408.08803, on other tasks and encoders): the "
        f"largest gain here is {signed(largest.value)} points, {where}. A gain of ten points is excluded in {excluded} "
        f"of {len(gaps)} pairs of a KAN family and `mlp`, for all comparisons together. KAN heads found to beat `mlp`: "
        f"{', '.join(gains) or 'none'}.",
        "- *MLPs win on text at equal size* (KANbeFair, arXiv 2407.16674, which trained whole networks): `mlp` was "
        f"found to beat {', '.join(losses) or 'no KAN head'}.",
        "- Nothing here is about fine-tuned encoders, other encoders or tasks than those above, larger heads, or a "
        "longer search.",
    ]


def write_page(results, out, cache="cache", margin=2.0):
    """Write the page and its pictures; returns the verdict."""
    findings = gather(Path(results), Path(cache), margin=margin)
    verdict, made = conclude(findings), provenance(findings)
    seeds = sorted({line.n + line.diverged for line in findings.lines})
    tasks, encoders = ({getattr(one, name) for one in findings.settings} for name in ("task", "encoder"))
    folder = out.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pictures = []
    for baseline in findings.contrasts.baselines[:1]:
        frame = charts.differences(
            findings.contrasts.means, baseline, findings.margin, f"Mean differences from {baseline} over tasks", "score"
        )
        if frame is not None:
            picture(folder / f"means-{baseline}.svg", frame)
            pictures.append(f"![{frame.title}]({folder.name}/means-{baseline}.svg)")
    counted = " to ".join(dict.fromkeys(str(count) for count in (seeds[0], seeds[-1])))
    lines = [
        "# The project's own verdict", "", f"**{verdict.headline}**", "",
        f"{findings.heads:,} heads: {len(findings.families)} families on {len(tasks)} tasks and {len(encoders)} "
        f"encoder{'s' * (len(encoders) > 1)} ({', '.join(sorted(encoders))}), {counted} seeds each. {ABOUT}",
        "", *pictures, "", *means(findings),
        "", "## Task by task", "", *(f"- **{label}**: {sentence}" for label, sentence in verdict.sentences),
        "", "## What it cannot say", "", *(f"- {reason}" for reason in verdict.cannot),
        "", "## Scores", "", "Means and standard deviations over seeds, of the rate that the selection rows chose.",
        "", *score_table(findings),
    ]  # fmt: skip
    for baseline in findings.contrasts.baselines:
        lines += [
            "", f"## Differences from `{baseline}`", "",
            f"Points, with intervals over new seeds and new rows that hold for all {len(findings.contrasts.planned)} "
            f"planned comparisons together (95%). Bold: found. After =: equivalent within {margin:g}. Else open.",
            "", *difference_table(findings, baseline),
        ]  # fmt: skip
    lines += [
        "", "## Beside the papers", "", *against_papers(findings),
        "", "## What changed since the first verdict", "", *(f"- {change}" for change in CHANGED),
        "", "## How it was made", "",
        "The commands stand in `benchmarks/verdict.py`; the sweep is `benchmarks/verdict.toml`.", "",
        *(f"- {run['heads']:,} heads on {run['device']}: {run['versions']}; {run['seconds']:,.0f} s of training, "
          f"{run['first']} to {run['last']}" for run in made.runs),
        *(f"- `{row['task']}`: encoder {row['encoder']}, {row['train']:,} training rows, cache "
          f"{row['fingerprint'][:16]}" for row in made.caches),
    ]  # fmt: skip
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", help="a results database")
    parser.add_argument("--out", type=Path, default=Path("docs/verdict.md"), help="the page; pictures beside it")
    parser.add_argument("--margin", type=float, default=2.0, help="points that count as no difference")
    given = parser.parse_args()
    print(write_page(given.results, given.out, margin=given.margin).headline)


if __name__ == "__main__":
    main()
