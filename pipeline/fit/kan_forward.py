"""pykan's network as tensors and functions: the same values as its classes, many times faster.

A head's tensors are named `layers.N.coef` [in, out, intervals + order], `layers.N.scale_base`, `layers.N.scale_sp`,
`layers.N.mask` [in, out] and `layers.N.grid` [in, knots]. The tests compare all of it with pykan itself.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.heads.bases import spline_basis

__all__ = [
    "depth",
    "edge_values",
    "expand",
    "fit_coefficients",
    "forward",
    "grid_through",
    "layer_of",
    "order_of",
    "penalty",
    "start",
    "update_grids",
]

#: pykan's mixture of evenly spaced knots and quantiles of the samples.
GRID_EPSILON = 0.02


def depth(tensors: Mapping[str, Tensor]) -> int:
    """Number of layers."""
    return sum(name.endswith(".coef") for name in tensors)


def layer_of(tensors: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """One layer's tensors under their short names."""
    prefix = f"layers.{index}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def order_of(layer: Mapping[str, Tensor]) -> int:
    """The order of a layer's splines: knots less coefficients less one."""
    return layer["grid"].shape[1] - layer["coef"].shape[2] - 1


def expand(x: Tensor, layer: Mapping[str, Tensor]) -> Tensor:
    """Splines and silu of every input [in, rows]: [in, intervals + order + 1, rows]."""
    splines = spline_basis(x, layer["grid"], order_of(layer))
    return torch.cat([splines, functional.silu(x).unsqueeze(1)], 1)


def _weights(layer: Mapping[str, Tensor]) -> Tensor:
    """Every edge's weights over the expansion, [in, out, intervals + order + 1]."""
    spline = layer["coef"] * layer["scale_sp"].unsqueeze(2)
    return torch.cat([spline, layer["scale_base"].unsqueeze(2)], 2) * layer["mask"].unsqueeze(2)


def _apply(expansion: Tensor, weights: Tensor) -> Tensor:
    return weights.transpose(0, 1).flatten(1) @ expansion.flatten(0, 1)


def forward(tensors: Mapping[str, Tensor], x: Tensor, first: Tensor | None = None) -> Tensor:
    """Outputs [rows, out] of x [rows, in]; `first` is the first layer's `expand(x.T)` where it is known already."""
    x = x.T
    for index in range(depth(tensors)):
        layer = layer_of(tensors, index)
        x = _apply(first if index == 0 and first is not None else expand(x, layer), _weights(layer))
    return x.T


@torch.no_grad()
def edge_values(tensors: Mapping[str, Tensor], x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For every layer its inputs [in, rows] and what each edge adds, [in, out, rows]; x is [rows, in]."""
    found, x = [], x.T
    for index in range(depth(tensors)):
        layer = layer_of(tensors, index)
        edges = _weights(layer) @ expand(x, layer)
        found.append((x, edges))
        x = edges.sum(0)
    return found


def penalty(
    tensors: Mapping[str, Tensor], x: Tensor, entropy: float, first: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs and pykan's penalty: sum of edge sizes plus `entropy` times the entropies of their shares.

    An edge's size is the standard deviation of what it adds over that of its input plus 0.1 (pykan's
    `edge_forward_spline_n`); it follows from the covariance of the expansion, without the edges' values.
    """
    total, x = x.new_zeros(()), x.T
    for index in range(depth(tensors)):
        layer = layer_of(tensors, index)
        expansion, weights = first if index == 0 and first is not None else expand(x, layer), _weights(layer)
        centred = expansion - expansion.mean(2, keepdim=True)
        covariance = centred @ centred.transpose(1, 2) / (x.shape[1] - 1)
        spread = ((weights @ covariance) * weights).sum(2).clamp(min=1e-20).sqrt()
        size = spread / (x.std(1) + 0.1).unsqueeze(1)
        total = total + size.sum()
        for axis in (0, 1):
            share = size / (size.sum(axis, keepdim=True) + 1)
            total = total - entropy * (share * torch.log2(share + 1e-4)).sum(axis).mean()
        x = _apply(expansion, weights)
    return x.T, total


def grid_through(inner: Tensor, order: int) -> Tensor:
    """Knots [in, intervals + 2 order + 1]: `inner` ones and `order` more at each end, a mean interval apart (pykan)."""
    step = (inner[:, -1:] - inner[:, :1]) / (inner.shape[1] - 1)
    beyond = torch.arange(1, order + 1, dtype=inner.dtype, device=inner.device)
    return torch.cat([inner[:, :1] - step * beyond.flip(0), inner, inner[:, -1:] + step * beyond], 1)


def fit_coefficients(curves: Tensor, x: Tensor, grid: Tensor, order: int) -> Tensor:
    """Coefficients [in, out, knots - order - 1] whose splines pass nearest to curves [in, out, rows] at x [in, rows].

    The pseudo-inverse chooses the smallest ones where the rows do not determine them.
    """
    return (curves @ torch.linalg.pinv(spline_basis(x, grid, order), rtol=1e-8)).contiguous()


@torch.no_grad()
def update_grids(tensors: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """The same function on knots that follow where each input lies now (pykan's `update_grid_from_samples`)."""
    found, x = dict(tensors), x.T
    for index in range(depth(tensors)):
        layer = layer_of(found, index)
        order, count = order_of(layer), x.shape[1]
        intervals = layer["coef"].shape[2] - order
        placed = x.sort(1).values
        curves = layer["coef"] @ spline_basis(placed, layer["grid"], order)
        picks = [int(count / intervals * place) for place in range(intervals)] + [-1]
        quantiles = placed[:, picks]
        even = torch.linspace(0, 1, intervals + 1, dtype=x.dtype, device=x.device)
        uniform = quantiles[:, :1] + even * (quantiles[:, -1:] - quantiles[:, :1])
        grid = grid_through(GRID_EPSILON * uniform + (1 - GRID_EPSILON) * quantiles, order)
        found |= {
            f"layers.{index}.grid": grid,
            f"layers.{index}.coef": fit_coefficients(curves, placed, grid, order),
        }
        layer = layer_of(found, index)
        x = _apply(expand(x, layer), _weights(layer))
    return found


def start(widths: Sequence[int], intervals: int, order: int, low_high: Sequence[float], seed: int) -> dict[str, Tensor]:
    """The tensors (float64) that pykan's constructor starts a network of these widths and this seed with.

    The same draws in the same order; its float32 least-squares fit, whose last bits change from call to call, is done
    in float64, since LBFGS makes of such bits another head.
    """
    generator, found = torch.Generator().manual_seed(seed), {}
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        inner = torch.linspace(*map(float, low_high), intervals + 1).double().expand(before, -1)
        noise = (torch.rand(intervals + 1, before, after, generator=generator) - 0.5) * 0.3 / intervals
        scale = (torch.rand(before, after, generator=generator) * 2 - 1) / math.sqrt(before)
        grid = grid_through(inner, order)
        layer = {
            "coef": fit_coefficients(noise.permute(1, 2, 0).double(), inner, grid, order),
            "scale_base": scale.double(),
            "scale_sp": torch.full((before, after), 1 / math.sqrt(before), dtype=torch.float64),
            "mask": torch.ones(before, after, dtype=torch.float64),
            "grid": grid,
        }
        found |= {f"layers.{index}.{name}": tensor for name, tensor in layer.items()}
    return found
