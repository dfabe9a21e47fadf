"""An MLP whose activations are learned B-splines, as KANbeFair's ablation (arXiv 2407.16674)."""

from typing import TYPE_CHECKING

from pipeline.heads.config import HeadConfig
from pipeline.heads.family import GRID, Family, grid_of, linear
from pipeline.heads.network import Branch, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.heads.initializers import Draw

__all__ = ["FAMILY"]


def _layer(family: Family, config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:
    if first:
        return linear(family, config, inputs, outputs, first)
    basis = () if config.activation == "none" else (Branch(str(config.activation)),)
    branches = (Branch("b_spline", bool(config.layer_norm)), *basis)
    return LayerSpec(inputs, outputs, branches, grid_of(family, config), bias=True, units=inputs)


def _initialize(layer: LayerSpec, draw: "Draw") -> "dict[str, Tensor]":
    from pipeline.heads.initializers import as_kanbefair

    return as_kanbefair(layer, draw)


FAMILY = Family(
    position=7,
    color="#2f8fc9",
    options=("hidden", "activation", "layer_norm", "dropout", *GRID, "order", "grid_range"),
    layer=_layer,
    initialize=_initialize,
    defaults={"activation": "none", "layer_norm": False},
    source="KANbeFair, arXiv 2407.16674",
    link="https://github.com/yu-rp/KANbeFair",
    formula="y = f(x) W + b,  f_i(x) = sum over j of c_ij B_j(x_i)",
    parameters="D * O + O + D * (G + k)",
    flops="2 * D * O + O + D * (S + 2 * (G + k) - 1)",
    note=(
        "An MLP whose activation is learned, one B-spline a unit, which is KANbeFair's ablation. The first layer "
        "is linear in the features. With `--activation` another function is summed into f_i, with a coefficient of"
        " its own."
    ),
)
