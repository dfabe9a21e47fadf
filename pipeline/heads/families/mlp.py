"""Linear maps with an activation between them."""

from typing import TYPE_CHECKING

from pipeline.heads.config import HeadConfig
from pipeline.heads.family import Family, linear
from pipeline.heads.network import Branch, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.heads.initializers import Draw

__all__ = ["FAMILY"]


def _layer(family: Family, config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:
    if first:
        return linear(family, config, inputs, outputs, first)
    activation = str(config.activation)
    branch, shared = Branch(activation, bool(config.layer_norm)), activation.startswith("polynomial")
    return LayerSpec(inputs, outputs, (branch,), bias=True, units=int(shared))


def _initialize(layer: LayerSpec, draw: "Draw") -> "dict[str, Tensor]":
    from pipeline.heads.initializers import as_kanbefair

    return as_kanbefair(layer, draw)


FAMILY = Family(
    position=1,
    color="#111827",
    options=("hidden", "activation", "layer_norm", "dropout"),
    layer=_layer,
    initialize=_initialize,
    defaults={"layer_norm": False},
    source="linear maps with an activation between them",
    formula="y = a(x) W + b",
    parameters="D * O + O",
    flops="2 * D * O + O + D * M",
    note=(
        "The first layer is linear in the features (M = 0). `--activation` is one of relu, square_relu, gelu, "
        "silu, tanh, sigmoid, identity, polynomial2, polynomial3 and polynomial5; a polynomial's coefficients are "
        "trained, one set a layer."
    ),
)
