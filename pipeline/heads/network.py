"""A head's network: a list of (basis expansion, linear map) pairs, and the parameters it holds.

One layer computes `y = [phi_1(z_1), phi_2(z_2), ...] W + b`, where each phi is a basis and each z is the layer's input
or its layer norm. `W` is [features, out] with the bases' features one after the other, each input-major. With a
separate scaler s [inputs, out], the first basis's weights are multiplied by s (efficient-kan's `spline_scaler`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.heads.bases import BASES, Grid

__all__ = ["Branch", "LayerSpec", "NetworkSpec"]

NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Branch:
    """One basis of a layer; `normed` says whether it reads the layer norm of the input."""

    basis: str
    normed: bool = False


@dataclass(frozen=True)
class LayerSpec:
    """One (basis, linear) pair; everything that decides the shapes of its tensors."""

    inputs: int
    outputs: int
    branches: tuple[Branch, ...]
    grid: Grid = field(default_factory=Grid)
    bias: bool = False
    scaler: bool = False

    @property
    def normed(self) -> bool:
        """Whether a trained layer norm stands in front of a basis."""
        return any(branch.normed for branch in self.branches)

    @property
    def widths(self) -> tuple[int, ...]:
        """Values that each branch makes of one input."""
        return tuple(BASES[branch.basis].width(self.grid) for branch in self.branches)

    @property
    def features(self) -> int:
        """Columns of the expansion: inputs times the widths of all branches."""
        return self.inputs * sum(self.widths)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every trained tensor of the layer, by name."""
        found: dict[str, tuple[int, ...]] = {"weight": (self.features, self.outputs)}
        if self.scaler:
            found["scaler"] = (self.inputs, self.outputs)
        if self.bias:
            found["bias"] = (self.outputs,)
        if self.normed:
            found |= {"norm_scale": (self.inputs,), "norm_shift": (self.inputs,)}
        return found

    def expand(self, x: Tensor, norm_scale: Tensor | None = None, norm_shift: Tensor | None = None) -> Tensor:
        """The expansion [..., features] of x [..., inputs].

        The norm's tensors are [heads, inputs] and x [heads, rows, inputs]; without a norm, x may have any leading axes.
        """
        normed = None
        if self.normed:
            normed = torch.nn.functional.layer_norm(x, (self.inputs,), eps=NORM_EPSILON)
            normed = normed * norm_scale.unsqueeze(-2) + norm_shift.unsqueeze(-2)
        parts = [
            BASES[branch.basis].expand(normed if branch.normed else x, self.grid).flatten(-2)
            for branch in self.branches
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def scaled(self, weight: Tensor, scaler: Tensor) -> Tensor:
        """Weights [heads, features, out] with the scaler [heads, inputs, out] on the first branch's part."""
        split = self.inputs * self.widths[0]
        spline = weight[:, :split].unflatten(1, (self.inputs, self.widths[0])) * scaler.unsqueeze(2)
        return torch.cat([spline.flatten(1, 2), weight[:, split:]], 1)

    def forward(self, x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Outputs [heads, rows, out] of x [heads, rows, inputs] with stacked tensors [heads, ...]."""
        return self.linear(self.expand(x, tensors.get("norm_scale"), tensors.get("norm_shift")), tensors)

    def linear(self, expansion: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The linear map alone: expansion [heads, rows, features] to [heads, rows, out]."""
        weight = self.scaled(tensors["weight"], tensors["scaler"]) if self.scaler else tensors["weight"]
        if self.bias:
            return torch.baddbmm(tensors["bias"].unsqueeze(1), expansion, weight)
        return torch.bmm(expansion, weight)


@dataclass(frozen=True)
class NetworkSpec:
    """The layers of a head, first to last."""

    layers: tuple[LayerSpec, ...]

    @property
    def inputs(self) -> int:
        """Width of the features that the head reads."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Classes, or 1 for regression."""
        return self.layers[-1].outputs

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every trained tensor, named `layers.N.name`."""
        return {
            f"layers.{index}.{name}": shape
            for index, layer in enumerate(self.layers)
            for name, shape in layer.shapes().items()
        }

    def forward(self, x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Logits [heads, rows, outputs] of features x [heads, rows, inputs] with stacked tensors [heads, ...].

        Plain differentiable PyTorch: what the trainer's step and its kernels are tested against.
        """
        for index, layer in enumerate(self.layers):
            x = layer.forward(x, layer_tensors(tensors, index))
        return x


def layer_tensors(tensors: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """One layer's tensors under their short names."""
    prefix = f"layers.{index}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
