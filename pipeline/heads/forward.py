"""The forward pass of a network over stacked tensors [heads, ...], in plain differentiable PyTorch.

The trainer's step and its kernels are tested against `network_forward`.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from pipeline.heads.bases import EXPANSIONS, knot_spline
from pipeline.heads.network import LayerSpec, NetworkSpec, basis_of

__all__ = [
    "edge_terms",
    "expand",
    "layer_forward",
    "layer_tensors",
    "linear",
    "network_forward",
    "norm",
    "scaled_weight",
]

NORM_EPSILON = 1e-5


def expand(layer: LayerSpec, x: Tensor, tensors: Mapping[str, Tensor] = MappingProxyType({})) -> Tensor:
    """The expansion [..., features] of x [..., inputs].

    `tensors` hold those that `layer.inner` names and the buffers, [heads, ...], and x is [heads, rows, inputs]; where
    there are none, x may have any leading axes. A basis with a function on every edge is left out (`edge_forward`).
    """
    normed = norm(layer, x, tensors) if layer.normed else None
    parts = []
    for branch in layer.branches:
        z = normed if branch.normed else x
        knotted = layer.knots and branch.basis == "b_spline"
        basis = basis_of(branch.basis)
        if basis.per_edge:
            continue
        if knotted:
            parts.append(knot_spline(z, tensors["knots"], layer.grid.order))
        elif basis.expand is not None:
            parts.append(basis.expand(z, layer.grid, tensors))
        else:
            parts.append(EXPANSIONS[branch.basis](z, layer.grid))
    if layer.units:
        return (torch.cat(parts, -1) * tensors["unit"].unsqueeze(-3)).sum(-1)
    if not parts:
        return x[..., :0]
    return parts[0].flatten(-2) if len(parts) == 1 else torch.cat([part.flatten(-2) for part in parts], -1)


def norm(layer: LayerSpec, x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The trained layer norm of x [heads, rows, inputs]."""
    normed = torch.nn.functional.layer_norm(x, (layer.inputs,), eps=NORM_EPSILON)
    return normed * tensors["norm_scale"].unsqueeze(-2) + tensors["norm_shift"].unsqueeze(-2)


def scaled_weight(layer: LayerSpec, tensors: Mapping[str, Tensor]) -> Tensor:
    """Weights [heads, features, out] with the scaler [heads, inputs, out], if any, on the first branch's part."""
    weight = tensors["weight"]
    if not layer.scaler:
        return weight
    split, width = layer.inputs * layer.widths[0], layer.widths[0]
    spline = weight[:, :split].unflatten(1, (layer.inputs, width)) * tensors["scaler"].unsqueeze(2)
    return torch.cat([spline.flatten(1, 2), weight[:, split:]], 1)


def linear(layer: LayerSpec, expansion: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The linear map alone: expansion [heads, rows, features] to [heads, rows, out]."""
    weight = scaled_weight(layer, tensors)
    if layer.bias:
        return torch.baddbmm(tensors["bias"].unsqueeze(1), expansion, weight)
    return torch.bmm(expansion, weight)


def layer_forward(layer: LayerSpec, x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Outputs [heads, rows, out] of x [heads, rows, inputs]."""
    return edge_forward(layer, x, tensors) if layer.per_edge else linear(layer, expand(layer, x, tensors), tensors)


def edge_forward(layer: LayerSpec, x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """`layer_forward` where the first branch has a function on every edge: y_o = sum_i w_io f_io(x_i) + the rest."""
    y = edge_terms(layer, x, tensors).sum(2)
    if len(layer.branches) > 1:
        y = y + torch.bmm(expand(layer, x, tensors), tensors["weight"][:, layer.inputs :])
    return y + tensors["bias"].unsqueeze(1) if layer.bias else y


def edge_terms(layer: LayerSpec, x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """What the first branch's function adds on every edge, [heads, rows, inputs, out], of x [heads, rows, inputs]."""
    first = layer.branches[0]
    z = norm(layer, x, tensors) if first.normed else x
    edges = basis_of(first.basis).expand(z, layer.grid, tensors)
    return edges * tensors["weight"][:, : layer.inputs].unsqueeze(1)


def network_forward(network: NetworkSpec, x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Logits [heads, rows, outputs] of features x [heads, rows, inputs]."""
    total: Tensor | None = None
    for chain in network.chains:
        y = x
        for index in chain:
            y = layer_forward(network.layers[index], y, layer_tensors(tensors, index))
        total = y if total is None else total + y
    return total


def layer_tensors(tensors: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """One layer's tensors, named `layers.N.name` in `tensors`, under their short names."""
    prefix = f"layers.{index}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
