"""What a head costs: trained parameters, and floating-point operations for one row forward."""

import math

from pipeline.heads.network import BASES, LayerSpec, NetworkSpec

__all__ = ["forward_flops", "parameters"]


def parameters(network: NetworkSpec) -> int:
    """Trained parameters: the numbers that the head's tensors hold."""
    return sum(math.prod(shape) for shape in network.shapes().values())


def _layer_flops(layer: LayerSpec) -> int:
    """Products count two a weight; elementwise work as each basis declares it; a layer norm eight an input.

    The norm's eight: mean (1), centre (1), square and sum (2), scale by the root (1), trained scale and shift (2), and
    one for the shares of the root and divisions.
    """
    elementwise = sum(BASES[branch.basis].flops(layer.grid) for branch in layer.branches) + 8 * layer.normed
    elementwise += 2 * sum(layer.widths) if layer.units else 0
    scaler = layer.inputs * layer.widths[0] * layer.outputs if layer.scaler else 0
    return layer.inputs * elementwise + 2 * layer.features * layer.outputs + layer.bias * layer.outputs + scaler


def forward_flops(network: NetworkSpec) -> int:
    """Floating-point operations of one row's forward pass, elementwise work included."""
    return sum(map(_layer_flops, network.layers)) + (network.stacks - 1) * network.outputs
