"""What a family of heads is: the record that a file of `pipeline.heads.families` defines as `FAMILY`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.heads.config import HeadConfig
from pipeline.heads.network import Basis, Branch, Grid, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.heads.initializers import Draw

__all__ = [
    "ACTIVATIONS",
    "BASES_OF_BASE",
    "GRID",
    "KAN",
    "SPLINE",
    "Family",
    "grid_of",
    "kan_layer",
    "linear",
]

#: A polynomial's coefficients are trained, shared by the units of a layer (KANbeFair).
ACTIVATIONS = (
    "relu", "square_relu", "gelu", "silu", "tanh", "sigmoid", "identity", "polynomial2", "polynomial3", "polynomial5",
)  # fmt: skip
#: What `base` names, and the branches that it adds to a KAN's layers.
BASES_OF_BASE = {"zero": (), "identity": (Branch("identity"),), "silu": (Branch("silu"),)}

#: Shape options of KANs, of grids that can grow, and of B-splines.
KAN = ("hidden", "base", "layer_norm", "dropout", "spline_l1", "spline_entropy")
GRID = ("grid", "earlier_grids", "grid_epochs")
SPLINE = (*KAN, *GRID, "order", "grid_range")


@dataclass(frozen=True)
class Family:
    """Everything that the project knows of a family of heads but its fast kernels.

    `position` orders families in tables and reports, `color` is the family's colour,
    `is_kan` says whether it counts as a KAN there.

    `options` are the shape options that count for the family, `defaults` its own where they differ from the
    protocol's; `layer` builds one layer from (family, configuration, inputs, outputs, whether it is the first);
    `initialize` draws a layer's weights as the original package does (`init="package"`; None: as the project does),
    `package_range` is the package's grid range. `stacks` are the families whose whole networks this one sums. `fixed`
    are options of training that mean nothing to a family with a loop of its own (`own_loop`), and `rates` its learning
    rates by optimiser.

    `bases` are bases that only this family has, by name (see `pipeline.heads.network.Basis`).

    `formula`, `parameters`, `flops` (expressions in the symbols of docs/families.md, of one layer), `note`, `source`
    and `link` are its documentation.
    """

    position: int
    color: str
    source: str
    formula: str
    parameters: str
    flops: str
    note: str
    link: str = ""
    is_kan: bool = False
    options: tuple[str, ...] = ()
    layer: "Callable[[Family, HeadConfig, int, int, bool], LayerSpec] | None" = None
    initialize: "Callable[[LayerSpec, Draw], dict[str, Tensor]] | None" = None
    package_range: tuple[float, float] | None = (-1.0, 1.0)
    hidden: Callable[[HeadConfig], tuple[int, ...]] = field(default=lambda config: config.hidden)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    stacks: tuple[str, ...] = ()
    own_loop: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    bases: Mapping[str, Basis] = field(default_factory=dict)

    def setting(self, config: HeadConfig, name: str) -> Any:
        """An option's value; a configuration holds it only where it is not the family's default."""
        value = getattr(config, name)
        return self.defaults.get(name) if value is None else value


def grid_of(family: Family, config: HeadConfig) -> Grid:
    """The grid of a configuration; what it leaves open is the package's range and `Grid`'s own defaults."""
    low, high = config.grid_range or family.package_range or (-1.0, 1.0)
    given: dict[str, Any] = {
        "intervals": config.grid,
        "order": config.order,
        "centres": config.centres,
        "sharpness": config.sharpness,
    }
    return Grid(low, high, **{name: value for name, value in given.items() if value is not None})


def linear(family: Family, config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:  # noqa: ARG001
    """A linear layer with a bias."""
    return LayerSpec(inputs, outputs, (Branch("identity"),), bias=True)


def kan_layer(basis: str, *, bias: bool = False) -> Callable[[Family, HeadConfig, int, int, bool], LayerSpec]:
    """Layers of a KAN: a basis, optionally behind a layer norm, and the base branch beside it."""

    def layer(family: Family, config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:  # noqa: ARG001
        branches = (
            Branch(basis, family.setting(config, "layer_norm")),
            *BASES_OF_BASE[family.setting(config, "base")],
        )
        scaler = bool(config.spline_scaler) and "spline_scaler" in family.options
        knots = basis == "b_spline" and bool(config.update_grid)
        return LayerSpec(inputs, outputs, branches, grid_of(family, config), bias=bias, scaler=scaler, knots=knots)

    return layer
