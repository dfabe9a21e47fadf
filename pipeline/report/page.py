"""The report as one HTML file that needs nothing else: no network, no other file."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.errors import ResultsError
from pipeline.report import charts, row_charts
from pipeline.report.activations import LearnedFunctions, learned_functions
from pipeline.report.gather import gather
from pipeline.report.model import Findings, Place, is_kan
from pipeline.report.provenance import provenance
from pipeline.report.statistics import Comparison, Sample, equivalence
from pipeline.report.svg import Frame
from pipeline.report.verdict import Verdict, conclude
from pipeline.sweep.results import Results

__all__ = ["Report", "figures", "render", "write_report"]

#: Lines and comparisons that the page's tables hold; the rest is in `fit_heads.py table --csv`.
LINES, COMPARISONS = 1000, 1000
#: Places whose pictures are shown; the tables have them all.
PLACES = 24


@dataclass(frozen=True)
class Report:
    """What was written (document of `fit_heads.py report --json`)."""

    out: str
    bytes: int
    heads: int
    families: tuple[str, ...]
    places: tuple[str, ...]
    verdict: str
    sentences: dict[str, str]
    cannot: tuple[str, ...]


def write_report(
    results: str | Path, out: str | Path, *, cache: str | Path = "cache", where: Mapping[str, Any] | None = None
) -> Report:
    """Read a results database and write the report to `out`, whole or not at all.

    `cache` is searched for texts (and labels, where the results lack them) of the tasks; `where` maps columns of
    `heads` to allowed values. Raises `ResultsError` for a file that is no results database or a place that cannot be
    written.
    """
    if Path(out).is_file():
        with Path(out).open("rb") as there:
            if not there.read(1000).lstrip().lower().startswith(b"<!doctype html>"):
                raise ResultsError(f"{out}: expected a new file or a page to replace, found another file; name another")
    findings = gather(Path(results), Path(cache), where)
    verdict = conclude(findings)
    page, out = render(findings, verdict).encode(), Path(out)
    work = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work.write_bytes(page)
        work.replace(out)
    except OSError as error:
        work.unlink(missing_ok=True)
        reason = error.strerror or error
        raise ResultsError(f"{out}: expected to write a report ({reason}); name another file with --out") from error
    return Report(
        str(out), len(page), findings.heads, findings.families, tuple(place.label for place in findings.places),
        verdict.headline, dict(verdict.sentences), tuple(verdict.cannot),
    )  # fmt: skip


def render(findings: Findings, verdict: Verdict) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "template"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"number": _number, "count": lambda value: f"{value:,}", "p": _p, "signed": _signed}
    source = environment.loader.get_source
    return environment.get_template("report.html").render(
        findings=findings,
        verdict=verdict,
        sections=figures(findings),
        legend=[(name, Markup(mark)) for name, mark in charts.families_of(findings)],
        lines=sorted(findings.lines, key=lambda line: (line.place, -(line.mean or 0)))[:LINES],
        labels={place.key: place.label for place in findings.places},
        variants=any(line.variant for line in findings.lines),
        comparisons=[(place, one, _within(place, one)) for place in findings.places for one in place.comparisons][
            :COMPARISONS
        ],
        disagreement=row_charts.disagreement,
        made=provenance(findings),
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(source(environment, "style.css")[0]),  # ours, not data
        script=Markup(source(environment, "script.js")[0]),
    )


def _within(place: Place, one: Comparison) -> float:
    first, second = (place.chosen[name] for name in (one.first, one.second))
    return equivalence(*(Sample(line.head, line.seeds, line.scores) for line in (first, second)))


def figures(findings: Findings) -> dict[str, list[tuple[str, Markup]]]:
    """Pictures by section: (caption, SVG)."""
    places = findings.places[:PLACES]

    def each(draw: Callable[[Place], Frame | None]) -> list[tuple[str, Markup]]:
        drawn = [(place.label, draw(place)) for place in places]
        return [(label, frame.svg()) for label, frame in drawn if frame is not None]

    ranked = {name: one for name, one in findings.rankings.items() if one.enough}
    return {
        "scores": each(charts.scores),
        "differences": each(charts.differences),
        "ranks": [(name, charts.critical_difference(one).svg()) for name, one in ranked.items()],
        "parameters": each(lambda place: charts.cost(place, "parameters")),
        "flops": each(lambda place: charts.cost(place, "flops")),
        "seconds": each(charts.seconds),
        "learning": each(lambda place: charts.learning(place, loss=False)),
        "losses": each(lambda place: charts.learning(place, loss=True)),
        "functions": _functions(findings),
        "calibration": each(row_charts.calibration),
        "confusion": each(row_charts.confusion) + each(row_charts.predictions),
    }


def _functions(findings: Findings) -> list[tuple[str, Markup]]:
    """Learned functions of the best head (on its selection rows) of each KAN family, where heads learn most."""
    found = []
    for family in findings.families:
        places = [place for place in findings.places if family in place.chosen]
        if not (is_kan(family) or family == "bspline_mlp") or not places:
            continue
        place = max(places, key=lambda place: place.chosen[family].mean - (place.majority or 0.0))
        head = _best_head(findings.path, place.chosen[family].ids, place.metric)
        learned = learned_functions(findings.path, head, place.label)
        if isinstance(learned, LearnedFunctions):
            caption = f"{family} on {place.label}: functions {learned.note}"
            found.append((caption, row_charts.functions(learned).svg()))
        else:
            found.append((f"{family} on {place.label}: {learned}", Markup("")))
    return found


def _best_head(path: Path, ids: tuple[str, ...], metric: str) -> str:
    from pipeline.metrics import metric_value

    with Results(path) as store:
        heads = store.heads({"id": ids[:500]})
    return max(heads, key=lambda head: metric_value(head["selection"], metric) if head["selection"] else 0.0)["id"]


def _number(value: float | None, places: int = 4) -> str:
    return "–" if value is None or value != value else f"{value:.{places}f}".replace("-", "−")


def _signed(value: float) -> str:
    return "–" if value != value else f"{100 * value:+.1f}".replace("-", "−")


def _p(value: float) -> str:
    if value != value:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
