"""Layer norm and reflectional switch functions, as faster-kan."""

import math
from typing import TYPE_CHECKING

from pipeline.heads.family import KAN, Family, kan_layer
from pipeline.heads.network import LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.heads.initializers import Draw

__all__ = ["FAMILY"]


def _initialize(layer: LayerSpec, draw: "Draw") -> "dict[str, Tensor]":
    """faster-kan's start: Xavier-uniform spline weights."""
    from pipeline.heads.initializers import norm_and_bias, with_base

    features = layer.inputs * layer.widths[0]
    spline = draw.uniform((features, layer.outputs), math.sqrt(6 / (features + layer.outputs)))
    return with_base(layer, draw, spline) | norm_and_bias(layer, draw, layer.inputs)


FAMILY = Family(
    position=4,
    color="#00875f",
    is_kan=True,
    options=(*KAN, "centres", "grid_range", "sharpness"),
    layer=kan_layer("switch"),
    initialize=_initialize,
    package_range=(-1.2, 0.2),
    defaults={"base": "zero", "layer_norm": True},
    source="faster-kan",
    link="https://github.com/AthanasiosDelis/faster-kan",
    formula="y = sum over j of (1 - tanh((LN(x) - c_j) d)^2) W_j",
    parameters="D * O * K + 2 * D",
    flops="2 * D * O * K + D * (5 * K + 8)",
    note=(
        "Reflectional switches. d = 1 (`--sharpness`) is what faster-kan's forward computes, whatever its "
        "denominator says; the gradient here is that of the formula."
    ),
)
