"""The project's own verdict: docs/verdict.md with its tables and pictures, from a results database.

    python benchmarks/verdict.py RESULTS [--cache DIR] [--sweep benchmarks/verdict.toml] [--out docs/verdict.md]
        [--apart RESULTS] [--apart-sweep benchmarks/verdict_apart.toml]

Every number and every sentence on findings comes from the report's own statistics; nothing is typed by hand, so the
page can be made again from any sweep. What the sweep was is read from the database as well.
"""

import argparse
import re
import shutil
from importlib.resources import files
from pathlib import Path

from pipeline.report import charts, row_charts
from pipeline.report.gather import gather
from pipeline.report.model import is_kan
from pipeline.report.provenance import provenance
from pipeline.report.verdict import conclude, points

PICTURES = {
    "scores": charts.scores, "differences": charts.differences,
    "parameters": lambda place: charts.cost(place, "parameters"), "calibration": row_charts.calibration,
}  # fmt: skip
ABOUT = (
    "A task's name ends in `.siamese` where its two sentences were encoded apart. Two tests stand behind a difference, "
    "one over seeds and one over rows, corrected together for everything compared here "
    "([decisions](decisions.md), *The report*)."
)
PICTURES_SHOW = (
    "Each point is a head; bars in the pictures of differences hold for new seeds and new rows, for all comparisons at "
    "once; a filled mark is a difference that both tests find. `fit_heads.py report` has more of them, and texts."
)
APART = (
    "pykan's networks cost too much at the encoder's full width, so they stand by themselves: features folded to "
    "eight (`reduced`), five hidden units, and beside them what matches their 500 parameters within 2%; every family "
    "with its default configuration alone."
)
#: What the papers claim of heads on frozen text embeddings, in points; who says so.
CLAIM = 10.0


def style():
    """The report's style sheet without what is for printing, for a picture that stands alone."""
    text = files("pipeline.report").joinpath("template/style.css").read_text(encoding="utf-8")
    return text.partition("@media (max-width")[0]


def write_picture(path, frame):
    svg = str(frame.svg())
    head, _, rest = svg.partition(">")
    size = (
        f' width="{1.25 * frame.width:.0f}" height="{1.25 * frame.height:.0f}" style="font-family:system-ui,sans-serif"'
    )
    back = '<rect width="100%" height="100%" style="fill:var(--card)"/>'
    path.write_text(f"{head}{size}><style>{style()}</style>{back}{rest}\n", encoding="utf-8")


def slug(label):
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def score_table(findings):
    places = [place for place in findings.places if place.chosen]
    lines = [
        "| family | parameters | " + " | ".join(place.label for place in places) + " |",
        "|---|---|" + "---|" * len(places),
        "| metric | | " + " | ".join(place.metric for place in places) + " |",
        "| reported rows | | " + " | ".join(f"{place.rows:,}" for place in places) + " |",
        "| always the majority class | | "
        + " | ".join("" if place.majority is None else f"{place.majority:.4f}" for place in places) + " |",
    ]  # fmt: skip
    for family in findings.families:
        mine = [place.chosen.get(family) for place in places]
        sizes = sorted({line.parameters for line in mine if line is not None})
        size = "" if not sizes else f"{sizes[0]:,}" + (f" to {sizes[-1]:,}" if len(sizes) > 1 else "")
        cells = ["" if line is None else f"{line.mean:.4f} ± {line.std or 0:.4f} ({line.n})" for line in mine]
        lines.append(f"| `{family}` | {size} | " + " | ".join(cells) + " |")
    return lines


def found_table(findings):
    found = [(place, one) for place in findings.places for one in place.comparisons if one.found]
    if not found:
        return ["No difference between any two families was found by both tests."]
    lines = [
        "| task | above | below | points | 95% interval | seeds: p, d | rows: p, only above right : only below right |",
        "|---|---|---|---|---|---|---|",
    ]
    for place, one in found:
        up = one.difference > 0
        low, high = (one.low, one.high) if up else (-one.high, -one.low)
        wins, losses = (one.wins, one.losses) if up else (one.losses, one.wins)
        above, below = (one.first, one.second) if up else (one.second, one.first)
        lines.append(
            f"| {place.label} | `{above}` | `{below}` | {abs(100 * one.difference):.1f} | {100 * low:.1f} to "
            f"{100 * high:.1f} | {one.q_seeds:.2g}, {abs(one.effect):.1f} | {one.q_rows:.2g}, {wins} : {losses} |"
        )
    return lines


def against_papers(findings):
    """What the sweep says of a gain of ten points, and of MLPs that win."""
    gains, losses, bounds, largest = [], [], [], None
    for place in findings.places:
        for one in place.comparisons:
            if "mlp" not in (one.first, one.second):
                continue
            kan, sign = (one.first, 1) if one.second == "mlp" else (one.second, -1)
            if not is_kan(kan):
                continue
            gap, top = 100 * sign * one.difference, 100 * (one.high if sign > 0 else -one.low)
            where = f"`{kan}` on {place.label} ({gap:+.1f} points)"
            largest = max(largest or (gap, where), (gap, where))
            if top == top:
                bounds.append((top, where))
            if one.found:
                (gains if gap > 0 else losses).append(where)
    if largest is None:
        return ["The sweep holds no pair of a KAN head and an MLP head, so it says nothing about the papers."]
    excluded = [where for top, where in bounds if top < CLAIM]
    return [
        "- *A KAN head gains ten points over an MLP head* (FR-KAN, arXiv 2408.08803, on other tasks and encoders): "
        f"the largest gain here is {largest[1]}. A gain of {CLAIM:.0f} points is excluded, at 95% for all comparisons "
        f"together, in {len(excluded)} of {len(bounds)} pairs of a KAN family and `mlp`."
        + (f" KAN heads that beat `mlp`: {', '.join(gains)}." if gains else " No KAN head was found to beat `mlp`."),
        "- *MLPs win on text at equal size* (KANbeFair, arXiv 2407.16674, which trained whole networks): "
        + (f"`mlp` was found to beat {', '.join(losses)}." if losses else "`mlp` was not found to beat any KAN head."),
        "- Nothing here is about fine-tuned encoders, other encoders than those above, other tasks, larger heads, or "
        "search beyond the configurations listed below.",
    ]


def untrained(findings):
    """Families that a place of the sweep lacks."""
    gaps = {
        place.label: [f"`{family}`" for family in findings.families if family not in place.chosen]
        for place in findings.places
    }
    return [f"Not trained on {label}: {', '.join(missing)}." for label, missing in gaps.items() if missing]


def pictures(findings, folder, names, prefix=""):
    """Markdown lines of the pictures of every place, which are written to the folder."""
    lines = []
    for place in findings.places:
        lines += ["", f"### {place.label}{', apart' if prefix else ''}", ""]
        for name in names:
            frame = PICTURES[name](place)
            if frame is not None:
                path = folder / f"{prefix}{slug(place.label)}-{name}.svg"
                write_picture(path, frame)
                lines.append(f"![{frame.title}]({folder.name}/{path.name})")
    return lines


def ranks(findings, folder):
    lines = []
    for name, ranking in findings.rankings.items():
        lines += [
            "",
            f"### Ranks over tasks ({name})",
            "",
            ranking.sentence,
            "",
            ", ".join(f"{family} {rank:.1f}" for family, rank in zip(ranking.names, ranking.ranks, strict=True)),
        ]
        if ranking.enough:
            path = folder / f"ranks-{slug(name)}.svg"
            write_picture(path, charts.critical_difference(ranking))
            lines += ["", f"![Critical difference]({folder.name}/{path.name})"]
    return lines


def counted(findings):
    seeds = sorted({line.n + line.diverged for line in findings.lines})
    names = ", ".join(f"`{family}`" for family in findings.families)
    return (
        f"{findings.heads:,} heads: {len(findings.families)} families ({names}) on {len(findings.places)} tasks, "
        f"{seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''} seeds each."
    )


def says(findings, verdict, level="##"):
    """What was found, what cannot be said, and the tables."""
    marked = ", except where marked optimistic" if any(place.optimistic for place in findings.places) else ""
    return [
        f"{level} What it says", "",
        *(f"- **{label}**: {sentence}" for label, sentence in verdict.sentences),
        "", f"{level} What it cannot say", "", *(f"- {reason}" for reason in (*untrained(findings), *verdict.cannot)),
        "", f"{level} Scores", "",
        "Validation split, mean and standard deviation over seeds (their number); epochs were chosen on a held-out "
        f"tenth of the training rows{marked}.",
        "", *score_table(findings), "", f"{level} Differences that both tests find", "", *found_table(findings),
    ]  # fmt: skip


def trained(made):
    return [f"- {row['heads']:,} heads on {row['device']}: {row['versions']}; {row['seconds']:,.0f} s of training, "
            f"{row['first']} to {row['last']}" for row in made.runs]  # fmt: skip


def write_page(results, cache, out, sweep=None, apart=None, apart_sweep=None):
    findings = gather(Path(results), Path(cache))
    verdict, made = conclude(findings), provenance(findings)
    folder = out.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = [
        "# The project's own verdict", "", f"**{verdict.headline}**", "", f"{counted(findings)} {ABOUT}", "",
        *says(findings, verdict), "", "## Beside the papers", "", *against_papers(findings),
    ]  # fmt: skip
    commands = made.commands if sweep is None else [f"python fit_heads.py sweep {sweep}"]
    given, runs, more = Path(results).name, trained(made), []
    if apart is not None:
        others = gather(Path(apart), Path(cache))
        opinion, made_apart = conclude(others), provenance(others)
        lines += [
            "", "## Apart: pykan's `kan`, on reduced features", "", APART, "", f"**{opinion.headline}**", "",
            counted(others), "", *says(others, opinion, "###"),
        ]  # fmt: skip
        commands += made_apart.commands if apart_sweep is None else [f"python fit_heads.py sweep {apart_sweep}"]
        given += f" --apart {Path(apart).name}"
        runs += trained(made_apart)
        more = pictures(others, folder, ("scores", "differences"), "apart-")
    lines += ["", "## Pictures", "", PICTURES_SHOW, *pictures(findings, folder, PICTURES), *ranks(findings, folder)]
    lines += [
        *more,
        "",
        "## How it was made",
        "",
        "```sh",
        *commands,
        f"python benchmarks/verdict.py {given}",
        "```",
        "",
    ]
    lines += runs
    lines += [
        f"- `{row['task']}`: encoder {row['encoder']}, {row['train']:,} training rows, cache {row['fingerprint'][:16]}"
        for row in made.caches
    ]
    seen = [one.visible for one in findings.comparisons if one.visible == one.visible]
    if seen:
        lines += ["", f"The smallest differences that could have been seen (80% power, all comparisons together) lie "
                  f"between {points(min(seen))} and {points(max(seen))}, depending on task and pair."]  # fmt: skip
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", help="a results database")
    parser.add_argument("--cache", default="cache", help="folder of caches")
    parser.add_argument("--out", type=Path, default=Path("docs/verdict.md"), help="the page; pictures beside it")
    parser.add_argument("--sweep", help="the file that says what was swept, to be named instead of every product")
    parser.add_argument("--apart", help="a results database for the section on pykan's network")
    parser.add_argument("--apart-sweep", help="the file that says what was swept there")
    given = parser.parse_args()
    found = write_page(given.results, given.cache, given.out, given.sweep, given.apart, given.apart_sweep)
    print(found.headline)


if __name__ == "__main__":
    main()
