"""A head's network: a list of (basis expansion, linear map) pairs, and the parameters it holds.

One layer computes `y = [phi_1(z_1), phi_2(z_2), ...] W + b`, where each phi is a basis and each z is the layer's input
or its layer norm. `W` is [features, out] with the bases' features one after the other, each input-major. With a
separate scaler s [inputs, out], the first basis's weights are multiplied by s (efficient-kan's `spline_scaler`).

Nothing here computes, so that a head can be named, counted and looked up without PyTorch;
`pipeline.heads.forward` does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["BASES", "Basis", "Branch", "Grid", "LayerSpec", "NetworkSpec"]


@dataclass(frozen=True)
class Grid:
    """Where a basis puts its functions.

    `intervals` and `order` matter to B-splines, `centres` and `sharpness` (the switch's inverse width d) to the others;
    `low` and `high` bound the grid for both.
    """

    low: float = -3.0
    high: float = 3.0
    intervals: int = 5
    order: int = 3
    centres: int = 8
    sharpness: float = 1.0


@dataclass(frozen=True)
class Basis:
    """How many values a basis makes of one input, and its elementwise operations for them.

    Each of exp, tanh and division counts as one operation.
    """

    width: Callable[[Grid], int]
    flops: Callable[[Grid], int]


def _one(flops: int) -> Basis:
    return Basis(lambda _: 1, lambda _: flops)


BASES: dict[str, Basis] = {
    "identity": _one(0),
    "relu": _one(1),
    "gelu": _one(8),
    "silu": _one(4),
    "tanh": _one(1),
    "sigmoid": _one(3),
    # A function: subtract, abs, then per term subtract, clamp, power, scale, add; two operations place x on the grid.
    "b_spline": Basis(
        lambda g: g.intervals + g.order,
        lambda g: 2 + (g.intervals + g.order) * (2 + (g.order // 2 + 1) * (4 + g.order - 1) - 1),
    ),
    "radial": Basis(lambda g: g.centres, lambda g: 5 * g.centres),
    "switch": Basis(lambda g: g.centres, lambda g: 5 * g.centres),
}


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
