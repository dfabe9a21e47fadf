"""The head families: one entry each, from a configuration to a network."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.heads.config import HeadConfig
from pipeline.heads.network import Branch, Grid, LayerSpec, NetworkSpec

__all__ = ["ACTIVATIONS", "HEADS", "Family", "build_network"]

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "identity")

_GRID = ("hidden", "grid", "order", "grid_range", "spline_scaler")
_CENTRES = ("hidden", "centres", "grid_range")


@dataclass(frozen=True)
class Family:
    """One entry of `HEADS`.

    `options` are the shape options that count for the family; `layer` builds one layer from (configuration, inputs,
    outputs, position, whether it is the first); `package_start` names the original package's start in `STARTS`.
    """

    options: tuple[str, ...]
    layer: Callable[[HeadConfig, int, int, bool], LayerSpec]
    package_start: str = "torch_linear"
    package_range: tuple[float, float] = (-1.0, 1.0)
    source: str = ""
    hidden: Callable[[HeadConfig], tuple[int, ...]] = field(default=lambda config: config.hidden)


def _grid(config: HeadConfig) -> Grid:
    low, high = config.grid_range
    given = {"intervals": config.grid, "order": config.order, "centres": config.centres, "sharpness": config.sharpness}
    return Grid(low, high, **{name: value for name, value in given.items() if value is not None})


def _linear(config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:  # noqa: ARG001
    return LayerSpec(inputs, outputs, (Branch("identity"),), bias=True)


def _mlp(config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:
    return LayerSpec(inputs, outputs, (Branch("identity" if first else config.activation),), bias=True)


def _effi_kan(config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:  # noqa: ARG001
    branches = (Branch("b_spline"), Branch("silu"))
    return LayerSpec(inputs, outputs, branches, _grid(config), scaler=config.spline_scaler)


def _fast_kan(config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:  # noqa: ARG001
    return LayerSpec(inputs, outputs, (Branch("radial", normed=True), Branch("silu")), _grid(config), bias=True)


def _faster_kan(config: HeadConfig, inputs: int, outputs: int, first: bool) -> LayerSpec:  # noqa: ARG001
    return LayerSpec(inputs, outputs, (Branch("switch", normed=True),), _grid(config))


HEADS: dict[str, Family] = {
    "linear": Family((), _linear, source="softmax regression", hidden=lambda _: ()),
    "mlp": Family(("hidden", "activation"), _mlp, source="linear maps with an activation between them"),
    "effi_kan": Family(_GRID, _effi_kan, "efficient_kan", (-1.0, 1.0), "efficient-kan"),
    "fast_kan": Family(_CENTRES, _fast_kan, "fast_kan", (-2.0, 2.0), "fast-kan, arXiv 2405.06721"),
    "faster_kan": Family((*_CENTRES, "sharpness"), _faster_kan, "faster_kan", (-1.2, 0.2), "faster-kan"),
}


def build_network(config: HeadConfig, inputs: int, outputs: int) -> NetworkSpec:
    """The network of a configuration for features `inputs` wide and `outputs` classes (1 for regression)."""
    family = HEADS[config.head]
    widths = (inputs, *family.hidden(config), outputs)
    return NetworkSpec(
        tuple(
            family.layer(config, before, after, index == 0)
            for index, (before, after) in enumerate(itertools.pairwise(widths))
        )
    )
