"""A head's network: stacks of (basis expansion, linear map) pairs whose outputs are summed, and what they hold.

One layer computes `y = [phi_1(z_1), phi_2(z_2), ...] W + b`, where each phi is a basis and each z is the layer's input
or its layer norm. `W` is [features, out] with the bases' features one after the other, each input-major. With a
separate scaler s [inputs, out], the first basis's weights are multiplied by s (efficient-kan's `spline_scaler`).

With a `unit` tensor c [units, widths], the bases' values of input i are first summed to one number, with the weights
c_i (one learned function an input: bspline_mlp) or c_0 (one for all inputs: a polynomial activation), so that `W` is
[inputs, out]: `y = f(z) W + b`, `f_i(z) = sum_k c_ik phi_k(z_i)`.

Nearly every network is one stack of layers; ensemble_kan is three.

Nothing here computes, so that a head can be named, counted and looked up without PyTorch;
`pipeline.heads.forward` does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["BASES", "OWN_BASES", "Basis", "Branch", "Grid", "LayerSpec", "NetworkSpec", "basis_of"]


@dataclass(frozen=True)
class Grid:
    """Where a basis puts its functions.

    `intervals` and `order` matter to B-splines, `centres` to radial and switch bases, `sharpness` (the inverse width d)
    to the switch; `low` and `high` bound the grid for all of them. A Fourier series has `intervals` frequencies, a
    Chebyshev series is of degree `order`.
    """

    low: float = -3.0
    high: float = 3.0
    intervals: int = 5
    order: int = 3
    centres: int = 8
    sharpness: float = 1.0


@dataclass(frozen=True)
class Basis:
    """How many values a basis makes of one input, and its elementwise operations for them (see `heads.cost`).

    A family's own basis brings its function too: `expand` takes x [heads, rows, inputs], the grid and the layer's
    tensors [heads, ...]. It returns [heads, rows, inputs, width], or, with `per_edge`, [heads, rows, inputs, outputs]:
    one value for each edge, of width 1, which the weights [inputs, outputs] multiply one by one. Trained parameters of
    the basis have the shapes that `shapes` gives for a layer and the values that `initial` gives; `module` returns the
    class of the exported head's basis and `arguments` what it is made with.
    """

    width: Callable[[Grid], int]
    flops: Callable[[Grid], int]
    expand: "Callable[[Tensor, Grid, Mapping[str, Tensor]], Tensor] | None" = None
    per_edge: bool = False
    shapes: "Callable[[LayerSpec], dict[str, tuple[int, ...]]] | None" = None
    initial: "Callable[[LayerSpec], dict[str, Tensor]] | None" = None
    module: "Callable[[], type[nn.Module]] | None" = None
    arguments: "Callable[[LayerSpec], tuple[Any, ...]] | None" = None


def _one(flops: int) -> Basis:
    return Basis(lambda _: 1, lambda _: flops)


BASES: dict[str, Basis] = {
    "identity": _one(0),
    "relu": _one(1),
    "gelu": _one(5),  # x 0.5 (1 + erf(x / sqrt 2))
    "silu": _one(4),  # x / (1 + exp(-x))
    "tanh": _one(1),
    "sigmoid": _one(4),
    "square_relu": _one(2),
    **{
        f"polynomial{degree}": Basis(lambda _, width=degree + 1: width, lambda _, flops=degree - 1: flops)
        for degree in (2, 3, 5)
    },
    # A function: subtract, abs, then per term subtract, clamp, power, scale, add; two operations place x on the grid.
    "b_spline": Basis(
        lambda g: g.intervals + g.order,
        lambda g: 2 + (g.intervals + g.order) * (2 + (g.order // 2 + 1) * (4 + g.order - 1) - 1),
    ),
    "radial": Basis(lambda g: g.centres, lambda g: 5 * g.centres),
    "switch": Basis(lambda g: g.centres, lambda g: 5 * g.centres),
    # Multiples of x, and a cosine and a sine of each; tanh, then T_n = 2 x T_{n-1} - T_{n-2} from n = 2 on.
    "fourier": Basis(lambda g: 2 * g.intervals, lambda g: 3 * g.intervals),
    "chebyshev": Basis(lambda g: g.order + 1, lambda g: 1 + 3 * (g.order - 1)),
}


#: Bases that one family alone has (`Family.bases`), by name; the registry of families fills it in.
OWN_BASES: dict[str, Basis] = {}


def basis_of(name: str) -> Basis:
    """The basis of a name, whether families share it or one has it to itself."""
    return BASES[name] if name in BASES else OWN_BASES[name]


@dataclass(frozen=True)
class Branch:
    """One basis of a layer; `normed` says whether it reads the layer norm of the input."""

    basis: str
    normed: bool = False


@dataclass(frozen=True)
class LayerSpec:
    """One (basis, linear) pair; everything that decides the shapes of its tensors.

    `units` is the number of learned functions in front of the linear map: 0 (none), 1 (all inputs share one) or
    `inputs` (each has its own). With `knots`, B-splines stand on each input's own, which a buffer holds.
    """

    inputs: int
    outputs: int
    branches: tuple[Branch, ...]
    grid: Grid = field(default_factory=Grid)
    bias: bool = False
    scaler: bool = False
    units: int = 0
    knots: bool = False

    @property
    def normed(self) -> bool:
        """Whether a trained layer norm stands in front of a basis."""
        return any(branch.normed for branch in self.branches)

    @property
    def widths(self) -> tuple[int, ...]:
        """Values that each branch makes of one input."""
        return tuple(basis_of(branch.basis).width(self.grid) for branch in self.branches)

    @property
    def features(self) -> int:
        """Columns that the linear map reads: inputs times the widths of all branches, or inputs behind units."""
        return self.inputs * (1 if self.units else sum(self.widths))

    @property
    def per_edge(self) -> bool:
        """Whether the first branch has a function of its own on every edge."""
        return basis_of(self.branches[0].basis).per_edge

    @property
    def basis_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the bases' own trained tensors, by name."""
        makers = [basis_of(branch.basis).shapes for branch in self.branches]
        return {name: shape for make in makers if make is not None for name, shape in make(self).items()}

    @property
    def inner(self) -> tuple[str, ...]:
        """Names of the trained tensors in front of the linear map; without any, the expansion is a constant of x."""
        return ("norm_scale", "norm_shift") * self.normed + ("unit",) * bool(self.units) + tuple(self.basis_shapes)

    @property
    def numbers(self) -> int:
        """Numbers that the layer makes of one row on its way to the outputs: what an evaluation must hold at once."""
        return self.inputs * (sum(self.widths) + (self.outputs if self.per_edge else 0))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every trained tensor of the layer, by name."""
        found: dict[str, tuple[int, ...]] = {"weight": (self.features, self.outputs)}
        if self.scaler:
            found["scaler"] = (self.inputs, self.outputs)
        if self.bias:
            found["bias"] = (self.outputs,)
        if self.normed:
            found |= {"norm_scale": (self.inputs,), "norm_shift": (self.inputs,)}
        if self.units:
            found["unit"] = (self.units, sum(self.widths))
        return found | self.basis_shapes

    def buffers(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor that is kept with the layer but not trained, by name."""
        return {"knots": (self.inputs, self.grid.intervals + 2 * self.grid.order + 1)} if self.knots else {}


@dataclass(frozen=True)
class NetworkSpec:
    """The layers of a head: `stacks` stacks of equal depth, one after the other, each first to last.

    All stacks read the features; the head's output is the sum of theirs. Where a trained pool makes them from a row's
    tokens, `pool` is the layer whose one output is a token's score (`pipeline.fit.attention`).
    """

    layers: tuple[LayerSpec, ...]
    stacks: int = 1
    pool: LayerSpec | None = None

    @property
    def chains(self) -> tuple[range, ...]:
        """For every stack, the numbers of its layers."""
        depth = len(self.layers) // self.stacks
        return tuple(range(start, start + depth) for start in range(0, len(self.layers), depth))

    @property
    def constant(self) -> bool:
        """Whether the first expansion is a constant of the features, so that it can be made once for a split."""
        return self.stacks == 1 and not self.layers[0].inner and self.pool is None

    @property
    def inputs(self) -> int:
        """Width of the features that the head reads."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Classes, or 1 for regression."""
        return self.layers[-1].outputs

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every trained tensor, named `layers.N.name`, and `pool.weight`."""
        return {
            f"layers.{index}.{name}": shape
            for index, layer in enumerate(self.layers)
            for name, shape in layer.shapes().items()
        } | ({} if self.pool is None else {"pool.weight": self.pool.shapes()["weight"]})

    def buffers(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor that is kept but not trained, named `layers.N.name`."""
        return {
            f"layers.{index}.{name}": shape
            for index, layer in enumerate(self.layers)
            for name, shape in layer.buffers().items()
        }
