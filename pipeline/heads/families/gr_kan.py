"""Rational functions that groups of inputs share, then a linear map, as KAT's GR-KAN (arXiv 2409.10594)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.heads.config import HeadConfig
from pipeline.heads.family import Family
from pipeline.heads.network import Basis, Branch, Grid, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.heads.initializers import Draw

__all__ = ["FAMILY", "rational"]

#: Groups of inputs, each with coefficients of its own (fewer where there are fewer inputs).
GROUPS = 8
#: First coefficients a_0..a_5 and b_1..b_4: the identity, and silu, fitted by least squares on [-3, 3] (error 2e-06).
INITIAL = {
    "rational_identity": ((0.0, 1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
    "rational_silu": ((0.0, 0.5, 0.249997, 0.05325, 0.005795, 0.000274), (0.0, 0.1065, 0.0, 0.000548)),
}
#: E[f(z)^2] of both for standard normal z: weights of variance 1 / (inputs E[f^2]) keep an output's variance at one.
SECOND_MOMENTS = {"rational_identity": 1.0, "rational_silu": 0.355715}


def rational(x: "Tensor", grid: Grid, tensors: "Mapping[str, Tensor]") -> "Tensor":  # noqa: ARG001
    """(a_0 + a_1 x + ... + a_5 x^5) / (1 + |b_1 x + ... + b_4 x^4|): x [heads, rows, inputs] to [..., inputs, 1].

    `numerator` is [heads, groups, 6] and `denominator` [heads, groups, 4]; neighbouring inputs share a group.
    """
    import torch

    groups = tensors["numerator"].shape[-2]
    index = torch.arange(x.shape[-1], device=x.device) * groups // x.shape[-1]
    a = tensors["numerator"].index_select(-2, index).unsqueeze(-3).unbind(-1)
    b = tensors["denominator"].index_select(-2, index).unsqueeze(-3).unbind(-1)
    p = a[0] + x * (a[1] + x * (a[2] + x * (a[3] + x * (a[4] + x * a[5]))))
    q = x * (b[0] + x * (b[1] + x * (b[2] + x * b[3])))
    return (p / (1 + q.abs())).unsqueeze(-1)


def _shapes(layer: LayerSpec) -> dict[str, tuple[int, ...]]:
    groups = min(GROUPS, layer.inputs)
    return {"numerator": (groups, 6), "denominator": (groups, 4)}


def _initial(layer: LayerSpec) -> "dict[str, Tensor]":
    import torch

    groups = min(GROUPS, layer.inputs)
    a, b = INITIAL[layer.branches[0].basis]
    return {"numerator": torch.tensor(a).repeat(groups, 1), "denominator": torch.tensor(b).repeat(groups, 1)}


def _layer(family: Family, config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:
    basis = "rational_identity" if first else "rational_silu"
    return LayerSpec(inputs, outputs, (Branch(basis, family.setting(config, "layer_norm")),), bias=True)


def _initialize(layer: LayerSpec, draw: "Draw") -> "dict[str, Tensor]":
    """The paper's variance-preserving weights: normal, variance 1 / (inputs E[f(z)^2]); biases zero."""
    import torch

    from pipeline.heads.initializers import norm_and_bias

    std = (layer.inputs * SECOND_MOMENTS[layer.branches[0].basis]) ** -0.5
    weight = {"weight": draw.normal((layer.features, layer.outputs), std)}
    return weight | _initial(layer) | norm_and_bias(layer, draw, layer.inputs) | {"bias": torch.zeros(layer.outputs)}


def _module() -> "type[nn.Module]":
    import torch
    from torch import nn

    class Rational(nn.Module):
        """(a_0 + ... + a_5 x^5) / (1 + |b_1 x + ... + b_4 x^4|), coefficients by group of inputs: [...] to [..., 1]."""

        width = 1
        group: torch.Tensor

        def __init__(self, inputs, groups):
            super().__init__()
            self.numerator = nn.Parameter(torch.zeros(groups, 6))
            self.denominator = nn.Parameter(torch.zeros(groups, 4))
            self.register_buffer("group", torch.arange(inputs) * groups // inputs, persistent=False)

        def forward(self, x):
            a = self.numerator.index_select(0, self.group).unbind(-1)
            b = self.denominator.index_select(0, self.group).unbind(-1)
            p = a[0] + x * (a[1] + x * (a[2] + x * (a[3] + x * (a[4] + x * a[5]))))
            q = x * (b[0] + x * (b[1] + x * (b[2] + x * b[3])))
            return (p / (1 + q.abs())).unsqueeze(-1)

    return Rational


_BASIS = Basis(
    width=lambda _: 1,
    flops=lambda _: 20,  # by Horner's rule: 10 and 7, absolute value, plus one, quotient
    expand=rational,
    shapes=_shapes,
    initial=_initial,
    module=_module,
    arguments=lambda layer: (layer.inputs, min(GROUPS, layer.inputs)),
)

FAMILY = Family(
    position=11,
    color="#3f5f00",
    is_kan=True,
    options=("hidden", "layer_norm", "dropout"),
    layer=_layer,
    initialize=_initialize,
    defaults={"layer_norm": False},
    bases=dict.fromkeys(INITIAL, _BASIS),
    source="KAT, arXiv 2409.10594",
    link="https://github.com/Adamdad/kat",
    formula="y = f(x) W + b,  f(x) = (a_0 + a_1 x + ... + a_5 x^5) / (1 + |b_1 x + ... + b_4 x^4|)",
    parameters="D * O + O + 10 * min(8, D)",
    flops="2 * D * O + O + 20 * D",
    note=(
        "Each of eight groups of neighbouring inputs has a rational function of its own (a safe Pade approximant), the "
        "identity at first in the first layer and silu in the others. `--init package` draws weights whose variance "
        "keeps an output's at one."
    ),
)
