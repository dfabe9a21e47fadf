"""Layer norm, Gaussian radial basis functions and a base branch, as fast-kan (arXiv 2405.06721)."""

from typing import TYPE_CHECKING

from pipeline.heads.family import KAN, Family, kan_layer
from pipeline.heads.network import LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.heads.initializers import Draw

__all__ = ["FAMILY"]


def _initialize(layer: LayerSpec, draw: "Draw") -> "dict[str, Tensor]":
    """fast-kan's start: spline weights normal with std 0.1, cut at 2; the base branch as `torch.nn.Linear`."""
    from pipeline.heads.initializers import norm_and_bias, with_base

    spline = draw.truncated_normal((layer.inputs * layer.widths[0], layer.outputs), 0.1)
    return with_base(layer, draw, spline) | norm_and_bias(layer, draw, layer.inputs)


FAMILY = Family(
    position=3,
    color="#d55e00",
    is_kan=True,
    options=(*KAN, "centres", "grid_range"),
    layer=kan_layer("radial", bias=True),
    initialize=_initialize,
    package_range=(-2.0, 2.0),
    defaults={"base": "silu", "layer_norm": True},
    source="fast-kan, arXiv 2405.06721",
    link="https://github.com/ZiyaoLi/fast-kan",
    formula="y = sum over j of exp(-((LN(x) - c_j) / w)^2) W_j + silu(x) W_b + b",
    parameters="D * O * (K + 1) + O + 2 * D",
    flops="2 * D * O * (K + 1) + O + D * (5 * K + 4 + 8)",
    note=(
        "K even centres c_j (`--centres`), w the distance between two of them; LN is a layer norm with trained "
        "scale and shift, in front of the Gaussians only."
    ),
)
