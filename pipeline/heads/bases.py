"""Basis expansions: pure functions from inputs x [...] and a grid to [..., width].

A layer multiplies the result by its weights. `EXPANSIONS` holds each under the name that `pipeline.heads.network.BASES`
gives its width and its cost.
"""

from collections.abc import Callable
from math import comb, factorial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.heads.network import Grid

__all__ = ["EXPANSIONS", "b_spline", "chebyshev", "fourier", "knot_spline", "radial", "spline_basis", "switch"]


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


def _cox_de_boor(x: Tensor, knots: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """What `spline_basis` gives, and its derivative by x. Rows stand last: every operation runs along memory."""
    x, knots = x.unsqueeze(-2), knots.unsqueeze(-1)
    ahead = x - knots  # [..., in, knots, rows]
    below = (ahead >= 0).to(x.dtype)
    value = below[..., :-1, :] - below[..., 1:, :]
    slope = torch.zeros_like(value)
    for degree in range(1, order + 1):
        # Where knots coincide (an input that does not vary) a function counts as zero, as in pykan.
        width = (1 / (knots[..., degree:, :] - knots[..., :-degree, :])).nan_to_num(posinf=0.0)
        left, right = value[..., :-1, :] * width[..., :-1, :], value[..., 1:, :] * width[..., 1:, :]
        if degree == order:
            slope = degree * (left - right)
        value = left.mul_(ahead[..., : -(degree + 1), :]).sub_(right.mul_(ahead[..., degree + 1 :, :]))
    return value, slope


class _Basis(torch.autograd.Function):
    """Splines with the derivative by its own formula: autograd through the recursion costs several times as much."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, knots: Tensor, order: int) -> Tensor:
        value, slope = _cox_de_boor(x, knots, order)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return (gradient * ctx.saved_tensors[0]).sum(-2), None, None


def spline_basis(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """B-splines [..., in, knots - order - 1, rows] of x [..., in, rows] on each input's knots [..., in, knots].

    The recursion of Cox and de Boor on half-open intervals; zero outside the knots.
    """
    return _Basis.apply(x, knots, order)


def knot_spline(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """`spline_basis` with the axes of the other bases: x [..., rows, in] to [..., rows, in, knots - order - 1]."""
    return spline_basis(x.transpose(-1, -2), knots, order).movedim(-1, -3)


def _centres(x: Tensor, grid: Grid) -> Tensor:
    return torch.linspace(grid.low, grid.high, grid.centres, dtype=x.dtype, device=x.device)


def radial(x: Tensor, grid: Grid) -> Tensor:
    """Gaussians exp(-((x - c) / w)^2) at even centres, w = (high - low) / (centres - 1) (fast-kan)."""
    width = (grid.high - grid.low) / (grid.centres - 1)
    return torch.exp(-(((x.unsqueeze(-1) - _centres(x, grid)) / width) ** 2))


def switch(x: Tensor, grid: Grid) -> Tensor:
    """Reflectional switch functions 1 - tanh((x - c) d)^2 at even centres (faster-kan; d = 1 is its forward)."""
    return 1 - torch.tanh((x.unsqueeze(-1) - _centres(x, grid)) * grid.sharpness) ** 2


def fourier(x: Tensor, grid: Grid) -> Tensor:
    """cos(x), ..., cos(K x), sin(x), ..., sin(K x) for K = intervals (FR-KAN, arXiv 2408.08803)."""
    multiples = x.unsqueeze(-1) * torch.arange(1, grid.intervals + 1, dtype=x.dtype, device=x.device)
    return torch.cat([multiples.cos(), multiples.sin()], -1)


def chebyshev(x: Tensor, grid: Grid) -> Tensor:
    """Chebyshev polynomials T_0(z), ..., T_K(z) of z = tanh(x) for K = order (ChebyKAN)."""
    z = torch.tanh(x)
    found = [torch.ones_like(z), z]
    for _ in range(grid.order - 1):
        found.append(2 * z * found[-1] - found[-2])
    return torch.stack(found, -1)


def _powers(degree: int) -> Callable[[Tensor, Grid], Tensor]:
    """1, x, ..., x^degree."""
    return lambda x, grid: torch.stack([x**n for n in range(degree + 1)], -1)  # noqa: ARG005


def _pointwise(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Grid], Tensor]:
    return lambda x, grid: function(x).unsqueeze(-1)  # noqa: ARG005 - one signature for all bases


EXPANSIONS: dict[str, Callable[[Tensor, Grid], Tensor]] = {
    "identity": _pointwise(lambda x: x),
    "relu": _pointwise(functional.relu),
    "gelu": _pointwise(functional.gelu),
    "silu": _pointwise(functional.silu),
    "tanh": _pointwise(torch.tanh),
    "sigmoid": _pointwise(torch.sigmoid),
    "square_relu": _pointwise(lambda x: functional.relu(x) ** 2),
    "polynomial2": _powers(2),
    "polynomial3": _powers(3),
    "polynomial5": _powers(5),
    "b_spline": b_spline,
    "radial": radial,
    "switch": switch,
    "fourier": fourier,
    "chebyshev": chebyshev,
}
