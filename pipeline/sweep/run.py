"""Run a sweep: name every head, skip those that are stored, group the rest into packs, train, store."""

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.heads.config import HeadConfig, identity
from pipeline.heads.match import Match, Matching
from pipeline.heads.match import describe as describe_matches
from pipeline.heads.resolve import resolve
from pipeline.metrics import classification_metrics
from pipeline.progress import bar, say
from pipeline.sweep.caches import CacheRef, find_cache, load_data
from pipeline.sweep.results import SELECTION, Results
from pipeline.sweep.spec import Product

if TYPE_CHECKING:
    from pipeline.fit.data import FitData
    from pipeline.fit.train import Outcome

__all__ = ["PlannedHead", "SweepResult", "heads_folder", "plan", "run_sweep"]

#: Options that may differ within a pack; everything else decides shapes or data.
PER_HEAD = ("seed", "lr", "weight_decay", "clip")
#: Heads of a pack; larger packs lose the processor's caches without gaining anything.
CPU_PACK = 16


@dataclass(frozen=True)
class PlannedHead:
    """One head of a sweep: its name, its configuration, its cache, and how its widths were chosen if that was asked."""

    id: str
    config: HeadConfig
    cache: CacheRef
    match: Match | None = None


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did (document of `fit_heads.py sweep --json`).

    `ids` are all its heads, trained now or before; `matched` says what widths `--match` chose.
    """

    heads: int
    trained: int
    skipped: int
    diverged: int
    failed: int
    seconds: float
    results: str
    ids: tuple[str, ...]
    matched: tuple[Match, ...] = ()

    def document(self) -> dict[str, Any]:
        """Plain JSON, without the ids; `matched` is there where matching was asked for."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("ids", "matched")}
        return plain | ({"matched": [one.document() for one in self.matched]} if self.matched else {})


def heads_folder(results: Path) -> Path:
    """Where the heads of a results database lie: `heads/` beside it."""
    return results.parent / "heads"


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
    matching = Matching(product.match, product.budget, product.cost)
    for asked in product.features:
        feature = ref.feature(asked)
        shapes: list[tuple[HeadConfig, Match | None]] = [
            (resolve(head, seed=0, features=feature, protocol=protocol, options=options), None)
            for head in product.head
            for protocol, options in product.combinations()
        ]
        if product.match != "none":
            shapes = matching.size(
                [shape for shape, _ in shapes], _reference(product, feature), ref.widths[feature], ref.outputs
            )
        for shape, match in shapes:
            for seed in product.seeds:
                config = replace(shape, seed=seed)
                yield PlannedHead(identity(config, ref.fingerprint), config, ref, match)


def _reference(product: Product, feature: str) -> HeadConfig | None:
    """The head whose cost is the budget: the first family with widths, with the first value of every option."""
    protocol, options = product.combinations()[0]
    for head in product.head:
        shape = resolve(head, seed=0, features=feature, protocol=protocol, options=options)
        if shape.hidden is not None:
            return shape
    return None


def run_sweep(
    products: Sequence[Product],
    *,
    cache: Path,
    results: Path,
    device: str = "auto",
    on_plan: Callable[[int, int], None] = lambda *_: None,
) -> SweepResult:
    """Train every head of the products that `results` does not hold yet.

    A pack's heads are stored as soon as it is trained, so an interruption costs at most the running pack. `on_plan`
    is told (heads, already stored) before training begins.
    """
    begin = time.perf_counter()
    heads = plan(products, cache)
    with Results(results, create=True) as store:
        known = store.known(head.id for head in heads)
        todo = [head for head in heads if head.id not in known]
        on_plan(len(heads), len(known))
        matched = tuple(dict.fromkeys(head.match for head in heads if head.match is not None))
        for line in describe_matches(matched):
            say(line)
        diverged = _train(todo, store, results, device) if todo else 0
    return SweepResult(
        heads=len(heads),
        trained=len(todo),
        skipped=len(known),
        diverged=diverged,
        failed=0,
        seconds=time.perf_counter() - begin,
        results=str(results),
        ids=tuple(head.id for head in heads),
        matched=matched,
    )


def _packs(todo: Sequence[PlannedHead], size: int) -> list[list[PlannedHead]]:
    """Heads of one cache and one shape together, at most `size` a pack, caches and features one after another."""
    groups: dict[Any, list[PlannedHead]] = {}
    for head in todo:
        shape = replace(head.config, **dict.fromkeys(PER_HEAD, 0))
        groups.setdefault((head.cache.path, head.config.features, head.config.scale, shape), []).append(head)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


def _train(todo: Sequence[PlannedHead], store: Results, results: Path, device_name: str) -> int:
    """Train and store; returns how many heads diverged."""
    from pipeline.device import hardware, resolve_device
    from pipeline.fit.train import train_pack
    from pipeline.sweep.saved import save_head

    device = resolve_device(device_name)
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("kanglue", "torch", "numpy")}
    versions["hardware"] = hardware(device)
    diverged, data, loaded = 0, None, None
    epochs = sum(head.config.epochs for head in todo)
    with bar("heads", epochs, "head-epochs") as progress:
        for pack in _packs(todo, CPU_PACK):
            first = pack[0]
            wanted = (first.cache.path, first.config.features, first.config.scale)
            if wanted != loaded:
                data, loaded = load_data(first.cache, first.config.features, first.config.scale), wanted
                _store_baselines(store, data)
            progress.describe(f"{first.cache.task.name} {first.config.head}")
            outcomes = train_pack([head.config for head in pack], data, device, partial(progress.advance, len(pack)))
            for head, outcome in zip(pack, outcomes, strict=True):
                save_head(
                    heads_folder(results), head.id, outcome, data.scaling, data.target_scale, head.cache.attributes
                )
            store.add(
                _record(head, outcome, data, str(device), versions)
                for head, outcome in zip(pack, outcomes, strict=True)
            )
            diverged += sum(outcome.diverged_at is not None for outcome in outcomes)
    return diverged


def _record(
    head: PlannedHead, outcome: "Outcome", data: "FitData", device: str, versions: dict[str, str]
) -> dict[str, Any]:
    return {
        "id": head.id,
        "task": head.cache.path.name.removesuffix(".h5"),
        "source": head.cache.attributes["source"],
        "encoder": head.cache.encoder,
        "fingerprint": head.cache.fingerprint,
        "head": head.config.head,
        "main_metric": head.cache.task.main_metric,
        "features": head.config.features,
        "protocol": head.config.protocol,
        "seed": head.config.seed,
        "config": head.config.to_json(),
        "status": "trained" if outcome.diverged_at is None else "diverged",
        "diverged_at": outcome.diverged_at,
        "epoch": outcome.epoch,
        "parameters": outcome.parameters,
        "flops": outcome.flops,
        "fit_seconds": outcome.fit_seconds,
        "n_train": len(data.labels["train"]),
        "device": device,
        "versions": versions,
        "metrics": outcome.metrics | ({SELECTION: outcome.selection} if outcome.selection else {}),
        "curve": outcome.curve,
        "outputs": outcome.outputs,
    }


def _store_baselines(store: Results, data: "FitData") -> None:
    """Labels of every reported split, and what the training split's majority class scores on it.

    Regression has no such class.
    """
    for split in data.reported:
        labels = data.labels[split]
        if data.task.labels is None:
            majority: dict[str, float | None] = dict.fromkeys(("pearson", "spearmanr"))
        else:
            most = int(np.bincount(data.labels["train"].astype(np.int64)).argmax())
            guess = np.full((1, len(labels)), most)
            found = classification_metrics(guess, labels.astype(np.int64), data.outputs)
            majority = {name: float(value[0]) for name, value in found.items()}
        store.add_baselines(data.fingerprint, split, len(labels), majority)
        store.add_labels(data.fingerprint, split, labels)
