"""Symbols for edges: pykan's library by name, and the best `c f(a x + b) + d` through a curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UnknownNameError

__all__ = ["DEFAULT_LIBRARY", "Fit", "fit_symbol", "library"]

#: Short on purpose: pykan's whole library takes half a minute an edge, and half of it imitates the rest.
DEFAULT_LIBRARY = ("x", "x^2", "x^3", "exp", "sin", "tanh", "gaussian", "abs", "log", "sqrt")
#: Points of a curve that a symbol is fitted through, and what its search starts from.
_POINTS = 200


@dataclass(frozen=True)
class Symbol:
    """A function by name: of tensors, of sympy expressions, and pykan's measure of its complexity."""

    name: str
    torch: Any
    sympy: Any
    complexity: int


@dataclass(frozen=True)
class Fit:
    """A symbol through a curve: `c f(a x + b) + d`, and the share of the curve's variance that it explains."""

    symbol: Symbol
    affine: tuple[float, float, float, float]
    r2: float


def library(names: Sequence[str] | None = None) -> dict[str, Symbol]:
    """Symbols by name; raises `UnknownNameError` for a name that pykan does not know."""
    from pipeline.fit.pykan_adapter import symbols

    known = symbols()
    names = tuple(names or DEFAULT_LIBRARY)
    valid = tuple(name for name in known if name != "0")
    for name in names:
        if name not in valid:
            raise UnknownNameError("symbol", name, valid)
    return {name: Symbol(name, *known[name]) for name in dict.fromkeys(names)}


def fit_symbol(symbol: Symbol, x: Tensor, y: Tensor) -> Fit:
    """The best affine fit of a symbol through points x, y [rows].

    For each a and b of a grid, c and d follow from least squares (as in pykan's `fit_params`); the best few are then
    polished. Only fits that are finite at every point count: the logarithm of a negative number explains nothing.
    """
    centre, width = x.mean(), x.std().clamp(min=1e-12)
    place = torch.linspace(0, len(x) - 1, min(_POINTS, len(x))).long()
    order = x.argsort()[place]
    u, v = (x[order] - centre) / width, y[order]
    spread = v.var(unbiased=False)
    if spread < 1e-24:
        return Fit(symbol, (0.0, 0.0, 0.0, float(v.mean())), 0.0)
    if symbol.name == "x":
        slope = float(((u - u.mean()) * (v - v.mean())).mean() / u.var(unbiased=False))
        return Fit(symbol, _unscaled((1.0, 0.0, slope, float(v.mean() - slope * u.mean())), centre, width),
                   _r2(v, v.mean() + slope * (u - u.mean()), spread))  # fmt: skip
    a_range, b_range = (-6.0, 6.0), (-6.0, 6.0)
    best, score = (1.0, 0.0), -1.0
    for _ in range(4):
        a = torch.linspace(*a_range, 61, dtype=u.dtype)
        b = torch.linspace(*b_range, 61, dtype=u.dtype)
        values = symbol.torch(a[:, None, None] * u + b[None, :, None])
        explained = _explained(values, v, spread)
        at = int(explained.argmax())
        i, j = divmod(at, len(b))
        if float(explained[i, j]) > score:
            best, score = (float(a[i]), float(b[j])), float(explained[i, j])
        a_range = (best[0] - 2 * float(a[1] - a[0]), best[0] + 2 * float(a[1] - a[0]))
        b_range = (best[1] - 2 * float(b[1] - b[0]), best[1] + 2 * float(b[1] - b[0]))
    f = symbol.torch(best[0] * u + best[1])
    varies = float(f.var(unbiased=False))
    if score < 0 or not np.isfinite(varies) or varies < 1e-24:
        return Fit(symbol, (0.0, 0.0, 0.0, float(v.mean())), -1.0)
    c = float(((f - f.mean()) * (v - v.mean())).mean() / varies)
    d = float(v.mean() - c * f.mean())
    return Fit(symbol, _unscaled((*best, c, d), centre, width), _r2(v, c * f + d, spread))


def _explained(values: Tensor, target: Tensor, spread: Tensor) -> Tensor:
    """R2 of the best line through every candidate's values [.., points]; -1 where some value is not finite."""
    centred = values - values.mean(-1, keepdim=True)
    top = (centred * (target - target.mean())).mean(-1) ** 2
    found = top / (centred.square().mean(-1) * spread + 1e-30)
    sound = values.isfinite().all(-1) & (values.abs().amax(-1) < 1e6)
    return torch.where(sound, found, -1.0).nan_to_num(nan=-1.0)


def _r2(target: Tensor, found: Tensor, spread: Tensor) -> float:
    return float(1 - (target - found).square().mean() / spread)


def _unscaled(affine: tuple[float, ...], centre: Tensor, width: Tensor) -> tuple[float, float, float, float]:
    """The same function of x instead of (x - centre) / width."""
    a, b, c, d = affine
    return a / float(width), b - a * float(centre) / float(width), c, d
