"""From what a user asked for to a head's whole configuration: protocol defaults, then options, then checks."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.heads.config import (
    CLEAN_RANGE,
    FEATURES,
    LATER,
    POOLS,
    PROTOCOLS,
    SCALES,
    TOKENS,
    TRAINED_POOLS,
    HeadConfig,
)
from pipeline.heads.families import ACTIVATIONS, BASES_OF_BASE, HEADS
from pipeline.heads.schedule import scheduled

__all__ = ["option_type", "resolve"]

_KINDS: dict[str, type] = {
    "seed": int, "epochs": int, "batch_size": int, "hidden": int, "grid": int, "order": int, "centres": int,
    "lr": float, "weight_decay": float, "clip": float, "sharpness": float, "grid_range": float,
    "scale": str, "starts": str, "activation": str, "spline_scaler": bool,
    "base": str, "layer_norm": bool, "optimiser": str, "lamb": float, "lamb_entropy": float,
    "dropout": float, "spline_l1": float, "spline_entropy": float,
    "earlier_grids": int, "grid_epochs": int, "update_grid": int,
    "token_pool": str,
}  # fmt: skip
_SEQUENCES = ("hidden", "grid_range", "earlier_grids", "grid_epochs")
_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}


def _typed(name: str, value: Any) -> Any:
    """A value as its field's type, so that 1 and 1.0 name the same head; `ConfigError` for any other type."""
    kind = _KINDS[name]
    if name in _SEQUENCES and isinstance(value, list | tuple):
        return tuple(part for item in value for part in _typed(name, item))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = number and float(value).is_integer() if kind is int else number if kind is float else isinstance(value, kind)
    if not fits:
        raise ConfigError(f"--{name.replace('_', '-')}: expected {_WORDS[kind]}, found {value!r}")
    return (kind(value),) if name in _SEQUENCES else kind(value)


def option_type(name: str) -> type:
    """The type of an option's value, of its items for `hidden` and `grid_range`."""
    return _KINDS[name]


def resolve(
    head: str, *, seed: int, features: str, protocol: str = "clean", options: Mapping[str, Any] | None = None
) -> HeadConfig:
    """A head's full configuration from its family, a protocol and the options that a user set.

    Options whose value is `None` count as not set; those that the family does not use are dropped. Raises
    `UnknownNameError` for an unknown family, feature or protocol and `ConfigError` for a value out of range.
    """
    if head not in HEADS:
        raise UnknownNameError("head", head, tuple(HEADS))
    if protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, tuple(PROTOCOLS))
    if features not in FEATURES:
        raise UnknownNameError("feature", features, tuple(FEATURES))
    family = HEADS[head]
    given = scheduled({name: value for name, value in (options or {}).items() if value is not None})
    if unknown := sorted(set(given) - {field.name for field in fields(HeadConfig)}):
        raise UnknownNameError("option", unknown[0], tuple(field.name for field in fields(HeadConfig)))
    defaults = PROTOCOLS[protocol] | {"grid_range": CLEAN_RANGE if protocol == "clean" else family.package_range}
    defaults |= LATER | family.defaults
    values = defaults | given | family.fixed
    if family.rates and "lr" not in given:
        values["lr"] = family.rates.get(values["optimiser"], 1.0)
    always = ("epochs", "batch_size", "scale", "lr", "weight_decay", "clip", "starts")
    chosen = {name: values[name] for name in (*always, *family.options)}
    if features == TOKENS:
        chosen["token_pool"] = given.get("token_pool", POOLS[0])
    chosen = {name: value if value is None else _typed(name, value) for name, value in chosen.items()}
    config = HeadConfig(head=head, protocol=protocol, seed=_typed("seed", seed), features=features, **chosen)
    _check(config)
    return replace(config, **{name: None for name in LATER if getattr(config, name) == defaults[name]})


def _check(config: HeadConfig) -> None:
    """Raise `ConfigError` for the first option outside its range."""

    def need(holds: bool, name: str, expected: str) -> None:
        if not holds:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag}: expected {expected}, found {getattr(config, name)!r}")

    need(config.seed >= 0, "seed", "a whole number of at least 0")
    need(config.epochs >= 1, "epochs", "at least 1")
    need(config.batch_size >= 1, "batch_size", "at least 1")
    need(0 < config.lr < math.inf, "lr", "a number above 0")
    need(0 <= config.weight_decay < math.inf, "weight_decay", "a number of at least 0")
    need(config.clip > 0, "clip", "a number above 0 (inf switches clipping off)")
    need(0 <= (config.dropout or 0) < 1, "dropout", "a share of at least 0 and below 1")
    for name in ("spline_l1", "spline_entropy"):
        need(0 <= (getattr(config, name) or 0) < math.inf, name, "a number of at least 0")
    need(config.token_pool in (None, *POOLS), "token_pool", f"one of {', '.join(POOLS)}")
    alone = HEADS[config.head].own_loop
    need(not alone or config.token_pool not in TRAINED_POOLS, "token_pool", f"mean or max for {config.head}")
    need(config.scale in SCALES, "scale", f"one of {', '.join(SCALES)}")
    need(config.starts in ("project", "package"), "starts", "project or package")
    if config.hidden is not None:
        need(all(width >= 1 for width in config.hidden), "hidden", "widths of at least 1")
    if config.activation is not None:
        known = (*(("none",) if config.head == "bspline_mlp" else ()), *ACTIVATIONS)
        need(config.activation in known, "activation", f"one of {', '.join(known)}")
    if config.optimiser is not None:
        need(config.base in (None, "zero", "silu"), "base", "zero or silu (of kan)")
        known = tuple(HEADS[config.head].rates)
        need(config.optimiser in known, "optimiser", f"one of {', '.join(known)}")
        need(0 <= config.lamb < math.inf, "lamb", "a number of at least 0")
        need(0 <= config.lamb_entropy < math.inf, "lamb_entropy", "a number of at least 0")
    if config.base is not None:
        need(config.base in BASES_OF_BASE, "base", f"one of {', '.join(BASES_OF_BASE)}")
    if config.grid is not None:
        need(config.grid >= 1, "grid", "at least 1 interval")
    if config.update_grid is not None:
        need(config.update_grid >= 0, "update_grid", "a number of epochs of at least 0")
        one = not (config.update_grid and config.grid_epochs)
        need(one, "update_grid", "0 beside --grid-epochs (a grid grows or follows the data)")
        still = not (config.update_grid and config.token_pool in TRAINED_POOLS)
        need(still, "update_grid", f"0 beside --token-pool {config.token_pool} (no fixed features to take a grid from)")
    if config.order is not None:
        need(1 <= config.order <= 5, "order", "a spline order from 1 to 5")
    if config.centres is not None:
        need(config.centres >= 2, "centres", "at least 2")
    if config.grid_range is not None:
        low_high = len(config.grid_range) == 2 and config.grid_range[0] < config.grid_range[1]
        need(low_high and all(map(math.isfinite, config.grid_range)), "grid_range", "two numbers, low,high")
