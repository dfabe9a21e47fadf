"""The report as one HTML file that needs nothing else: no network, no other file."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.errors import ResultsError
from pipeline.report import charts, row_charts
from pipeline.report.activations import LearnedFunctions, learned_functions
from pipeline.report.contrasts import contrast_table
from pipeline.report.gather import MARGIN, gather
from pipeline.report.model import Compared, Findings, is_kan
from pipeline.report.provenance import DEFAULT_CACHE, provenance
from pipeline.report.svg import Frame, family_style
from pipeline.report.verdict import Verdict, conclude, signed
from pipeline.sweep.results import Results

__all__ = ["Report", "figures", "render", "write_report"]

#: Lines and comparisons that the page's tables hold; the rest is in `fit_heads.py table --csv` and `report --json`.
LINES, COMPARISONS = 1000, 1000
#: Settings whose pictures are shown; the tables have them all.
PICTURED = 24
#: How a page of ours begins: no other file is written over.
OPENING = b"<!doctype html>"


@dataclass(frozen=True)
class Report:
    """What was written (document of `fit_heads.py report --json`).

    `means` are the differences over tasks, `differences` those in each setting, `guesses` those from the majority class
    and from chance (`contrast_table`).
    """

    out: str
    bytes: int
    heads: int
    families: tuple[str, ...]
    settings: tuple[str, ...]
    baselines: tuple[str, ...]
    margin: float
    verdict: str
    sentences: dict[str, str]
    cannot: tuple[str, ...]
    means: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    guesses: list[dict[str, Any]]


def write_report(
    results: str | Path,
    out: str | Path,
    *,
    cache: str | Path = "cache",
    where: Mapping[str, Any] | None = None,
    baseline: Sequence[str] | None = None,
    margin: float = MARGIN,
    all_pairs: bool = False,
) -> Report:
    """Read a results database and write the report to `out`, whole or not at all.

    `cache` is searched for texts of the tasks; `where` maps columns of `heads` to allowed values. Every family is held
    against each `baseline` (default: mlp and linear), or against every other one with `all_pairs`; differences within
    `margin` points count as none. Raises `ResultsError` for a file that is no results database, for a filter that no
    head passes, or for an `out` that cannot be written or is something else than a report.
    """
    out = Path(out)
    _check_replaceable(out)
    findings = gather(Path(results), Path(cache), where, baselines=baseline, margin=margin, every_pair=all_pairs)
    if where and not findings.heads:
        raise ResultsError(
            f"{results}: expected heads that pass the filters, found none; {out} is left as it is. See fit_heads.py "
            "table for what there is"
        )
    verdict = conclude(findings)
    page = render(findings, verdict, Path(cache)).encode()
    work = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work.write_bytes(page)
        work.replace(out)
    except OSError as error:
        work.unlink(missing_ok=True)
        reason = error.strerror or error
        raise ResultsError(f"{out}: expected to write a report ({reason}); name another file with `out`") from error
    contrasts = findings.contrasts
    labels = {one.key: one.label for one in findings.settings}
    return Report(
        str(out), len(page), findings.heads, findings.families, tuple(labels.values()), contrasts.baselines, margin,
        verdict.headline, dict(verdict.sentences), tuple(verdict.cannot),
        *(contrast_table(some, labels, findings.margin)
          for some in (contrasts.means, contrasts.planned, contrasts.guesses)),
    )  # fmt: skip


def _check_replaceable(out: Path) -> None:
    """Raise `ResultsError` where `out` is a file that is not a page."""
    try:
        with out.open("rb") as file:
            start = file.read(len(OPENING))
    except OSError:  # not there, or a folder, or closed to us: writing will tell
        return
    if start and start.lower() != OPENING:
        raise ResultsError(f"{out}: expected a page that may be replaced, found another file; name another with `out`")


def render(findings: Findings, verdict: Verdict, cache: Path = DEFAULT_CACHE) -> str:
    """The page; `cache` is the folder that its commands name."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "template"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"number": _number, "count": lambda value: f"{value:,}", "p": _p, "signed": signed,
                            "share": _share}  # fmt: skip
    source = environment.loader.get_source
    by_line = {id(line): (one, family) for one in findings.settings for family, line in one.chosen.items()}
    lines = sorted(findings.lines, key=lambda line: (line.place, line.train_rows, -(line.mean or 0)))[:LINES]
    labels = {one.key: one.label for one in findings.settings}
    contrasts = [*findings.contrasts.means, *findings.contrasts.planned]
    return environment.get_template("report.html").render(
        findings=findings,
        verdict=verdict,
        sections=figures(findings),
        legend=[(name, Markup(mark)) for name, mark in charts.families_of(findings)],
        lines=[(line, labels.get((*line.place, line.train_rows), line.task), *_beside(by_line.get(id(line))))
               for line in lines],
        variants=any(line.variant for line in findings.lines),
        covered=any(one.coverage for one in findings.settings),
        contrasts=[
            (labels.get(one.setting, f"mean of {len(one.tasks)} tasks"), one) for one in contrasts[:COMPARISONS]
        ],
        guesses=[(labels[one.setting], one) for one in findings.contrasts.guesses[:COMPARISONS]],
        more=max(len(contrasts) - COMPARISONS, 0),
        disagreement=row_charts.disagreement,
        made=provenance(findings, cache),
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(source(environment, "style.css")[0] + family_style()),  # ours, not data
        script=Markup(source(environment, "script.js")[0]),
    )  # fmt: skip


def _beside(found: tuple[Compared, str] | None) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Interval and coverage of a line that stands for its family; nothing of others."""
    if found is None:
        return None, None
    one, family = found
    return charts.interval_of(one, family), one.coverage.get(family)


def figures(findings: Findings) -> dict[str, list[tuple[str, Markup]]]:
    """Pictures by section: (caption, SVG)."""
    settings = findings.settings[:PICTURED]
    baselines, margin = findings.contrasts.baselines, findings.margin

    def each(draw: Callable[[Compared], Frame | None]) -> list[tuple[str, Markup]]:
        drawn = [(one.label, draw(one)) for one in settings]
        return [(label, frame.svg()) for label, frame in drawn if frame is not None]

    def against(baseline: str, one: Compared) -> Frame | None:
        title = f"Differences from {baseline} on {one.label}"
        return charts.differences(one.contrasts, baseline, margin, title, one.metric)

    means = [
        (f"{baseline}, mean over tasks",
         charts.differences(findings.contrasts.means, baseline, margin, f"Mean differences from {baseline}", "score"))
        for baseline in baselines[:1]
    ]  # fmt: skip
    ranked = {name: one for name, one in findings.rankings.items() if one.enough}
    return {
        "means": [(label, frame.svg()) for label, frame in means if frame is not None],
        "scores": each(charts.scores),
        "differences": [
            (f"{label}, against {baseline}", picture)
            for baseline in baselines
            for label, picture in each(lambda one, baseline=baseline: against(baseline, one))
        ],
        "ranks": [(name, charts.critical_difference(one).svg()) for name, one in ranked.items()],
        "rows": _by_rows(settings),
        "parameters": each(lambda one: charts.cost(one, "parameters")),
        "flops": each(lambda one: charts.cost(one, "flops")),
        "seconds": each(charts.seconds),
        "learning": each(lambda one: charts.learning(one, loss=False)),
        "losses": each(lambda one: charts.learning(one, loss=True)),
        "functions": _functions(findings),
        "calibration": each(row_charts.calibration),
        "confusion": each(row_charts.confusion) + each(row_charts.predictions),
    }


def _by_rows(settings: Sequence[Compared]) -> list[tuple[str, Markup]]:
    """Learning curves of settings that differ by their training rows alone."""
    groups: dict[tuple[Any, ...], list[Compared]] = {}
    for one in settings:
        groups.setdefault(one.key[:-1], []).append(one)
    several = [mine for mine in groups.values() if len(mine) > 1]
    return [
        (mine[0].cache, charts.by_rows(mine, f"Score against training rows on {mine[0].cache}").svg())
        for mine in several
    ]


def _functions(findings: Findings) -> list[tuple[str, Markup]]:
    """Learned functions of the best head (on its selection rows) of each KAN family, where heads learn most."""
    drawn = []
    for family in findings.families:
        settings = [one for one in findings.settings if family in one.chosen]
        if not (is_kan(family) or family == "bspline_mlp") or not settings:
            continue
        one = max(settings, key=lambda one: one.chosen[family].mean - (one.guess("majority") or 0.0))
        head = _best_head(findings.path, one.chosen[family].ids, one.metric)
        learned = learned_functions(findings.path, head, one.label)
        if isinstance(learned, LearnedFunctions):
            caption = f"{family} on {one.label}: functions {learned.note}"
            drawn.append((caption, row_charts.functions(learned).svg()))
        else:
            drawn.append((f"{family} on {one.label}: {learned}", Markup("")))
    return drawn


def _best_head(path: Path, ids: tuple[str, ...], metric: str) -> str:
    from pipeline.metrics import metric_value

    with Results(path) as store:
        heads = store.heads({"id": ids[:500]})
    return max(heads, key=lambda head: metric_value(head["selection"], metric) if head["selection"] else 0.0)["id"]


def _number(value: float | None, places: int = 4) -> str:
    return "–" if value is None or value != value else f"{value:.{places}f}".replace("-", "−")


def _share(value: float) -> str:
    return f"{100 * value:.0f}%"


def _p(value: float) -> str:
    return "–" if value != value else "< 0.001" if value < 0.001 else f"{value:.3f}"
