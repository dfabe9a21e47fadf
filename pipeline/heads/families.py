"""The head families: one entry each, from a configuration to a network."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.heads.config import HeadConfig
from pipeline.heads.network import Branch, Grid, LayerSpec, NetworkSpec
from pipeline.heads.pykan import PykanNetwork

__all__ = ["ACTIVATIONS", "BASES_OF_BASE", "FAMILIES", "PACKABLE", "Family", "build_network"]

#: A polynomial's coefficients are trained, shared by the units of a layer (KANbeFair).
ACTIVATIONS = (
    "relu", "square_relu", "gelu", "silu", "tanh", "sigmoid", "identity", "polynomial2", "polynomial3", "polynomial5",
)  # fmt: skip
#: What `--base` names, and the branches that it adds to a KAN's layers.
BASES_OF_BASE = {"zero": (), "identity": (Branch("identity"),), "silu": (Branch("silu"),)}
#: What a trained pool scores a token by (`--token-pool`); its splines have the grid that `Grid` has by itself.
SCORES = {"attention": (Branch("identity"),), "kan_attention": (Branch("b_spline"), Branch("silu"))}

_KAN = ("hidden", "base", "layer_norm", "dropout", "spline_l1", "spline_entropy")
_GRID = ("grid", "earlier_grids", "grid_epochs")
_SPLINE = (*_KAN, *_GRID, "order", "grid_range")
_CENTRES = (*_KAN, "centres", "grid_range")


@dataclass(frozen=True)
class Family:
    """One entry of `FAMILIES`.

    `options` are the shape options that count for the family, `defaults` its own where they differ from the
    protocol's; `layer` builds one layer from (configuration, inputs, outputs, whether it is the first);
    `package_start` names the original package's start in `STARTS`, `package_range` is its grid's. `stacks` are the
    families whose whole networks this one sums. `fixed` are options of training that mean nothing to a family with a
    loop of its own (`own_loop`), and `rates` its learning rates by optimiser.
    """

    options: tuple[str, ...]
    layer: Callable[[HeadConfig, int, int, bool], LayerSpec] | None = None
    package_start: str = "torch_linear"
    package_range: tuple[float, float] | None = (-1.0, 1.0)
    source: str = ""
    hidden: Callable[[HeadConfig], tuple[int, ...]] = field(default=lambda config: config.hidden)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    stacks: tuple[str, ...] = ()
    own_loop: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)


def _setting(config: HeadConfig, name: str, family: str) -> Any:
    """An option that a configuration holds only where it is not the family's default."""
    value = getattr(config, name)
    return FAMILIES[family].defaults.get(name) if value is None else value


def _grid(config: HeadConfig, family: str) -> Grid:
    low, high = config.grid_range or FAMILIES[family].package_range
    given = {"intervals": config.grid, "order": config.order, "centres": config.centres, "sharpness": config.sharpness}
    return Grid(low, high, **{name: value for name, value in given.items() if value is not None})


def _linear(config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:  # noqa: ARG001
    return LayerSpec(inputs, outputs, (Branch("identity"),), bias=True)


def _mlp(config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:
    if first:
        return _linear(config, inputs, outputs, first)
    branch, shared = Branch(config.activation, bool(config.layer_norm)), config.activation.startswith("polynomial")
    return LayerSpec(inputs, outputs, (branch,), bias=True, units=int(shared))


def _bspline_mlp(config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:
    if first:
        return _linear(config, inputs, outputs, first)
    basis = () if config.activation == "none" else (Branch(config.activation),)
    branches = (Branch("b_spline", bool(config.layer_norm)), *basis)
    return LayerSpec(inputs, outputs, branches, _grid(config, "bspline_mlp"), bias=True, units=inputs)


def _kan(family: str, basis: str, *, bias: bool = False) -> Callable[[HeadConfig, int, int, bool], LayerSpec]:
    """Layers of a KAN: a basis, perhaps behind a layer norm, and the base branch beside it."""

    def layer(config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:  # noqa: ARG001
        branches = (
            Branch(basis, _setting(config, "layer_norm", family)),
            *BASES_OF_BASE[_setting(config, "base", family)],
        )
        scaler = bool(config.spline_scaler) and "spline_scaler" in FAMILIES[family].options
        knots = basis == "b_spline" and bool(config.update_grid)
        return LayerSpec(inputs, outputs, branches, _grid(config, family), bias=bias, scaler=scaler, knots=knots)

    return layer


FAMILIES: dict[str, Family] = {
    "linear": Family((), _linear, source="softmax regression", hidden=lambda _: ()),
    "mlp": Family(
        ("hidden", "activation", "layer_norm", "dropout"), _mlp, "kanbefair",
        source="linear maps with an activation between them", defaults={"layer_norm": False},
    ),
    "effi_kan": Family(
        (*_SPLINE, "update_grid", "spline_scaler"), _kan("effi_kan", "b_spline"), "efficient_kan", (-1.0, 1.0),
        "efficient-kan", defaults={"base": "silu", "layer_norm": False},
    ),
    "fast_kan": Family(
        _CENTRES, _kan("fast_kan", "radial", bias=True), "fast_kan", (-2.0, 2.0), "fast-kan, arXiv 2405.06721",
        defaults={"base": "silu", "layer_norm": True},
    ),
    "faster_kan": Family(
        (*_CENTRES, "sharpness"), _kan("faster_kan", "switch"), "faster_kan", (-1.2, 0.2), "faster-kan",
        defaults={"base": "zero", "layer_norm": True},
    ),
    "fourier_kan": Family(
        (*_KAN, *_GRID), _kan("fourier_kan", "fourier", bias=True), "fourier_kan", source="FR-KAN, arXiv 2408.08803",
        defaults={"base": "zero", "layer_norm": False},
    ),
    "cheby_kan": Family(
        (*_KAN, "order"), _kan("cheby_kan", "chebyshev"), "cheby_kan", source="ChebyKAN",
        defaults={"base": "zero", "layer_norm": False},
    ),
    "bspline_mlp": Family(
        ("hidden", "activation", "layer_norm", "dropout", *_GRID, "order", "grid_range"), _bspline_mlp, "kanbefair",
        (-1.0, 1.0), "KANbeFair, arXiv 2407.16674", defaults={"activation": "none", "layer_norm": False},
    ),
    "ensemble_kan": Family(
        (*_SPLINE, "update_grid", "spline_scaler", "centres", "sharpness"), package_range=None,
        source="the sum of effi_kan, fast_kan and faster_kan", stacks=("effi_kan", "fast_kan", "faster_kan"),
    ),
    "kan": Family(
        ("hidden", "base", "grid", "order", "grid_range", "optimiser", "lamb", "lamb_entropy"),
        source="pykan, arXiv 2404.19756", own_loop=True,
        defaults={
            "hidden": (5,), "epochs": 50, "batch_size": 4096, "optimiser": "lbfgs", "lamb": 0.0, "lamb_entropy": 2.0,
            "base": "silu",
        },
        fixed={"weight_decay": 0.0, "clip": math.inf, "init": "package", "folds": 1},
        rates={"lbfgs": 1.0, "adam": 1e-2},
    ),
}  # fmt: skip


#: The families that are trained in packs: all but those with a loop of their own.
PACKABLE: dict[str, Family] = {name: family for name, family in FAMILIES.items() if not family.own_loop}


def build_network(config: HeadConfig, inputs: int, outputs: int) -> NetworkSpec | PykanNetwork:
    """The network of a configuration for features `inputs` wide and `outputs` classes (1 for regression).

    Raises `ConfigError` for features that are too wide for the family.
    """
    family = FAMILIES[config.head]
    widths = (inputs, *family.hidden(config), outputs)
    if family.own_loop:
        return PykanNetwork.checked(widths, config.grid, config.order)
    stacks = [FAMILIES[name] for name in family.stacks] or [family]
    layers = tuple(
        member.layer(config, before, after, index == 0)
        for member in stacks
        for index, (before, after) in enumerate(itertools.pairwise(widths))
    )
    scores = SCORES.get(config.token_pool)
    return NetworkSpec(layers, len(stacks), None if scores is None else LayerSpec(inputs, 1, scores))
