"""Wavelets with a trained translation and scale on every edge, as Wav-KAN (arXiv 2405.12832).

Wav-KAN's implementation also puts a batch norm behind every layer; here `layer_norm` may stand in front of one instead,
because a batch norm would make a row's output depend on its minibatch.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.heads.family import Family, kan_layer
from pipeline.heads.network import Basis, Grid, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["FAMILY", "mexican_hat"]


def mexican_hat(x: "Tensor", grid: Grid, tensors: "Mapping[str, Tensor]") -> "Tensor":  # noqa: ARG001
    """psi(u) = 2 / (sqrt(3) pi^(1/4)) (u^2 - 1) exp(-u^2 / 2) of u_io = (x_i - t_io) / s_io.

    x [heads, rows, inputs] with `translation` t and `scale` s [heads, inputs, outputs] gives
    [heads, rows, inputs, outputs].
    """
    u = (x.unsqueeze(-1) - tensors["translation"].unsqueeze(1)) / tensors["scale"].unsqueeze(1)
    square = u**2
    return 2 / (math.sqrt(3) * math.pi**0.25) * (square - 1) * (-square / 2).exp()


def _shapes(layer: LayerSpec) -> dict[str, tuple[int, ...]]:
    return {"translation": (layer.inputs, layer.outputs), "scale": (layer.inputs, layer.outputs)}


def _initial(layer: LayerSpec) -> "dict[str, Tensor]":
    """The implementation's: no translation, scale one."""
    import torch

    return {
        "translation": torch.zeros(layer.inputs, layer.outputs), "scale": torch.ones(layer.inputs, layer.outputs)
    }  # fmt: skip


def _module() -> "type[nn.Module]":
    import math

    import torch
    from torch import nn

    class MexicanHat(nn.Module):
        """psi((x_i - t_io) / s_io) on every edge: x [rows, inputs] to [rows, inputs, outputs]."""

        width, per_edge = 1, True

        def __init__(self, inputs, outputs):
            super().__init__()
            self.translation = nn.Parameter(torch.zeros(inputs, outputs))
            self.scale = nn.Parameter(torch.ones(inputs, outputs))

        def forward(self, x):
            square = ((x.unsqueeze(-1) - self.translation) / self.scale) ** 2
            return 2 / (3**0.5 * math.pi**0.25) * (square - 1) * torch.exp(-square / 2)

    return MexicanHat


FAMILY = Family(
    position=10,
    color="#a3153d",
    is_kan=True,
    options=("hidden", "base", "layer_norm"),
    layer=kan_layer("mexican_hat"),
    defaults={"base": "zero", "layer_norm": False},
    bases={
        # Subtract, divide, square, minus one, halve, exp, two products.
        "mexican_hat": Basis(
            width=lambda _: 1,
            flops=lambda _: 8,
            expand=mexican_hat,
            per_edge=True,
            shapes=_shapes,
            initial=_initial,
            module=_module,
            arguments=lambda layer: (layer.inputs, layer.outputs),
        )
    },
    source="Wav-KAN, arXiv 2405.12832",
    link="https://github.com/zavareh1/Wav-KAN",
    formula="y_o = sum over i of w_io psi((x_i - t_io) / s_io),\n"
    "psi(u) = 2 / (sqrt(3) pi^(1/4)) (u^2 - 1) exp(-u^2 / 2)",
    parameters="3 * D * O",
    flops="10 * D * O",
    note=(
        "Mexican-hat wavelets; every edge trains a weight w, a translation t (from 0) and a scale s (from 1). The "
        "function is computed once an edge, which no matrix product can do: a head costs more time than its FLOPs say. "
        "Wav-KAN's implementation puts a batch norm behind every layer; `--layer-norm` puts a layer norm in front."
    ),
)
