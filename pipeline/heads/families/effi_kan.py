"""B-splines and a base branch, as efficient-kan."""

import math
from typing import TYPE_CHECKING

from pipeline.heads.family import SPLINE, Family, kan_layer
from pipeline.heads.network import LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.heads.initializers import Draw

__all__ = ["FAMILY"]


def _initialize(layer: LayerSpec, draw: "Draw") -> "dict[str, Tensor]":
    """efficient-kan's start: Kaiming-uniform with a = sqrt(5) for base weights and scaler (bound 1 / sqrt(inputs)).

    Spline weights are the fit through noise; without a scaler it is used as it is.
    """
    from pipeline.heads.initializers import norm_and_bias, spline_noise, with_base

    found = with_base(layer, draw, spline_noise(layer.grid, draw, layer.inputs, layer.outputs).flatten(0, 1))
    if layer.scaler:
        found["scaler"] = draw.uniform((layer.inputs, layer.outputs), 1 / math.sqrt(layer.inputs))
    return found | norm_and_bias(layer, draw, layer.inputs)


FAMILY = Family(
    position=2,
    color="#0072b2",
    is_kan=True,
    options=(*SPLINE, "update_grid", "spline_scaler"),
    layer=kan_layer("b_spline"),
    initialize=_initialize,
    defaults={"base": "silu", "layer_norm": False},
    source="efficient-kan",
    link="https://github.com/Blealtan/efficient-kan",
    formula="y = sum over j of B_j(x) W_j + silu(x) W_b",
    parameters="D * O * (G + k + 1)",
    flops="2 * D * O * (G + k + 1) + D * (S + 4)",
    note=(
        "B_j are the G + k B-splines of order k on G intervals (`--grid`, `--order`, `--grid-range`): inside the "
        "range they are non-negative and sum to one, outside it they fade to zero. With `--spline-scaler` every "
        "edge's splines are multiplied by a number of its own, as in efficient-kan: D * O more parameters, and (G "
        "+ k) * D * O products. With `--update-grid N` every input has knots of its own, where its values are: "
        "before each of the first N epochs mostly quantiles, and the weights the least-squares fit to the same "
        "splines; a forward pass then costs the recursion of Cox and de Boor."
    ),
)
