"""Pictures of what heads say row by row: calibration, confusion, disagreement; and of learned functions."""

import math
from collections.abc import Iterable

import numpy as np
from markupsafe import Markup

from pipeline.report.activations import LearnedFunctions
from pipeline.report.model import Compared, Disagreement
from pipeline.report.rows import RowSummary
from pipeline.report.svg import Frame, Scale, marker, slot, text

__all__ = ["calibration", "confusion", "disagreement", "functions", "predictions"]

#: Classes up to which confusion matrices can be read.
CLASSES = 6
#: Points of a regression's scatter.
SCATTER = 300


def calibration(setting: Compared) -> Frame | None:
    """Reliability: of answers given with some confidence, how many are right; the calibration error beside the name."""
    found = {family: one for family, one in setting.summaries.items() if one.bins is not None}
    if not found:
        return None
    classes = next(iter(found.values())).counts.shape[0]
    frame = Frame(max(236, 52 + 15 * len(found)), f"Calibration on {setting.label}", (40, 22, 150, 36))
    x = Scale(1 / classes, 1, frame.left, frame.right)
    lowest = min(float((one.bins[2][full] / one.bins[0][full]).min()) for one, full in _full(found.values()))
    y = Scale(min(math.floor(10 * lowest) / 10, 0.5), 1, frame.bottom, frame.top)
    frame.x_axis(x, "confidence", 4)
    frame.y_axis(y, "share correct")
    start = max(1 / classes, y.low)
    frame.line(x(start), y(start), x(1), y(1), "zero")
    frame.add(text(frame.right + 12, frame.top - 5, "calibration error", "n"))
    for index, (family, one) in enumerate(sorted(found.items(), key=lambda item: item[1].error)):
        rows, confidence, right = one.bins
        ((_, full),) = _full([one])
        spots = [(x(c / n), y(r / n)) for n, c, r in zip(rows[full], confidence[full], right[full], strict=True)]
        frame.path(spots, f"curve f{slot(family)}")
        for spot_x, spot_y in spots:
            frame.add(marker(family, spot_x, spot_y, 2.6))
        height = frame.top + 10 + 15 * index
        frame.add(marker(family, frame.right + 18, height - 3.5, 4), text(frame.right + 28, height, family, "l"))
        frame.add(text(frame.width - 4, height, f"{one.error:.3f}", "l", "end"))
    return frame


def _full(found: Iterable[RowSummary]) -> list[tuple[RowSummary, np.ndarray]]:
    """Bins that hold rows enough: a handful of them is noise, not calibration."""
    return [(one, one.bins[0] >= max(0.005 * one.bins[0].sum(), 1)) for one in found]


def confusion(setting: Compared) -> Frame | None:
    """A matrix a family: true classes down, answers across, each row in percent of its class."""
    found = {family: one.counts for family, one in setting.summaries.items() if one.counts is not None}
    if not found or next(iter(found.values())).shape[0] > CLASSES:
        return None
    classes = next(iter(found.values())).shape[0]
    names = [
        _brief(setting.class_names[c]) if setting.class_names and c < len(setting.class_names) else str(c)
        for c in range(classes)
    ]
    cell, columns = (34, 3) if classes == 2 else (24, 2) if classes == 3 else (20, 2)
    wide, high = 360 / columns, classes * cell + 34
    frame = Frame(math.ceil(len(found) / columns) * high + 4, f"Confusion on {setting.label}", (0, 0, 0, 0))
    for index, (family, counts) in enumerate(found.items()):
        left = index % columns * wide + 42
        top = index // columns * high + 20
        frame.add(text(left, top - 6, family, "l"))
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)
        for true in range(classes):
            frame.add(text(left - 4, top + cell * (true + 0.5) + 3.5, names[true], "s", "end"))
            for answer in range(classes):
                value = float(share[true, answer])
                frame.add(
                    f'<rect x="{left + cell * answer:.1f}" y="{top + cell * true:.1f}" width="{cell - 1.5}" '
                    f'height="{cell - 1.5}" rx="2" class="cell" fill-opacity="{0.06 + 0.86 * value:.2f}"/>',
                    text(left + cell * (answer + 0.5) - 0.7, top + cell * (true + 0.5) + 3, f"{100 * value:.0f}",
                         "on" if value > 0.55 else "off", "middle"),
                )  # fmt: skip
    return frame


def _brief(word: str) -> str:
    return word if len(word) <= 8 else word[:7] + "…"


def predictions(setting: Compared) -> Frame | None:
    """Regression: the ensemble's value of the best family against the label."""
    found = {family: one for family, one in setting.summaries.items() if one.counts is None}
    if not found or setting.labels is None:
        return None
    family = max(found, key=lambda name: setting.chosen[name].mean)
    values = found[family].mean[:, 0]
    frame = Frame(240, f"Predictions on {setting.label}", (46, 22, 12, 36))
    rows = np.unique(np.linspace(0, len(values) - 1, SCATTER).astype(int))
    both = [*map(float, values[rows]), *map(float, setting.labels[rows])]
    x, y = Scale.over(both, frame.left, frame.right), Scale.over(both, frame.bottom, frame.top)
    frame.x_axis(x, "label")
    frame.y_axis(y, f"{family}, mean over seeds")
    frame.line(x(x.low), y(x.low), x(x.high), y(x.high), "zero")
    for row in rows:
        frame.add(marker(family, x(float(setting.labels[row])), y(float(values[row])), 2.2, kind="p"))
    return frame


def disagreement(row: Disagreement) -> Markup:
    """Each family's probability of the right label, on a line from 0 to 1."""
    frame = Frame(34, "Probability of the true label: " + ", ".join(f"{n} {p:.2f}" for n, p in row.chances.items()),
                  (8, 4, 8, 16), 200)  # fmt: skip
    x = Scale(0, 1, frame.left, frame.right)
    frame.line(x(0), 11, x(1), 11, "ci")
    for value in (0, 0.5, 1):
        frame.line(x(value), 6, x(value), 16, "grid")
        frame.add(text(x(value), 30, value, "t", "middle"))
    for index, (family, chance) in enumerate(row.chances.items()):
        frame.add(marker(family, x(chance), 11 + 3 * (index % 3 - 1), 4, f"{family}: {chance:.3f}"))
    return frame.svg()


def functions(learned: LearnedFunctions) -> Frame:
    """The strongest learned functions of a head's layer, small, all on one scale."""
    columns, wide, high = 4, 90.0, 66.0
    lines = math.ceil(len(learned.curves) / columns)
    frame = Frame(lines * high + 18, f"Learned functions of {learned.family}", (0, 0, 0, 0))
    largest = float(np.abs(learned.curves).max()) or 1.0
    for index, (name, curve) in enumerate(zip(learned.names, learned.curves, strict=True)):
        left, top = index % columns * wide + 3, index // columns * high + 14
        x = Scale(float(learned.grid[0]), float(learned.grid[-1]), left, left + wide - 8)
        y = Scale(-largest, largest, top + high - 20, top)
        frame.line(left, y(0), left + wide - 8, y(0))
        frame.line(x(0), top, x(0), top + high - 20)
        frame.path([(x(float(a)), y(float(b))) for a, b in zip(learned.grid, curve, strict=True)],
                   f"curve f{slot(learned.family)}")  # fmt: skip
        frame.add(text(left, top - 3, name, "s"))
    span = f"inputs {learned.grid[0]:.1f} to {learned.grid[-1]:.1f}, outputs {-largest:.2g} to {largest:.2g}"
    frame.add(text(3, frame.height - 4, f"{span}; head {learned.head}".replace("-", "−"), "s"))
    return frame
