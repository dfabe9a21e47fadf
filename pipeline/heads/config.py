"""The whole resolved configuration of one head, and the protocols that supply its defaults."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.hashing import hash_json
from pipeline.poolings import POOLINGS

__all__ = [
    "CLEAN_RANGE",
    "FEATURES",
    "LATER",
    "POOLS",
    "PROTOCOLS",
    "SCALES",
    "TOKENS",
    "TRAINED_POOLS",
    "HeadConfig",
    "identity",
]

#: Features by name and the datasets of a cache that they are made of.
FEATURES: dict[str, tuple[str, ...]] = {name: (name,) for name in (*POOLINGS, "reduced")} | {
    "siamese": ("u", "v"),
    "last_hidden": ("last_hidden",),
}
#: The feature that is every token's, and how a head makes one vector of a row's tokens (the first unless one is named).
TOKENS = "last_hidden"
POOLS = ("mean", "max", "attention", "kan_attention")
#: Those that train.
TRAINED_POOLS = ("attention", "kan_attention")
SCALES = ("none", "standard", "tanh")


@dataclass(frozen=True)
class HeadConfig:
    """One head: its family and shape, its data, its training; every default is resolved.

    An option that the family does not use (see `Family.options`) is `None`, so that it cannot tell two equal heads
    apart. So is an option behind `spline_scaler` that has its default value (`LATER`, or the family's own): it came
    when heads had been named already.
    """

    head: str
    protocol: Literal["clean", "published"]
    seed: int
    features: str
    scale: Literal["none", "standard", "tanh"]
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    clip: float
    init: Literal["project", "package"]
    hidden: tuple[int, ...] | None = None
    activation: str | None = None
    grid: int | None = None
    order: int | None = None
    centres: int | None = None
    grid_range: tuple[float, float] | None = None
    sharpness: float | None = None
    spline_scaler: bool | None = None
    base: str | None = None
    layer_norm: bool | None = None
    optimiser: str | None = None
    lamb: float | None = None
    lamb_entropy: float | None = None
    dropout: float | None = None
    spline_l1: float | None = None
    spline_entropy: float | None = None
    earlier_grids: tuple[int, ...] | None = None
    grid_epochs: tuple[int, ...] | None = None
    token_pool: str | None = None
    update_grid: int | None = None
    rows: int | None = None
    folds: int | None = None

    @property
    def extras(self) -> tuple[str, ...]:
        """Options in use that change a training step, or what happens between epochs, beyond the families' own."""
        return tuple(name for name in EXTRAS if getattr(self, name))

    def to_json(self) -> dict[str, Any]:
        """The options that count for this family, as plain JSON."""
        # Not `asdict`, whose deep copies would be most of the time of a sweep that is stored already.
        plain = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if value is not None
        }
        return plain | ({"clip": "inf"} if math.isinf(self.clip) else {})  # JSON has no infinity


_SHARED: dict[str, Any] = {
    "lr": 2e-3, "weight_decay": 0.01, "clip": 1.0, "hidden": (64,), "activation": "relu", "grid": 5, "order": 3,
    "centres": 8, "sharpness": 1.0,
}  # fmt: skip

PROTOCOLS: dict[str, dict[str, Any]] = {
    "clean": _SHARED | {"epochs": 20, "batch_size": 64, "scale": "standard", "spline_scaler": False, "init": "project"},
    "published": _SHARED | {"epochs": 10, "batch_size": 4, "scale": "none", "spline_scaler": True, "init": "package"},
}

#: Options that came later, and their defaults where a family has none of its own (`Family.defaults`).
LATER: dict[str, Any] = {
    "base": None, "layer_norm": None, "dropout": 0.0, "spline_l1": 0.0, "spline_entropy": 0.0,
    "earlier_grids": None, "grid_epochs": None, "update_grid": 0, "rows": None, "folds": 1,
}  # fmt: skip
#: Options that every engine must know of before it trains a head with them.
EXTRAS = ("dropout", "spline_l1", "spline_entropy", "grid_epochs", "update_grid")

#: `clean` standardises features, so one range suits every basis; `published` keeps each package's own.
CLEAN_RANGE = (-3.0, 3.0)


def identity(config: HeadConfig, fingerprint: str) -> str:
    """A head's name: 16 hexadecimal digits of the hash of its cache's fingerprint and its configuration.

    An option that is added to `HeadConfig` later must enter here only where it differs from its default.
    """
    return hash_json({"fingerprint": fingerprint, "config": config.to_json()})[:16]
