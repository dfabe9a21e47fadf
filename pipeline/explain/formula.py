"""Networks of symbols as formulas: constants gathered as they are built, rounded only as far as nothing is lost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.explain.mixed import Mixed
from pipeline.explain.symbols import Symbol

if TYPE_CHECKING:
    import sympy

__all__ = ["Formula", "formulas", "values"]

#: Rounding may move an output by this share of its spread over the rows.
ROUNDING = 1e-4
_POWERS = {"x^2": 2, "x^3": 3, "x^4": 4, "x^5": 5}


@dataclass(frozen=True)
class _Sum:
    """`constant + sum(factor * expression)`."""

    terms: tuple[tuple[float, Any], ...]
    constant: float

    def scaled(self, factor: float, shift: float = 0.0) -> "_Sum":
        return _Sum(tuple((factor * own, part) for own, part in self.terms), factor * self.constant + shift)

    def plus(self, other: "_Sum") -> "_Sum":
        return _Sum(self.terms + other.terms, self.constant + other.constant)

    def expression(self, places: int | None) -> "sympy.Expr":
        """As sympy, every number rounded to so many decimal places (`None`: as it is)."""
        import sympy

        total = _number(self.constant, places)
        for factor, part in self.terms:
            total = total + _number(factor, places) * part(places)
        return sympy.sympify(total)


def _number(value: float, places: int | None) -> "sympy.Expr":
    import sympy

    value = value if places is None else round(value, places)
    return sympy.Integer(int(value)) if value == int(value) and abs(value) < 1e6 else sympy.Float(value, 15)


@dataclass(frozen=True)
class Formula:
    """One output: exact and rounded expressions, as text and LaTeX, of the named inputs."""

    name: str
    exact: str
    text: str
    latex: str
    expression: Any
    rounded: Any


def formulas(
    network: Mixed, names: Sequence[str], outputs: Sequence[str], shift: np.ndarray, factor: np.ndarray,
    target: tuple[float, float], rows: np.ndarray,
) -> list[Formula]:  # fmt: skip
    """A formula for each output in terms of the raw inputs; `rows` [n, in] decide how far numbers may be rounded.

    `shift` and `factor` are the head's scaling, `target` the mean and spread of its values (0, 1 for classes).
    Raises `ArithmeticError` for numbers that no formula can hold.
    """
    import sympy

    symbols = [sympy.Symbol(name, real=True) for name in names]
    layer: list[_Sum] = [
        _Sum(((float(scale), lambda places, symbol=symbol: symbol),), -float(move) * float(scale))  # noqa: ARG005
        for symbol, move, scale in zip(symbols, shift, factor, strict=True)
    ]
    for index, width in enumerate(network.widths[1:]):
        sums = [_Sum((), 0.0) for _ in range(width)]
        for (place, i, j), symbol in sorted(network.symbols.items(), key=lambda item: item[0]):
            if place == index:
                affine = [float(value) for value in network.affine[place, i, j]]
                sums[j] = sums[j].plus(_applied(symbol, affine, layer[i]))
        layer = sums
    mean, spread = target
    found = []
    for name, total in zip(outputs, layer, strict=True):
        total = total.scaled(spread, mean)
        exact = total.expression(None)
        rounded = _rounded(total, exact, names, rows)
        found.append(Formula(name, str(exact), str(rounded), sympy.latex(rounded), exact, rounded))
    return found


def _rounded(total: _Sum, exact: "sympy.Expr", names: Sequence[str], rows: np.ndarray) -> "sympy.Expr":
    reference = values([exact], names, rows)[:, 0]
    allowed = ROUNDING * float(np.nanstd(reference)) + 1e-12
    for places in range(2, 13):
        candidate = total.expression(places)
        moved = np.abs(values([candidate], names, rows)[:, 0] - reference)
        if not (np.isnan(moved) & ~np.isnan(reference)).any() and np.nanmax(moved, initial=0.0) <= allowed:
            return candidate
    return exact


def values(expressions: "Sequence[sympy.Expr]", names: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Values [rows, outputs] of expressions at rows [n, in], float64; NaN where one has none."""
    from pipeline.sources.expressions import numeric

    return np.stack([numeric(one, names)(np.asarray(rows, np.float64)) for one in expressions], 1)


def _applied(symbol: Symbol, affine: Sequence[float], inner: _Sum) -> _Sum:
    """`c f(a inner + b) + d`, with what can be taken out of f taken out."""
    a, b, c, d = affine
    if symbol.name == "x":
        return inner.scaled(a * c, b * c + d)
    u = inner.scaled(a, b)
    if not u.terms:
        return _Sum((), c * float(symbol.sympy(u.constant)) + d)
    if symbol.name == "exp":
        if abs(u.constant) > 600:
            raise ArithmeticError(f"a formula needs exp({u.constant:.0f})")
        return _Sum(((c * math.exp(u.constant), _part(symbol, _Sum(u.terms, 0.0))),), d)
    if symbol.name in _POWERS:
        power, size = _POWERS[symbol.name], max((factor for factor, _ in u.terms), key=abs)
        return _Sum(((c * size**power, _part(symbol, u.scaled(1 / size))),), d)
    if symbol.name == "sin":
        turns = math.remainder(u.constant, 2 * math.pi)
        if abs(turns) > math.pi / 2:  # sin(u + pi) = -sin(u)
            turns, c = math.remainder(turns - math.pi, 2 * math.pi), -c
        u = _Sum(u.terms, turns)
        if u.terms[0][0] < 0:
            u, c = u.scaled(-1), -c
    return _Sum(((c, _part(symbol, u)),), d)


def _part(symbol: Symbol, inner: _Sum) -> Any:
    return lambda places: symbol.sympy(inner.expression(places))
