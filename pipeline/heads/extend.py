"""Finer or coarser grids for trained heads: weights of the same functions on another number of intervals."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.heads.bases import EXPANSIONS
from pipeline.heads.network import Grid, LayerSpec, NetworkSpec

__all__ = ["Extended", "extend_grid"]

#: Points of every interval, of either grid, at which curves are compared.
POINTS = 8
_GRIDDED = ("b_spline", "fourier")


@dataclass(frozen=True)
class Extended:
    """A network on other intervals, its tensors, and whether every function of the old grid is one of the new.

    Where `nested`, functions inside the grid are unchanged up to rounding; otherwise they are the least-squares fit.
    """

    network: NetworkSpec
    tensors: dict[str, Tensor]
    nested: bool


def extend_grid(tensors: Mapping[str, Tensor], network: NetworkSpec, intervals: int) -> Extended:
    """The same head on a grid of `intervals` (a Fourier series: on so many frequencies).

    `tensors` are a head's [...] or a pack's [heads, ...]; other bases, norms, scalers and biases stay as they are.
    B-splines are refitted by least squares at even points inside the grid, in float64: where the new knots contain the
    old ones (a whole multiple of intervals) that is exact, as knot insertion would be (Boehm 1980; grid extension:
    Liu et al., KAN, arXiv 2404.19756). Raises `ConfigError` for a network without such a basis.
    """
    if intervals < 1:
        raise ConfigError(f"`grid`: expected at least 1 interval, found {intervals}")
    if not any(branch.basis in _GRIDDED for layer in network.layers for branch in layer.branches):
        raise ConfigError(
            "expected a head with a grid (effi_kan, bspline_mlp, ensemble_kan or fourier_kan), found none"
        )
    if any(layer.knots for layer in network.layers):
        raise ConfigError("expected a head on an even grid, found one whose knots follow the data (`update_grid`)")
    layers, found, nested = [], dict(tensors), True
    for index, layer in enumerate(network.layers):
        if not any(branch.basis in _GRIDDED for branch in layer.branches):
            layers.append(layer)
            continue
        grid = replace(layer.grid, intervals=intervals)
        name = f"layers.{index}.{'unit' if layer.units else 'weight'}"
        found[name] = _moved(layer, grid, tensors[name])
        whole = any(branch.basis == "b_spline" for branch in layer.branches)
        nested &= intervals % layer.grid.intervals == 0 if whole else intervals >= layer.grid.intervals
        layers.append(replace(layer, grid=grid))
    return Extended(replace(network, layers=tuple(layers)), found, nested)


def _moved(layer: LayerSpec, grid: Grid, tensor: Tensor) -> Tensor:
    """A layer's weights [..., features, out], or its units [..., units, widths], on another grid."""
    wide = tensor.double().movedim(-1, -2) if layer.units else tensor.double()
    parts, start = [], 0
    for branch, width in zip(layer.branches, layer.widths, strict=True):
        rows = 1 if layer.units else layer.inputs
        part = wide[..., start : start + rows * width, :].unflatten(-2, (rows, width))
        start += rows * width
        if branch.basis in _GRIDDED:
            part = torch.einsum("nk,...iko->...ino", _transfer(branch.basis, layer.grid, grid).to(part), part)
        parts.append(part.flatten(-3, -2))
    moved = torch.cat(parts, -2)
    return (moved.movedim(-1, -2) if layer.units else moved).to(tensor.dtype).contiguous()


def _transfer(basis: str, old: Grid, new: Grid) -> Tensor:
    """The matrix [new width, old width], float64, from coefficients on the old grid to those on the new one."""
    if basis == "fourier":
        both = torch.eye(new.intervals, old.intervals, dtype=torch.float64)
        return torch.block_diag(both, both)
    cells = max(old.intervals, new.intervals) * POINTS * (old.order + 1)
    points = old.low + (torch.arange(cells, dtype=torch.float64) + 0.5) * ((old.high - old.low) / cells)
    values = EXPANSIONS[basis](points, new)
    return torch.linalg.lstsq(values, EXPANSIONS[basis](points, old)).solution
