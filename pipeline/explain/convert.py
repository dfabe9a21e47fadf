"""Any head as a network of edges: their values over rows, and a small network of pykan's that does the same."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.fit.kan_forward import edge_values, start
from pipeline.heads.forward import edge_terms, expand, layer_forward, layer_tensors, scaled_weight
from pipeline.heads.pykan import PykanNetwork

if TYPE_CHECKING:
    from pipeline.models.saved import SavedHead

__all__ = ["head_edges", "head_outputs", "to_kan"]

#: Hidden nodes of the network that takes over from another family's head.
HIDDEN = 5


def head_outputs(head: "SavedHead", x: Tensor) -> Tensor:
    """What a head makes of scaled features x [rows, in], float64 [rows, out], in its own (standardised) units."""
    from pipeline.fit.kan_forward import forward
    from pipeline.heads.forward import network_forward

    with torch.no_grad():
        if isinstance(head.network, PykanNetwork):
            return forward({name: tensor.double() for name, tensor in head.tensors.items()}, x)
        stacked = {name: tensor.unsqueeze(0).double() for name, tensor in head.tensors.items()}
        return network_forward(head.network, x.unsqueeze(0), stacked)[0]


@torch.no_grad()
def head_edges(head: "SavedHead", x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For every layer its inputs [in, rows] and what each edge adds [in, out, rows], of scaled features x [rows, in].

    Behind a layer norm an edge's value depends a little on the other inputs too. Raises `ConfigError` for a sum of
    networks, which has no edges of its own.
    """
    if isinstance(head.network, PykanNetwork):
        return edge_values({name: tensor.double() for name, tensor in head.tensors.items()}, x)
    if head.network.stacks > 1:
        raise ConfigError(f"head {head.id}: expected one network, found a sum of {head.network.stacks}; explain a part")
    tensors, found, x = {name: tensor.unsqueeze(0) for name, tensor in head.tensors.items()}, [], x.float()
    for index, layer in enumerate(head.network.layers):
        own = layer_tensors(tensors, index)
        weight, widths = scaled_weight(layer, own)[0], (1,) if layer.units else layer.widths
        added = torch.zeros(layer.inputs, layer.outputs, len(x))
        if layer.per_edge:
            added += edge_terms(layer, x.unsqueeze(0), own)[0].permute(1, 2, 0)
            weight, widths = weight[layer.inputs :], widths[1:]
        expansion = expand(layer, x.unsqueeze(0), own)[0] if widths else x.new_zeros(len(x), 0)
        begin = 0
        for width in widths:
            columns = slice(begin, begin + layer.inputs * width)
            begin = columns.stop
            values = expansion[:, columns].unflatten(1, (layer.inputs, width))
            added += torch.einsum("niw,iwo->ion", values, weight[columns].unflatten(0, (layer.inputs, width)))
        found.append((x.T, added))
        x = layer_forward(layer, x.unsqueeze(0), own)[0]
    return found


def to_kan(head: "SavedHead", seed: int, inputs: int) -> dict[str, Tensor]:
    """A start for a network of pykan's [inputs, 5, out] that is to learn what a head of another family does."""
    return start((inputs, HIDDEN, head.network.outputs), 5, 3, (-3, 3), seed)
