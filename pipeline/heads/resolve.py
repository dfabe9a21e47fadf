"""From what a user asked for to a head's whole configuration: protocol defaults, then options, then checks."""

import math
from collections.abc import Callable, Iterable, Mapping
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
from pipeline.heads.families import ACTIVATIONS, BASES_OF_BASE, FAMILIES
from pipeline.heads.schedule import scheduled

__all__ = ["option_type", "read_config", "resolve", "unused"]

_KINDS: dict[str, type] = {
    "seed": int, "epochs": int, "batch_size": int, "hidden": int, "grid": int, "order": int, "centres": int,
    "lr": float, "weight_decay": float, "clip": float, "sharpness": float, "grid_range": float,
    "scale": str, "init": str, "activation": str, "spline_scaler": bool,
    "base": str, "layer_norm": bool, "optimiser": str, "lamb": float, "lamb_entropy": float,
    "dropout": float, "spline_l1": float, "spline_entropy": float,
    "earlier_grids": int, "grid_epochs": int, "update_grid": int,
    "token_pool": str, "rows": int, "folds": int,
}  # fmt: skip
#: Options that count for every family.
_ALWAYS = ("epochs", "batch_size", "scale", "lr", "weight_decay", "clip", "init", "rows", "folds")
_SEQUENCES = ("hidden", "grid_range", "earlier_grids", "grid_epochs")
#: Whole numbers from here on would not survive a database or a float.
_LARGEST = 1 << 63
_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}


def _typed(name: str, value: Any) -> Any:
    """A value as its field's type, so that 1 and 1.0 name the same head; `ConfigError` for any other type."""
    kind = _KINDS[name]
    if name in _SEQUENCES and isinstance(value, list | tuple):
        return tuple(part for item in value for part in _typed(name, item))
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
    number |= isinstance(value, float)
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

    Options whose value is `None` count as not set; those that the family does not use are dropped (`unused`). Raises
    `UnknownNameError` for an unknown family, feature or protocol and `ConfigError` for a value out of range, of a
    dropped option too.
    """
    if head not in FAMILIES:
        raise UnknownNameError("head", head, tuple(FAMILIES))
    if protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, tuple(PROTOCOLS))
    if features not in FEATURES:
        raise UnknownNameError("feature", features, tuple(FEATURES))
    family = FAMILIES[head]
    given = scheduled({name: value for name, value in (options or {}).items() if value is not None})
    if unknown := sorted(set(given) - {field.name for field in fields(HeadConfig)}):
        raise UnknownNameError("option", unknown[0], tuple(field.name for field in fields(HeadConfig)))
    _check({name: _typed(name, value) for name, value in (given | {"seed": seed}).items() if name in _KINDS}, head)
    defaults = PROTOCOLS[protocol] | {"grid_range": CLEAN_RANGE if protocol == "clean" else family.package_range}
    defaults |= LATER | family.defaults
    values = defaults | given | family.fixed
    if family.rates and "lr" not in given:
        values["lr"] = family.rates.get(values["optimiser"], 1.0)
    if given.get("grid_epochs") and "grid" in family.options and "grid_epochs" not in family.options:
        raise ConfigError(
            f"--grid-epochs: expected a family whose grid grows while it trains, found {head}; train it on the first "
            "grid and carry it on with fit_heads.py refine, or leave it out"
        )
    chosen = {name: values[name] for name in (*_ALWAYS, *family.options)}
    if features == TOKENS:
        chosen["token_pool"] = given.get("token_pool", POOLS[0])
    chosen = {name: value if value is None else _typed(name, value) for name, value in chosen.items()}
    config = HeadConfig(head=head, protocol=protocol, seed=_typed("seed", seed), features=features, **chosen)
    _check_together(config)
    return replace(config, **{name: None for name in LATER if getattr(config, name) == defaults[name]})


def read_config(document: object) -> HeadConfig:
    """A configuration that was read from a file: the reverse of `HeadConfig.to_json`.

    It is resolved again, as if a user had typed it, and must come out as it went in: so its types and ranges are those
    of `resolve`, and nothing else gets through. Raises a `KanglueError`.
    """
    if not isinstance(document, dict) or not all(
        isinstance(document.get(name), str) for name in ("head", "protocol", "features")
    ):
        raise ConfigError("configuration: expected an object with head, protocol and features, found none")
    options = {name: value for name, value in document.items() if name not in ("head", "protocol", "features", "seed")}
    if options.get("clip") == "inf":  # JSON has no infinity
        options["clip"] = math.inf
    try:
        if "earlier_grids" in options:
            options["grid"] = [*options.pop("earlier_grids"), options.get("grid")]
        config = resolve(
            document["head"], seed=document.get("seed"), features=document["features"], protocol=document["protocol"],
            options=options,
        )  # fmt: skip
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"configuration: expected options of a head ({error})") from error
    expected = config.to_json()
    for name in sorted(set(expected) | set(document)):
        if expected.get(name) != document.get(name):
            wanted, found = (one.get(name, "nothing") for one in (expected, document))
            raise ConfigError(f"configuration: expected {wanted!r} as {name} of {config.head}, found {found!r:.80}")
    return config


def unused(options: Iterable[str], heads: Iterable[str], features: Iterable[str | None]) -> list[str]:
    """Options of a head, by name, that change nothing for any of these families on these features."""
    families = [FAMILIES[head] for head in heads if head in FAMILIES]
    counts = {name for family in families for name in (*_ALWAYS, *family.options) if name not in family.fixed}
    counts |= {"token_pool"} if TOKENS in features else set()
    # Epochs of every grid are a number of epochs for families without a grid.
    return sorted(name for name in set(options) - counts if name != "grid_epochs")


def _ranges(head: str) -> dict[str, tuple[Callable[[Any], bool], str]]:
    """What holds of every option's value, and in words what was expected."""
    at_least_0 = (lambda value: 0 <= value < math.inf, "a number of at least 0")

    def one_of(*known: str) -> tuple[Callable[[Any], bool], str]:
        return (lambda value: value in known), f"one of {', '.join(known)}"

    plain = () if head != "bspline_mlp" and "activation" in FAMILIES[head].options else ("none",)
    return {
        "seed": (lambda value: 0 <= value < 1 << 63, "a whole number of at least 0 (below 2^63)"),
        "epochs": (lambda value: value >= 1, "at least 1"),
        "rows": (lambda value: value >= 2, "at least 2 training rows"),
        "folds": (lambda value: value >= 1, "at least 1"),
        "batch_size": (lambda value: value >= 1, "at least 1"),
        "lr": (lambda value: 0 < value < math.inf, "a number above 0"),
        "weight_decay": at_least_0,
        "clip": (lambda value: value > 0, "a number above 0 (inf switches clipping off)"),
        "dropout": (lambda value: 0 <= value < 1, "a share of at least 0 and below 1"),
        "spline_l1": at_least_0,
        "spline_entropy": at_least_0,
        "token_pool": one_of(*POOLS),
        "scale": one_of(*SCALES),
        "init": one_of("project", "package"),
        "hidden": (lambda value: all(width >= 1 for width in value), "widths of at least 1"),
        "activation": one_of(*plain, *ACTIVATIONS),
        "optimiser": one_of(*dict.fromkeys(name for family in FAMILIES.values() for name in family.rates)),
        "base": one_of("zero", "silu") if FAMILIES[head].own_loop else one_of(*BASES_OF_BASE),
        "lamb": at_least_0,
        "lamb_entropy": at_least_0,
        "grid": (lambda value: value >= 1, "at least 1 interval"),
        "update_grid": (lambda value: value >= 0, "a number of epochs of at least 0"),
        "order": (lambda value: 1 <= value <= 5, "a spline order from 1 to 5"),
        "centres": (lambda value: value >= 2, "at least 2"),
        "sharpness": (math.isfinite, "a number"),
        "grid_range": (
            lambda value: len(value) == 2 and value[0] < value[1] and all(map(math.isfinite, value)),
            "two numbers, low,high",
        ),
    }


def _check(options: Mapping[str, Any], head: str) -> None:
    """Raise `ConfigError` for the first option outside its range."""
    ranges = _ranges(head)
    for name, value in options.items():
        holds, expected = ranges.get(name, (lambda _: True, ""))
        _need(holds(value), name, expected, value)


def _check_together(config: HeadConfig) -> None:
    """Raise `ConfigError` for options that exclude one another."""
    expected = "1 in the protocol published (the validation split selects)"
    _need(config.protocol != "published" or config.folds in (None, 1), "folds", expected, config.folds)
    trained_pool, alone = config.token_pool in TRAINED_POOLS, FAMILIES[config.head].own_loop
    _need(not (alone and trained_pool), "token_pool", f"mean or max for {config.head}", config.token_pool)
    if config.update_grid:
        found = config.update_grid
        expected = "0 beside --grid-epochs (a grid grows or follows the data)"
        _need(not config.grid_epochs, "update_grid", expected, found)
        expected = f"0 beside --token-pool {config.token_pool} (no fixed features to take a grid from)"
        _need(not trained_pool, "update_grid", expected, found)


def _need(holds: bool, name: str, expected: str, found: Any) -> None:
    if not holds:
        shown = ",".join(f"{part:g}" for part in found) if isinstance(found, tuple) else repr(found)
        raise ConfigError(f"--{name.replace('_', '-')}: expected {expected}, found {shown}")
