"""Small SVG pictures: scales, axes and marks, coloured by classes of the page's style sheet.

Everything that is text goes through :func:`text`, which escapes it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from pipeline.heads.families import FAMILIES

__all__ = ["Frame", "Scale", "family_style", "label_of", "marker", "slot", "text", "thin", "ticks"]

#: Marks of families in the registry's order: colour is never the only difference.
_MARKS = ("circle", "square", "triangle", "diamond", "down", "plus", "cross")
#: Colours of families in the registry's order that name none themselves.
_COLOURS = (
    "#6b7280", "#111827", "#0072b2", "#d55e00", "#00875f", "#b04a86", "#b07d00", "#2f8fc9", "#6d6a00", "#7a1f4b",
)  # fmt: skip
#: Colour of a family that is not in the registry, and how much white lightens colours on a dark screen.
_OTHER, _LIGHTER = "#4b5563", 45


def slot(family: str) -> int:
    """The number of a family's colour and mark, the same in every report; names themselves may be anything."""
    return list(FAMILIES).index(family) if family in FAMILIES else len(FAMILIES)


def family_style() -> str:
    """Style rules of the families' colours (`Family.color`), for light and for dark screens."""
    colours = [
        getattr(family, "color", "") or _COLOURS[number % len(_COLOURS)]
        for number, family in enumerate(FAMILIES.values())
    ] + [_OTHER]
    light = "".join(f".f{number}{{--k:{colour}}}" for number, colour in enumerate(colours))
    dark = "".join(
        f".f{number}{{--k:color-mix(in oklab,{colour},#fff {_LIGHTER}%)}}" for number, colour in enumerate(colours)
    )
    return f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}"


def thin(items: Sequence, most: int) -> list:
    """At most `most` of the items, evenly spread, first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within [low, high], at most about `most`."""
    raw = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    start = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(start, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Scale:
    """Numbers [low, high] to pixels [start, stop], in logarithms with `log`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, stop: float, *, log: bool = False) -> "Scale":
        """A scale that holds the values with some room at both ends."""
        values = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(values), max(values)
        if log:
            room = max(0.08 * math.log(high / low), 0.25)
            return cls(low * math.exp(-room), high * math.exp(room), start, stop, True)
        room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
        return cls(low - room, high + room, start, stop)

    def __call__(self, value: float) -> float:
        """The pixel of a number."""
        low, high, value = (map(math.log, (self.low, self.high, value)) if self.log
                            else (self.low, self.high, value))  # fmt: skip
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def marks(self, most: int = 5) -> list[tuple[float, str]]:
        """Where the ticks are, and what they say."""
        if not self.log:
            found = ticks(self.low, self.high, most)
            places = max((len(f"{v:.10f}".rstrip("0").partition(".")[2]) for v in found), default=0)
            return [(v, f"{v:.{places}f}".replace("-", "−")) for v in found]
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
            found = [m * 10.0**e for e in exponents for m in steps if self.low <= m * 10.0**e <= self.high]
            if len(found) >= 2:
                break
        return [(v, label_of(v)) for v in thin(found, most + 1)]


def label_of(value: float) -> str:
    """A quantity in few characters: 1.5k, 220k, 3M; 0.02."""
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{name}"
    return f"{value:.3g}"


def text(x: float, y: float, what: object, kind: str = "t", anchor: str = "start") -> str:
    """A line of text, escaped."""
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{place}>{escape(str(what))}</text>'


def marker(family: str, x: float, y: float, size: float = 4, title: str = "", kind: str = "m") -> str:
    """A family's mark at (x, y), `size` about its radius."""
    number = slot(family)
    shape, a, s = _MARKS[number % len(_MARKS)], f'class="{kind} f{number}"', size
    inside = f"<title>{escape(title)}</title>" if title else ""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s:.1f}" {a}>{inside}</circle>'
    u, v, w = s * 0.9, s * 1.15, s * 0.4
    path = {
        "square": f"M{-u:.1f} {-u:.1f}h{2 * u:.1f}v{2 * u:.1f}h{-2 * u:.1f}z",
        "triangle": f"M0 {-v:.1f}l{v:.1f} {1.8 * v:.1f}h{-2 * v:.1f}z",
        "down": f"M0 {v:.1f}l{v:.1f} {-1.8 * v:.1f}h{-2 * v:.1f}z",
        "diamond": f"M0 {-1.3 * s:.1f}L{1.1 * s:.1f} 0L0 {1.3 * s:.1f}L{-1.1 * s:.1f} 0z",
        "plus": f"M{-w:.1f} {-v:.1f}h{2 * w:.1f}v{v - w:.1f}h{v - w:.1f}v{2 * w:.1f}h{w - v:.1f}v{v - w:.1f}"
        f"h{-2 * w:.1f}v{w - v:.1f}h{w - v:.1f}v{-2 * w:.1f}h{v - w:.1f}z",
        "cross": f"M{-v:.1f} {-v + w:.1f}l{w:.1f} {-w:.1f}L0 {-w:.1f}L{v - w:.1f} {-v:.1f}l{w:.1f} {w:.1f}L{w:.1f} 0"
        f"L{v:.1f} {v - w:.1f}l{-w:.1f} {w:.1f}L0 {w:.1f}L{w - v:.1f} {v:.1f}l{-w:.1f} {-w:.1f}L{-w:.1f} 0z",
    }[shape]
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{path}" {a}>{inside}</path>'


@dataclass
class Frame:
    """A picture `width` by `height` with a plot of margins (left, top, right, bottom); parts are added in order."""

    height: float
    title: str
    margins: tuple[float, float, float, float] = (44, 10, 12, 34)
    width: float = 360
    parts: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Left edge of the plot."""
        return self.margins[0]

    @property
    def top(self) -> float:
        """Top edge of the plot."""
        return self.margins[1]

    @property
    def right(self) -> float:
        """Right edge of the plot."""
        return self.width - self.margins[2]

    @property
    def bottom(self) -> float:
        """Bottom edge of the plot."""
        return self.height - self.margins[3]

    def add(self, *parts: str) -> None:
        """Draw on top of what is there."""
        self.parts += parts

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> None:
        """A straight line."""
        self.add(f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" class="{kind}"/>')

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A polyline."""
        if len(points) > 1:
            self.add(f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}" class="{kind}"/>')

    def band(self, points: Sequence[tuple[float, float, float]], kind: str) -> None:
        """The area between two curves: x, low, high."""
        if len(points) > 1:
            there = [(x, high) for x, _, high in points] + [(x, low) for x, low, _ in reversed(points)]
            self.add(f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in there)}z" class="{kind}"/>')

    def x_axis(self, scale: Scale, name: str, most: int = 5) -> None:
        """Grid lines upwards, numbers and a name below."""
        for value, label in scale.marks(most):
            self.line(scale(value), self.top, scale(value), self.bottom)
            self.add(text(scale(value), self.bottom + 13, label, "t", "middle"))
        self.add(text((self.left + self.right) / 2, self.height - 4, name, "n", "middle"))

    def y_axis(self, scale: Scale, name: str = "", most: int = 5) -> None:
        """Grid lines across, numbers on the left; the name stands above."""
        for value, label in scale.marks(most):
            self.line(self.left, scale(value), self.right, scale(value))
            self.add(text(self.left - 5, scale(value) + 3.5, label, "t", "end"))
        if name:
            self.add(text(2, self.top - 9, name, "n"))

    def svg(self) -> Markup:
        """The finished picture."""
        head = (
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" role="img" '
            f'aria-label="{escape(self.title)}" xmlns="http://www.w3.org/2000/svg">'
        )
        return Markup(head + "".join(self.parts) + "</svg>")  # every part is built here, texts escaped
