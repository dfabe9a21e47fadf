"""Random tensors, and the initial weights that several families share."""

import math
from functools import cache

import torch
from torch import Tensor

from pipeline.heads.bases import b_spline
from pipeline.heads.network import Grid, LayerSpec, basis_of

__all__ = ["Draw", "as_kanbefair", "as_torch_linear", "norm_and_bias", "spline_noise", "with_base"]


class Draw:
    """Random tensors from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, shape: tuple[int, ...], bound: float) -> Tensor:
        """Uniform on [-bound, bound]."""
        return torch.empty(shape).uniform_(-bound, bound, generator=self.generator)

    def normal(self, shape: tuple[int, ...], std: float) -> Tensor:
        """Normal with standard deviation `std`."""
        return torch.empty(shape).normal_(0, std, generator=self.generator)

    def truncated_normal(self, shape: tuple[int, ...], std: float) -> Tensor:
        """Normal with standard deviation `std`, cut at plus and minus 2 (as `torch.nn.init.trunc_normal_`)."""
        return torch.nn.init.trunc_normal_(torch.empty(shape), std=std, generator=self.generator)


def norm_and_bias(layer: LayerSpec, draw: Draw, fan_in: int) -> dict[str, Tensor]:
    """A bias as `torch.nn.Linear` draws it over `fan_in` inputs, and a layer norm that scales by one."""
    found: dict[str, Tensor] = {}
    if layer.bias:
        found["bias"] = draw.uniform((layer.outputs,), 1 / math.sqrt(fan_in))
    if layer.normed:
        found |= {"norm_scale": torch.ones(layer.inputs), "norm_shift": torch.zeros(layer.inputs)}
    return found


def as_torch_linear(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """The project's rule: a linear map over an expansion starts as `torch.nn.Linear` over that many features would.

    So does a unit's sum over its bases. A scaler starts at one, so that with and without it the function starts the
    same.
    """
    bound = 1 / math.sqrt(layer.features)
    found = {"weight": draw.uniform((layer.features, layer.outputs), bound)}
    if layer.scaler:
        found["scaler"] = torch.ones(layer.inputs, layer.outputs)
    if layer.units:
        found["unit"] = draw.uniform((layer.units, sum(layer.widths)), 1 / math.sqrt(sum(layer.widths)))
    for branch in layer.branches:
        basis = basis_of(branch.basis)
        if basis.initial is not None:
            found |= basis.initial(layer)
    return found | norm_and_bias(layer, draw, layer.features)


def spline_noise(grid: Grid, draw: Draw, inputs: int, outputs: int) -> Tensor:
    """Coefficients [inputs, intervals + order, outputs] of splines through noise (u - 1/2) * 0.1 / intervals.

    The noise is at the inner knots; the fit is the least-squares one of smallest norm (efficient-kan, pykan).
    """
    noise = draw.uniform((inputs, grid.intervals + 1, outputs), 0.5 * 0.1 / grid.intervals)
    return torch.einsum("kg,igo->iko", _fit_at_knots(grid), noise)


@cache
def _fit_at_knots(grid: Grid) -> Tensor:
    """The least-squares fit [intervals + order, intervals + 1] through values at the inner knots."""
    knots = torch.linspace(grid.low, grid.high, grid.intervals + 1, dtype=torch.float64)
    return torch.linalg.pinv(b_spline(knots, grid)).float()


def with_base(layer: LayerSpec, draw: Draw, spline: Tensor) -> dict[str, Tensor]:
    """Weights `spline` of the first basis [features, out] with a base branch that starts as `torch.nn.Linear`."""
    base = draw.uniform((layer.features - len(spline), layer.outputs), 1 / math.sqrt(layer.inputs))
    return {"weight": torch.cat([spline, base])}


def as_kanbefair(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """KANbeFair's start: linear maps as `torch.nn.Linear`, splines through noise, polynomials' coefficients normal.

    Where a unit has an activation beside its spline, the activation's coefficient starts at one.
    """
    found = as_torch_linear(layer, draw)
    if layer.units and layer.branches[0].basis != "b_spline":
        found["unit"] = draw.normal((layer.units, sum(layer.widths)), 1.0)
    elif layer.units:
        spline = spline_noise(layer.grid, draw, layer.inputs, 1).squeeze(2)
        found["unit"] = torch.cat([spline, torch.ones(layer.inputs, sum(layer.widths[1:]))], 1)
    return found
