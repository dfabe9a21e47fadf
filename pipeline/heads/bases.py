"""Basis expansions: pure functions that turn each input into `width` values.

A basis maps x [..., inputs] to [..., inputs, width]; a layer multiplies the result by its weights. A new basis is one
pure function and one line in `BASES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, factorial

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["BASES", "Basis", "Grid", "b_spline", "radial", "switch"]


@dataclass(frozen=True)
class Grid:
    """Where a basis puts its functions.

    `intervals` and `order` matter to B-splines, `centres` and `sharpness` (the switch's inverse width d) to the others;
    `low` and `high` bound the grid for both.
    """

    low: float = -3.0
    high: float = 3.0
    intervals: int = 5
    order: int = 3
    centres: int = 8
    sharpness: float = 1.0


def b_spline(x: Tensor, grid: Grid) -> Tensor:
    """B-splines of order k on the uniform knots t_j = low + (j - k) h, h = (high - low) / intervals.

    x [...] gives [..., intervals + order]: inside [low, high] they are non-negative and sum to one; outside the
    outermost knots all are zero. Values equal the Cox-de Boor recursion's (de Boor 1978; efficient-kan), but come
    from the closed form of the cardinal B-spline (Schoenberg 1946), folded at its centre so that no large terms
    cancel: M(t) = sum_i (-1)^i C(k+1, i) max(0, (k+1)/2 - i - |t|)^k / k!.
    """
    order, half = grid.order, (grid.order + 1) / 2
    step = (grid.high - grid.low) / grid.intervals
    centre = torch.arange(grid.intervals + order, dtype=x.dtype, device=x.device) - order + half
    distance = (((x - grid.low) / step).unsqueeze(-1) - centre).abs()
    total: Tensor | None = None
    for i in range(order // 2 + 1):
        # |t| is not differentiable at 0, but the sum is: sign(0) = 0 gives the right derivative there.
        term = (half - i - distance).clamp(min=0) ** order * ((-1) ** i * comb(order + 1, i) / factorial(order))
        total = term if total is None else total + term
    return total


def _centres(x: Tensor, grid: Grid) -> Tensor:
    return torch.linspace(grid.low, grid.high, grid.centres, dtype=x.dtype, device=x.device)


def radial(x: Tensor, grid: Grid) -> Tensor:
    """Gaussians exp(-((x - c) / w)^2) at even centres, w = (high - low) / (centres - 1) (fast-kan)."""
    width = (grid.high - grid.low) / (grid.centres - 1)
    return torch.exp(-(((x.unsqueeze(-1) - _centres(x, grid)) / width) ** 2))


def switch(x: Tensor, grid: Grid) -> Tensor:
    """Reflectional switch functions 1 - tanh((x - c) d)^2 at even centres (faster-kan; d = 1 is its forward)."""
    return 1 - torch.tanh((x.unsqueeze(-1) - _centres(x, grid)) * grid.sharpness) ** 2


def _pointwise(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Grid], Tensor]:
    def expand(x: Tensor, grid: Grid) -> Tensor:  # noqa: ARG001 - one signature for all bases
        return function(x).unsqueeze(-1)

    return expand


@dataclass(frozen=True)
class Basis:
    """One entry of `BASES`.

    `expand` maps x [..., inputs] to [..., inputs, width(grid)]; `flops(grid)` counts its elementwise operations for one
    input, with each of exp, tanh and division as one.
    """

    expand: Callable[[Tensor, Grid], Tensor]
    width: Callable[[Grid], int]
    flops: Callable[[Grid], int]


def _one(flops: int, function: Callable[[Tensor], Tensor]) -> Basis:
    return Basis(_pointwise(function), lambda _: 1, lambda _: flops)


BASES: dict[str, Basis] = {
    "identity": _one(0, lambda x: x),
    "relu": _one(1, functional.relu),
    "gelu": _one(8, functional.gelu),
    "silu": _one(4, functional.silu),
    "tanh": _one(1, torch.tanh),
    "sigmoid": _one(3, torch.sigmoid),
    # A function: subtract, abs, then per term subtract, clamp, power, scale, add; two operations place x on the grid.
    "b_spline": Basis(
        b_spline,
        lambda g: g.intervals + g.order,
        lambda g: 2 + (g.intervals + g.order) * (2 + (g.order // 2 + 1) * (4 + g.order - 1) - 1),
    ),
    "radial": Basis(radial, lambda g: g.centres, lambda g: 5 * g.centres),
    "switch": Basis(switch, lambda g: g.centres, lambda g: 5 * g.centres),
}
