"""What a sweep trains: lists of values for every option, and their product."""

import itertools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.heads.config import HeadConfig
from pipeline.heads.match import Matching
from pipeline.heads.resolve import option_type
from pipeline.sweep.ranges import Range, is_range, parse_range

__all__ = ["Product", "parse_seeds", "read_spec"]

#: Options of a head that a sweep takes lists of.
HEAD_OPTIONS = tuple(
    field.name
    for field in fields(HeadConfig)
    if field.name not in ("head", "protocol", "seed", "features", "earlier_grids")
)
#: An option whose single value is a list already: a list of it is a list of lists.
_SEQUENCES = ("hidden", "grid_range", "grid_epochs")
#: Keys that hold for a product as a whole, and their types.
_SCALARS: dict[str, type] = {
    "match": str, "budget": int, "cost": str, "search": str, "trials": int, "search_seed": int,
}  # fmt: skip
#: `grid` is every combination; the others draw `trials` configurations for every family.
SEARCHES = ("grid", "random", "tpe", "halving")
TRIALS = 20
_KINDS = {str: "one word", int: "a whole number"}


def parse_seeds(text: str | int | Iterable[int]) -> tuple[int, ...]:
    """Seeds from `0:10` (half-open), `3`, `1,4,9`, any mix of them, or a list of numbers. Raises `ConfigError`."""
    if not isinstance(text, str):
        text = ",".join(map(str, text if isinstance(text, list | tuple | range) else [text]))
    seeds: list[int] = []
    for part in text.split(","):
        try:
            ends = [int(end) for end in part.split(":")]
        except ValueError:
            ends = []
        if len(ends) not in (1, 2) or min(ends) < 0 or ends[-1] < ends[0] + len(ends) - 1 or ends[-1] >= 1 << 63:
            raise ConfigError(f"`seeds`: expected numbers and ranges such as 0:10 or 1,4,9, found {text!r}")
        seeds += range(*ends) if len(ends) == 2 else ends
    return tuple(dict.fromkeys(seeds))


@dataclass(frozen=True)
class Product:
    """One product of a sweep: every combination of tasks, encoders, features, heads, options and seeds.

    `features` may hold `None`, the encoder's default. `options` maps names of `HeadConfig` to the values to try.
    A `Range` may stand in place of values. `match`, `budget` and `cost` are those of `pipeline.heads.match.Matching`;
    `search`, `trials` and `search_seed` those of `pipeline.sweep.search.Study`.
    """

    task: tuple[str, ...]
    head: tuple[str, ...]
    encoder: tuple[str | None, ...] = (None,)
    features: tuple[str | None, ...] = (None,)
    protocol: tuple[str, ...] = ("clean",)
    seeds: tuple[int, ...] = (0,)
    options: Mapping[str, tuple[Any, ...] | Range] = field(default_factory=dict)
    match: str = "none"
    budget: int | None = None
    cost: str = "counted"
    search: str = "grid"
    trials: int | None = None
    search_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("task", "head", "encoder", "features", "protocol", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"sweep: expected at least one {name.removesuffix('s')}, found none; give --{name}")
        Matching(self.match, self.budget, self.cost)  # raises for what cannot be
        if self.search not in SEARCHES:
            raise UnknownNameError("search", self.search, SEARCHES)
        if self.search == "grid":
            if self.trials is not None:
                raise ConfigError(
                    f"`trials` {self.trials}: expected `search='random'`, tpe or halving with it, found none"
                )
            return
        if self.trials is not None and self.trials < 2:
            raise ConfigError(f"`trials`: expected at least 2, found {self.trials}")
        if self.search_seed < 0:
            raise ConfigError(f"`search_seed`: expected a whole number of at least 0, found {self.search_seed}")
        epochs = self.options.get("epochs", (None,))
        if isinstance(epochs, Range) or len(epochs) != 1:
            raise ConfigError(
                "`epochs`: expected one value in a search, whose trials all have one budget, found several"
            )

    def first(self) -> tuple[str, dict[str, Any]]:
        """The first (protocol, options) of the product; of a range, its lower end."""
        chosen = {name: has.first if isinstance(has, Range) else has[0] for name, has in self.options.items()}
        return self.protocol[0], chosen

    def combinations(self) -> list[tuple[str, dict[str, Any]]]:
        """Every (protocol, options) of the product. Raises `ConfigError` for a range without an end of values."""
        names = tuple(self.options)
        values = itertools.product(*(_values(name, self.options[name]) for name in names))
        choices = [dict(zip(names, chosen, strict=True)) for chosen in values]
        return [(protocol, choice) for protocol in self.protocol for choice in choices]


def _values(name: str, given: tuple[Any, ...] | Range) -> tuple[Any, ...]:
    values = given.values() if isinstance(given, Range) else given
    if values is None:
        raise ConfigError(
            f"`{name}` {given}: expected values, since every combination is tried; or add `search='random'`"
        )
    return values


def _listed(name: str, value: Any) -> tuple[Any, ...] | Range:
    found = _plainly_listed(name, value)
    if name not in HEAD_OPTIONS or not any(map(is_range, itertools.chain(*(_items(one) for one in found)))):
        return found
    flat = list(itertools.chain(*(_items(one) for one in found)))
    whole = option_type(name) is int
    if len(flat) != 1 or option_type(name) not in (int, float) or name == "grid_range":
        raise ConfigError(f"`{name}`: expected values, or one range alone, found {value!r}")
    return parse_range(name, flat[0], whole=whole)


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _plainly_listed(name: str, value: Any) -> tuple[Any, ...]:
    items = _items(value)
    if name == "rows":
        return tuple(None if item == "all" else item for item in items)
    if name not in _SEQUENCES:
        return items
    items = tuple(_sequence(name, item) if isinstance(item, str) and not is_range(item) else item for item in items)
    nested = items and all(isinstance(item, list | tuple) for item in items)
    return tuple(map(tuple, items)) if nested else (items,)


def _sequence(name: str, text: str) -> tuple[Any, ...]:
    """The value of `hidden` and its like as the command line takes it: `64,32`, or `none` for no hidden layer."""
    if name == "hidden" and text.strip() == "none":
        return ()
    try:
        return tuple(option_type(name)(number) for number in text.split(","))
    except ValueError:
        words = "numbers with commas between them" + (", or none" if name == "hidden" else "")
        raise ConfigError(f"`{name}`: expected {words}, found {text!r}") from None


def product_from(table: Mapping[str, Any], where: str) -> Product:
    """A product from option names and values (a table of a specification). Raises `ConfigError` on unknown names."""
    own = ("task", "head", "encoder", "features", "protocol", "seeds", *_SCALARS)
    keys = {name.replace("-", "_"): value for name, value in table.items()}
    for name in keys:
        if name not in (*own, *HEAD_OPTIONS):
            raise UnknownNameError(f"key of {where}", name, (*own, *HEAD_OPTIONS))
    given = {name: _listed(name, keys[name]) for name in own if name in keys and name not in ("seeds", *_SCALARS)}
    for name, values in given.items():
        if not all(isinstance(value, str) or (value is None and name in ("encoder", "features")) for value in values):
            raise ConfigError(f"{where}: expected words for {name!r}, found {keys[name]!r}")
    if "seeds" in keys:
        given["seeds"] = parse_seeds(keys["seeds"])
    for name in ("task", "head"):
        if name not in given:
            wanted = f"`{name}`, or a SPEC.toml with it" if where == "sweep" else f"the key {name!r}"
            raise ConfigError(f"{where}: expected {wanted}, found {', '.join(table) or 'none'}")
    for name, kind in _SCALARS.items():
        value = keys.get(name)
        if value is None:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{where}: expected {_KINDS[kind]} for {name!r}, found {value!r}")
        given[name] = value
    # With epochs for each of them, several grids are the stages of one head, not one head each.
    options = {name: _listed(name, keys[name]) for name in HEAD_OPTIONS if name in keys}
    if "grid_epochs" in keys and "grid" in keys:
        options["grid"] = _plainly_listed("grid_epochs", keys["grid"])
    return Product(**given, options=options)


def read_spec(path: Path, options: Mapping[str, Any] | None = None) -> list[Product]:
    """The products of a SPEC.toml: one for each `[[sweep]]` table, top-level keys shared by all of them.

    `options`, as from a command line, go over what the file says.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: expected a sweep specification ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from error
    tables = document.pop("sweep", [{}])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{path}: expected [[sweep]] tables, found 'sweep = ...'; write [[sweep]]")
    return [product_from(document | table | dict(options or {}), str(path)) for table in tables]
