"""Which heads a sweep has: every distinct configuration of its products, each with its name and its cache."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from pipeline.heads.config import HeadConfig, identity
from pipeline.heads.families import build_network
from pipeline.heads.match import Match, Matching
from pipeline.heads.resolve import resolve
from pipeline.models.caches import CacheRef, find_cache
from pipeline.sweep.spec import Product

__all__ = ["PlannedHead", "Trials", "count_trials", "plan", "planned", "shapes"]

#: What tells trials apart: every option but seed and epochs.
_SHAPE = attrgetter(*(field.name for field in fields(HeadConfig) if field.name not in ("seed", "epochs")))


@dataclass(frozen=True)
class PlannedHead:
    """One head of a sweep: its name, its configuration, its cache, and how its widths were chosen if that was asked."""

    id: str
    config: HeadConfig
    cache: CacheRef
    match: Match | None = None


def plan(products: Iterable[Product], cache: Path) -> list[PlannedHead]:
    """Every distinct head of the products, in their order. Raises `KanglueError` before anything is trained."""
    found: dict[str, PlannedHead] = {}
    caches: dict[tuple[str, str | None], CacheRef] = {}
    for product in products:
        for task in product.task:
            for encoder in product.encoder:
                key = (task, encoder)
                if key not in caches:
                    caches[key] = find_cache(cache, task, encoder)
                for one in _heads_on(caches[key], product):
                    found.setdefault(one.id, one)
    return list(found.values())


def _heads_on(ref: CacheRef, product: Product) -> Iterable[PlannedHead]:
    wanted = [(head, *choice) for head in product.head for choice in product.combinations()]
    for asked in product.features:
        for shape, match in shapes(ref, ref.feature(asked), product, wanted):
            build_network(shape, ref.widths[ref.feature(asked)], ref.outputs)  # too wide is said before any head trains
            for seed in product.seeds:
                yield planned(ref, shape, seed, match)


def planned(ref: CacheRef, shape: HeadConfig, seed: int, match: Match | None) -> PlannedHead:
    """The head of a shape and a seed on a cache."""
    config = replace(shape, seed=seed)
    return PlannedHead(identity(config, ref.fingerprint), config, ref, match)


def shapes(
    ref: CacheRef, feature: str, product: Product, wanted: Iterable[tuple[str, str, Mapping[str, Any]]]
) -> list[tuple[HeadConfig, Match | None]]:
    """Configurations (of seed 0) of (family, protocol, options), sized to the product's budget where it has one."""
    wanted = list(wanted)
    found = [
        resolve(head, seed=0, features=feature, protocol=protocol, options=options)
        for head, protocol, options in wanted
    ]
    # All rows that there are is the default, whatever number asks for them.
    found = [replace(one, rows=None) if one.rows and one.rows >= ref.train_rows else one for one in found]
    if product.match == "none":
        return [(shape, None) for shape in found]
    asked = [options.get("hidden") for _, _, options in wanted]
    references = {hidden: _reference(product, feature, hidden) for hidden in dict.fromkeys(asked)}
    matching = Matching(product.match, product.budget, product.cost)
    return matching.size(found, [references[hidden] for hidden in asked], ref.widths[feature], ref.outputs)


def _reference(product: Product, feature: str, hidden: Any) -> HeadConfig | None:
    """The head whose cost is the budget for the widths that were asked for (`None`: the family's own).

    It is of the first family with widths, and has the first value of every other option.
    """
    protocol, options = product.first()
    for head in product.head:
        shape = resolve(head, seed=0, features=feature, protocol=protocol, options=options | {"hidden": hidden})
        if shape.hidden:
            return shape
    return None


@dataclass(frozen=True)
class Trials:
    """What a sweep spends on one family: configurations (seed and epochs aside, caches counted apart), and epochs."""

    trials: int
    epochs: int


def count_trials(heads: Iterable[PlannedHead]) -> dict[str, Trials]:
    """The trials of every family, in the order of the heads; `epochs` are those of all its heads together."""
    tried: dict[str, set[Any]] = {}
    epochs: dict[str, int] = {}
    for head in heads:
        family = head.config.head
        tried.setdefault(family, set()).add((head.cache.path, _SHAPE(head.config)))
        epochs[family] = epochs.get(family, 0) + head.config.epochs
    return {family: Trials(len(tried[family]), epochs[family]) for family in tried}
