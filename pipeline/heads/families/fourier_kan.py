"""Cosine and sine series, as FR-KAN (arXiv 2408.08803)."""

import math
from typing import TYPE_CHECKING

from pipeline.heads.family import GRID, KAN, Family, kan_layer
from pipeline.heads.network import LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.heads.initializers import Draw

__all__ = ["FAMILY"]


def _initialize(layer: LayerSpec, draw: "Draw") -> "dict[str, Tensor]":
    """FR-KAN's start: coefficients normal with std 1 / sqrt(inputs frequencies), biases zero."""
    import torch

    from pipeline.heads.initializers import norm_and_bias, with_base

    std = 1 / math.sqrt(layer.inputs * layer.grid.intervals)
    found = with_base(layer, draw, draw.normal((layer.inputs * layer.widths[0], layer.outputs), std))
    return found | norm_and_bias(layer, draw, layer.inputs) | {"bias": torch.zeros(layer.outputs)}


FAMILY = Family(
    position=5,
    color="#b04a86",
    is_kan=True,
    options=(*KAN, *GRID),
    layer=kan_layer("fourier", bias=True),
    initialize=_initialize,
    defaults={"base": "zero", "layer_norm": False},
    source="FR-KAN, arXiv 2408.08803",
    formula="y = sum over g = 1..G of cos(g x) A_g + sin(g x) B_g + b",
    parameters="2 * D * O * G + O",
    flops="4 * D * O * G + O + 3 * D * G",
    note=(
        "`--grid` is the number of frequencies. The basis has no range: it is periodic. `--hidden none` is FR-"
        "KAN's head of one layer, from features to classes."
    ),
)
