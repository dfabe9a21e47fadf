"""The report's pictures of scores, costs and training, one for each setting (a task, encoder, feature and protocol)."""

import math
from collections.abc import Sequence

import numpy as np

from pipeline.metrics import METRICS
from pipeline.report.contrasts import Contrast
from pipeline.report.model import Compared, Findings
from pipeline.report.ranks import Ranking
from pipeline.report.svg import Frame, Scale, label_of, marker, slot, text, thin
from pipeline.report.verdict import interval
from pipeline.sweep.table import Line

__all__ = ["by_rows", "cost", "critical_difference", "differences", "interval_of", "learning", "scores", "seconds"]

#: Marks drawn for one family in one picture; of more, an even selection by rank.
SEEDS, CONFIGURATIONS = 60, 240
#: Families up to which bands beside their curves can be told apart.
BANDS = 5
_GUTTER, _ROW = 90.0, 24.0


def _spread(index: int) -> float:
    """A fixed jitter in [-1, 1] for the index-th point: the golden ratio's sequence, which fills evenly."""
    return 2 * (index * 0.6180339887 % 1) - 1


def _sample(line: Line, values: tuple[float, ...]) -> list[tuple[int, float]]:
    """(seed, value) of at most `SEEDS` heads, over the whole range of values."""
    return thin(sorted(zip(line.seeds, values, strict=True), key=lambda pair: pair[1]), SEEDS)


def _rows_of(frame: Frame, families: list[str]) -> dict[str, float]:
    """A row for each family: its height, its name on the left."""
    places = {}
    for index, family in enumerate(families):
        y = frame.top + _ROW * (index + 0.5)
        frame.add(text(_GUTTER - 8, y + 3.5, family, "l", "end"))
        places[family] = y
    return places


def scores(setting: Compared) -> Frame:
    """Every seed a point, the mean and its 95% interval; lines for the majority class and for chance."""
    families = sorted(setting.chosen, key=lambda name: -setting.chosen[name].mean)
    frame = Frame(_ROW * len(families) + 64, f"Scores on {setting.label}", (_GUTTER, 28, 14, 36))
    lines = setting.chosen.values()
    ends = {family: interval_of(setting, family) for family in families}
    values = [v for line in lines for v in line.scores] + [v for pair in ends.values() if pair for v in pair]
    span = max(max(values) - min(values), 0.02)
    marks = {name: setting.guess(name) for name in ("majority", "chance")}
    near = [v for v in marks.values() if v is not None and min(values) - span <= v <= max(values) + span]
    x = Scale.over([*values, *near], frame.left, frame.right)
    frame.x_axis(x, setting.metric)
    outside: list[str] = []
    same = None not in marks.values() and abs(marks["majority"] - marks["chance"]) < 0.01 * (x.high - x.low)
    for name, value in marks.items():
        if value is None or (same and name == "chance"):
            continue
        if not x.low <= value <= x.high:
            outside.append(f"{name} {value:.3f}")
            continue
        frame.line(x(value), frame.top - 3, x(value), frame.bottom, f"base {name}")
        # Of two lines, the left one has its name on the left.
        left = x(value) > frame.right - 50 or any(other is not None and other > value for other in marks.values())
        said = "chance, majority" if same else name
        frame.add(text(x(value) + (-3 if left else 3), frame.top - 6, said, "b", "end" if left else "start"))
    if outside:
        alone = len(outside) == sum(value is not None for value in marks.values())
        frame.add(text(frame.left, frame.top - (6 if alone else 17), "off the scale: " + ", ".join(outside), "b"))
    for family, y in _rows_of(frame, families).items():
        line = setting.chosen[family]
        for index, (seed, score) in enumerate(_sample(line, line.scores)):
            frame.add(marker(family, x(score), y + 6 * _spread(index), 2.3, f"{family}, seed {seed}: {score:.4f}", "p"))
        if ends[family]:
            frame.line(x(ends[family][0]), y, x(ends[family][1]), y, "ci")
        frame.line(x(line.mean), y - 8, x(line.mean), y + 8, "mean")
    return frame


def interval_of(setting: Compared, family: str) -> tuple[float, float] | None:
    """The 95% interval of a family's score over new seeds and rows, within what the metric can be."""
    alone, metric = setting.intervals.get(family), METRICS[setting.metric]
    if alone is None or math.isnan(alone.low):
        return None
    low, high = (alone.low, alone.high) if metric.higher_is_better else (-alone.high, -alone.low)
    return max(low, metric.lowest), min(high, metric.highest)


def differences(contrasts: Sequence[Contrast], baseline: str, margin: float, title: str, unit: str) -> Frame | None:
    """Each family minus the baseline with its interval: filled where found; the band is the margin."""
    shown = [
        (one.other(baseline), one.above(one.other(baseline)))
        for one in contrasts if baseline in (one.first, one.second)
    ]  # fmt: skip
    if not shown:
        return None
    shown.sort(key=lambda row: -row[1].value)
    frame = Frame(_ROW * len(shown) + 44, title, (_GUTTER, 8, 14, 36))
    edges = [0.0, *(100 * end for _, gap in shown for end in (gap.value, gap.low, gap.high) if math.isfinite(end))]
    x = Scale.over(edges, frame.left, frame.right)
    low, high = (min(max(x(100 * end), frame.left), frame.right) for end in (-margin, margin))
    frame.add(
        f'<rect x="{low:.1f}" y="{frame.top:.1f}" width="{high - low:.1f}" height="{frame.bottom - frame.top:.1f}" '
        'class="margin"/>'
    )
    frame.x_axis(x, f"points of {unit} above {baseline}")
    frame.line(x(0), frame.top, x(0), frame.bottom, "zero")
    rows = _rows_of(frame, [row[0] for row in shown])
    for family, gap in shown:
        y = rows[family]
        if math.isfinite(gap.low):
            frame.line(x(100 * gap.low), y, x(100 * gap.high), y, f"range f{slot(family)}")
        said = f"{family} - {baseline}: {interval(gap)} points, {gap.word(margin)}"
        frame.add(marker(family, x(100 * gap.value), y, 4.5, said, "m" if gap.found else "m open"))
    return frame


def by_rows(settings: Sequence[Compared], title: str) -> Frame:
    """Mean score with its 95% interval against the number of training rows, settings that differ in nothing else."""
    frame = Frame(240, title, (46, 22, 12, 36))
    spots: dict[str, list[tuple[int, float, tuple[float, float] | None]]] = {}
    for setting in settings:
        for family, line in setting.chosen.items():
            spots.setdefault(family, []).append((setting.train_rows, line.mean, interval_of(setting, family)))
    x = Scale.over([setting.train_rows for setting in settings], frame.left, frame.right, log=True)
    y = Scale.over([v for mine in spots.values() for _, mean, ends in mine for v in (mean, *(ends or ()))],
                   frame.bottom, frame.top)  # fmt: skip
    frame.x_axis(x, "training rows (logarithmic)", 4)
    frame.y_axis(y, settings[0].metric)
    for index, (family, mine) in enumerate(spots.items()):
        shift = 3 * (index - (len(spots) - 1) / 2)  # beside one another, or intervals would hide one another
        points = [(x(rows) + shift, mean, ends) for rows, mean, ends in sorted(mine)]
        frame.path([(at, y(mean)) for at, mean, _ in points], f"curve f{slot(family)}")
        for (at, mean, ends), (rows, *_) in zip(points, sorted(mine), strict=True):
            if ends:
                frame.line(at, y(ends[0]), at, y(ends[1]), f"range f{slot(family)}")
            frame.add(marker(family, at, y(mean), 3.2, f"{family}, {rows:,} rows: {mean:.4f}"))
    return frame


def _pareto(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both cost (less) and score (more), by cost."""
    front: list[tuple[float, float]] = []
    for price, score in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if not front or score > front[-1][1]:
            front.append((price, score))
    return front


def cost(setting: Compared, what: str) -> Frame:
    """Mean score against `parameters` or `flops`, one mark a configuration, and the Pareto front."""
    lines = [line for line in setting.lines if line.n]
    chosen = {id(line) for line in setting.chosen.values()}
    front = _pareto([(max(getattr(line, what), 1), line.mean) for line in lines])
    lines = thin([line for line in lines if id(line) not in chosen], CONFIGURATIONS) + list(setting.chosen.values())
    frame = Frame(240, f"Score against {what} on {setting.label}", (46, 22, 16, 36))
    x = Scale.over([max(getattr(line, what), 1) for line in lines], frame.left, frame.right, log=True)
    seeds = [(line, score) for line in setting.chosen.values() for _, score in thin(_sample(line, line.scores), 20)]
    y = Scale.over([*(line.mean for line in lines), *(score for _, score in seeds)], frame.bottom, frame.top)
    frame.x_axis(x, "parameters" if what == "parameters" else "FLOPs for one row, forward", 4)
    frame.y_axis(y, setting.metric)
    steps = [
        point for (a, b), (c, _) in zip(front, [*front[1:], (x.high, 0)], strict=True) for point in ((a, b), (c, b))
    ]
    frame.path([(x(a), y(b)) for a, b in steps], "front")
    for line, score in seeds:
        frame.add(marker(line.head, x(max(getattr(line, what), 1)), y(score), 1.7, kind="p"))
    for line in lines:
        price = max(getattr(line, what), 1)
        told = f"{line.head} {line.variant}: {line.mean:.4f} at {label_of(price)}"
        frame.add(marker(line.head, x(price), y(line.mean), 4.2 if id(line) in chosen else 2.6, told))
    return frame


def seconds(setting: Compared) -> Frame:
    """Time of every head, its share of its pack's."""
    families = list(setting.chosen)
    frame = Frame(_ROW * len(families) + 44, f"Time per head on {setting.label}", (_GUTTER, 8, 14, 36))
    times = {family: setting.chosen[family].seconds for family in families}
    x = Scale.over([max(t, 1e-6) for found in times.values() for t in found], frame.left, frame.right, log=True)
    frame.x_axis(x, "seconds a head (logarithmic)", 4)
    for family, y in _rows_of(frame, families).items():
        line = setting.chosen[family]
        for index, (seed, value) in enumerate(_sample(line, times[family])):
            told = f"{family}, seed {seed}: {value:.3g} s"
            frame.add(marker(family, x(max(value, 1e-6)), y + 6 * _spread(index), 2.3, told, "p"))
        middle = float(np.median(times[family]))
        frame.add(marker(family, x(max(middle, 1e-6)), y, 4.5, f"{family}: median {middle:.3g} s"))
    return frame


def learning(setting: Compared, loss: bool) -> Frame | None:
    """Mean over seeds after each epoch: the score on the selection rows, or the losses (training dashed)."""
    found = {family: curves for family, curves in setting.curves.items() if curves.shape[1] > 1}
    if not found:
        return None
    what = "loss" if loss else f"{setting.metric} on selection rows"
    frame = Frame(220, f"{'Losses' if loss else 'Selection score'} over epochs on {setting.label}", (46, 22, 12, 36))
    columns = ((0, "dash"), (1, "")) if loss else ((2, ""),)
    means: dict[tuple[str, int], np.ndarray] = {}
    for family, curves in found.items():
        for column, _ in columns:
            part = curves[:, :, column]
            if np.isfinite(part).any(0).all():
                means[family, column] = np.nanmean(part, 0)
    if not means:
        return None
    x = Scale(1, max(len(mean) for mean in means.values()), frame.left, frame.right)
    top = np.concatenate(list(means.values()))
    if loss:  # one run-away loss must not flatten the others
        top = np.minimum(top, 3 * np.median(top))
    y = Scale.over(list(map(float, top)), frame.bottom, frame.top)
    frame.x_axis(x, "epoch")
    frame.y_axis(y, what)
    for (family, column), mean in means.items():
        spots = thin(list(enumerate(mean, 1)), 100)
        if not loss and len(found[family]) > 1 and len(found) <= BANDS:
            spread = np.nanstd(found[family][:, :, column], 0)
            frame.band(
                [(x(e), _within(y(v - spread[e - 1]), frame), _within(y(v + spread[e - 1]), frame)) for e, v in spots],
                f"band f{slot(family)}",
            )
        kind = dict(columns)[column]
        frame.path([(x(e), _within(y(v), frame)) for e, v in spots], f"curve f{slot(family)} {kind}".strip())
    for (family, column), mean in means.items():
        if column != 0:
            frame.add(marker(family, x(len(mean)), _within(y(mean[-1]), frame), 3.2))
    return frame


def _within(y: float, frame: Frame) -> float:
    return min(max(y, frame.top), frame.bottom)


def critical_difference(ranking: Ranking) -> Frame:
    """Families along the axis of mean ranks; a bar joins those that Nemenyi's test does not tell apart."""
    k = len(ranking.names)
    half = (k + 1) // 2
    frame = Frame(62 + 12 * len(ranking.alike) + 20 * half, "Critical difference of mean ranks", (96, 40, 96, 10), 480)
    x = Scale(1, k, frame.left, frame.right)
    frame.line(x(1), 40, x(k), 40, "ci")
    for rank in range(1, k + 1):
        frame.line(x(rank), 35, x(rank), 40, "ci")
        frame.add(text(x(rank), 31, rank, "t", "middle"))
    width = min(x(1 + ranking.critical), frame.right) - x(1)
    frame.line(x(1), 14, x(1) + width, 14, "mean")
    frame.add(text(x(1) + width + 6, 17.5, f"critical difference {ranking.critical:.2f}", "b"))
    at = dict(zip(ranking.names, ranking.ranks, strict=True))
    for index, names in enumerate(ranking.alike):
        y = 50 + 12 * index
        frame.line(x(at[names[0]]) - 3, y, x(at[names[-1]]) + 3, y, "join")
    base = 56 + 12 * len(ranking.alike)
    for index, (name, rank) in enumerate(at.items()):
        left = index < half
        y = base + 20 * (index if left else k - 1 - index)
        end = frame.left - 8 if left else frame.right + 8
        frame.add(f'<path d="M{x(rank):.1f} 40V{y:.1f}H{end:.1f}" class="lead"/>')
        frame.add(marker(name, x(rank), 40, 4, f"{name}: mean rank {rank:.2f}"))
        frame.add(text(end + (-4 if left else 4), y + 3.5, f"{name} {rank:.1f}", "l", "end" if left else "start"))
    return frame


def families_of(findings: Findings) -> list[tuple[str, str]]:
    """(family, its mark as SVG) for the legend."""
    return [
        (family, f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">{marker(family, 6, 6, 4)}</svg>')
        for family in findings.families
    ]
