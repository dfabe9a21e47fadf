"""Knots from data: efficient-kan's `update_grid`, for all heads of a pack."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.heads.bases import knot_spline
from pipeline.heads.forward import expand, layer_tensors, linear, norm
from pipeline.heads.network import Grid, LayerSpec, NetworkSpec

__all__ = ["data_knots", "even_knots", "start_knots", "update_grid"]

#: Share of evenly spaced knots among quantiles, and how far beyond the data they reach (efficient-kan's defaults).
EPSILON, MARGIN = 0.02, 0.01
#: Rows of the data, evenly spread, that knots are drawn from and weights are refitted at.
ROWS = 2048
#: Directions of smaller eigenvalue, beside the largest, are none that the data tell anything about.
RANK = 1e-12


def even_knots(grid: Grid, inputs: int) -> Tensor:
    """The uniform knots [inputs, intervals + 2 order + 1] that `b_spline` stands on."""
    step = (grid.high - grid.low) / grid.intervals
    knots = torch.arange(-grid.order, grid.intervals + grid.order + 1) * step + grid.low
    return knots.expand(inputs, -1).contiguous()


def start_knots(network: NetworkSpec, heads: int, device: torch.device) -> dict[str, Tensor]:
    """The buffers [heads, ...] of a network before its first update: even knots."""
    return {
        f"layers.{index}.knots": even_knots(layer.grid, layer.inputs).repeat(heads, 1, 1).to(device)
        for index, layer in enumerate(network.layers)
        if layer.knots
    }


def data_knots(x: Tensor, grid: Grid) -> Tensor:
    """Knots [inputs, intervals + 2 order + 1] for x [rows, inputs]: quantiles, and a share of even ones (EPSILON).

    Inside are intervals + 1 knots from the smallest to the largest value; `order` more on either side stand as far
    apart as even ones would (efficient-kan's `update_grid`).
    """
    ordered = x.sort(0).values
    at = torch.linspace(0, len(x) - 1, grid.intervals + 1, dtype=torch.int64, device=x.device)
    step = (ordered[-1] - ordered[0] + 2 * MARGIN) / grid.intervals
    count = torch.arange(grid.intervals + 1, dtype=x.dtype, device=x.device).unsqueeze(1)
    inner = EPSILON * (count * step + ordered[0] - MARGIN) + (1 - EPSILON) * ordered[at]
    beyond = torch.arange(1, grid.order + 1, dtype=x.dtype, device=x.device).unsqueeze(1)
    return torch.cat([inner[:1] - step * beyond.flip(0), inner, inner[-1:] + step * beyond]).T.contiguous()


@torch.no_grad()
def update_grid(network: NetworkSpec, tensors: Mapping[str, Tensor], features: Tensor, live: Tensor) -> None:
    """Give every layer with knots those of its own data, its function staying what it is at them, in place.

    `tensors` are [heads, ...], `features` [rows, inputs] are scaled; heads that are not `live` [heads] stay as they
    are. Spline weights become the least-squares fit of smallest norm to the splines' values at ROWS rows. It is the
    unscaled weights that are refitted, so that a separate scaler goes on scaling once. A layer sees what the updated
    layers below it give. Every head is worked on by itself, so that its pack does not matter.
    """
    count = min(len(features), ROWS)
    at = torch.linspace(0, len(features) - 1, count, dtype=torch.float64, device=features.device).long()
    x = features[at]
    first: _Moved | None = None
    for head in live.nonzero().flatten().tolist():
        mine = {name: tensor[head] for name, tensor in tensors.items()}
        for chain in network.chains:
            y = x
            for index in chain:
                layer, own = network.layers[index], layer_tensors(mine, index)
                constant = network.constant and index == 0 and layer.knots
                # A constant first layer comes to the same for all heads that begin on the same knots.
                known = constant and first is not None and torch.equal(first.before, own["knots"])
                moved = first if known else _move(layer, y, own)
                first = moved if constant else first
                y = _apply(layer, moved, own)


@dataclass(frozen=True)
class _Moved:
    """What an update makes of a layer: knots [inputs, knots] before and after, the matrices [inputs, width, width]
    that turn old spline weights into new ones, and the expansion [rows, features] on the new knots.
    """

    before: Tensor | None
    knots: Tensor | None
    matrices: Tensor | None
    expansion: Tensor


def _move(layer: LayerSpec, x: Tensor, own: Mapping[str, Tensor]) -> _Moved:
    """The update of a head's layer for its inputs x [rows, inputs]."""
    if not layer.knots:
        return _Moved(None, None, None, expand(layer, x, own))
    before = own["knots"].clone()
    knots, matrices = _refit(layer, x, own)
    return _Moved(before, knots, matrices, expand(layer, x, {**own, "knots": knots}))


def _apply(layer: LayerSpec, moved: _Moved, own: Mapping[str, Tensor]) -> Tensor:
    """Change a head's layer in place; returns its outputs [rows, out]."""
    if moved.knots is not None:
        own["knots"].copy_(moved.knots)
    if moved.matrices is not None:
        spline = own["weight"][: layer.inputs * layer.widths[0]]
        old = spline.unflatten(0, (layer.inputs, -1)).to(moved.matrices.dtype)
        spline.copy_(torch.bmm(moved.matrices, old).flatten(0, 1))
    batch = {name: tensor.unsqueeze(0) for name, tensor in own.items()}
    return linear(layer, moved.expansion.unsqueeze(0), batch)[0]


def _refit(layer: LayerSpec, x: Tensor, own: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Knots for x [rows, inputs], and float64 matrices [inputs, width, width] from old weights to new ones.

    Where x is not finite, knots stay; where knots stay, there is no matrix.
    """
    z = norm(layer, x, own) if layer.branches[0].normed else x
    knots = data_knots(z, layer.grid)
    if not bool(knots.isfinite().all()) or torch.equal(knots, own["knots"]):
        return own["knots"], None
    old, new = (knot_spline(z, one, layer.grid.order).transpose(0, 1).double() for one in (own["knots"], knots))
    inverse = torch.linalg.pinv(new.mT @ new, rtol=RANK, hermitian=True)
    return knots, inverse @ (new.mT @ old)
