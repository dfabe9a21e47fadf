"""Chebyshev series of tanh, as ChebyKAN."""

from typing import TYPE_CHECKING

from pipeline.heads.family import KAN, Family, kan_layer
from pipeline.heads.network import LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.heads.initializers import Draw

__all__ = ["FAMILY"]


def _initialize(layer: LayerSpec, draw: "Draw") -> "dict[str, Tensor]":
    """ChebyKAN's start: coefficients normal with std 1 / (inputs (degree + 1))."""
    from pipeline.heads.initializers import norm_and_bias, with_base

    features = layer.inputs * layer.widths[0]
    found = with_base(layer, draw, draw.normal((features, layer.outputs), 1 / features))
    return found | norm_and_bias(layer, draw, layer.inputs)


FAMILY = Family(
    position=6,
    color="#b07d00",
    is_kan=True,
    options=(*KAN, "order"),
    layer=kan_layer("chebyshev"),
    initialize=_initialize,
    defaults={"base": "zero", "layer_norm": False},
    source="ChebyKAN",
    link="https://github.com/SynodicMonth/ChebyKAN",
    formula="y = sum over n = 0..k of T_n(tanh(x)) W_n",
    parameters="D * O * (k + 1)",
    flops="2 * D * O * (k + 1) + D * (1 + 3 * (k - 1))",
    note=(
        "`--order` is the degree. tanh maps the features to (-1, 1), where Chebyshev polynomials stay within -1 and 1."
    ),
)
