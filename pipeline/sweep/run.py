"""Run a sweep: name every head, skip those that are stored, train and store the rest."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.device import check_device_name
from pipeline.heads.match import Match
from pipeline.heads.match import describe as describe_matches
from pipeline.heads.resolve import unused
from pipeline.progress import say
from pipeline.sweep.executor import Executor, LocalExecutor
from pipeline.sweep.keep import sound
from pipeline.sweep.plan import PlannedHead, Trials, count_trials, plan
from pipeline.sweep.results import Results
from pipeline.sweep.runner import Tally, train_heads
from pipeline.sweep.spec import Product

if TYPE_CHECKING:
    from pipeline.sweep.search import Study

__all__ = ["PlannedHead", "SweepResult", "describe_searches", "plan", "run_sweep"]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did (document of `fit_heads.py sweep --json`).

    `ids` are all its heads, trained now or before; `matched` says what widths `--match` chose; `failures` has a line
    for each of the `failed` heads, which fit into no memory; `searches` says what each search did and chose;
    `chosen` are the heads to look at: those of the grid, and those that searches chose; `trials` is what every family
    got.
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
    failures: tuple[str, ...] = ()
    searches: tuple[dict[str, Any], ...] = ()
    chosen: tuple[str, ...] = ()
    trials: Mapping[str, Trials] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Plain JSON, without the ids; `matched` and `searches` are there where they were asked for."""
        left_out = ("ids", "matched", "failures", "searches", "chosen")
        plain = {name: value for name, value in asdict(self).items() if name not in left_out}
        plain |= {"matched": [one.document() for one in self.matched]} if self.matched else {}
        return plain | ({"searches": list(self.searches)} if self.searches else {})


def run_sweep(
    products: Sequence[Product],
    *,
    cache: Path,
    results: Path,
    device: str = "auto",
    on_plan: Callable[[int, int], None] = lambda *_: None,
    on_head: Callable[[Mapping[str, Any]], None] | None = None,
    make_executor: Callable[[str], Executor] = LocalExecutor,
) -> SweepResult:
    """Train every head of the products that `results` does not hold yet.

    A pack's heads are stored as soon as it is trained, so an interruption costs at most the running packs. `on_plan`
    is called with (heads, already stored) before training begins, `on_head` with the record of every head as it is
    stored. `make_executor` makes of `device` what trains the packs; it is not called where nothing is to be trained.
    """
    begin = time.perf_counter()
    check_device_name(device)
    heads = plan([product for product in products if product.search == "grid"], cache)
    _tell_unequal(count_trials(heads))
    searches = _studies([product for product in products if product.search != "grid"], cache)
    _tell_unused(products)
    tally, known, done, grid = Tally(), 0, {}, tuple(head.id for head in heads)
    executor: Executor | None = None
    with Results(results, create=True) as store, ExitStack() as opened:
        if on_head is not None:
            store.listeners.append(on_head)
        heads += [head for study in searches for head in study.ask(store)]
        # A search asks again when it has seen how its heads did, until it is over.
        while heads:
            new = {head.id: head for head in heads if head.id not in done}
            stored, repaired = sound(store.known(new), results)
            todo = [head for name, head in new.items() if name not in stored]
            known += len(stored)
            on_plan(len(new), len(stored))
            for line in describe_matches(dict.fromkeys(head.match for head in new.values() if head.match is not None)):
                say(line)
            if todo:
                executor = executor or opened.enter_context(make_executor(device))
                train_heads(todo, store, executor, tally, repaired)
            done |= new
            heads = [head for study in searches for head in study.ask(store)]
        found = [study.document() for study in searches]
        for study, document in zip(searches, found, strict=True):
            store.add_search(study.ref.fingerprint, document, study.trial_documents())
    return SweepResult(
        heads=len(done),
        trained=tally.trained,
        skipped=known,
        diverged=tally.diverged,
        failed=len(tally.failures),
        seconds=time.perf_counter() - begin,
        results=str(results),
        ids=tuple(done),
        trials=count_trials(done.values()),
        matched=tuple(dict.fromkeys(head.match for head in done.values() if head.match is not None)),
        failures=tuple(tally.failures),
        searches=tuple(found),
        chosen=tuple(dict.fromkeys([*grid, *(head for document in found for head in document["heads"])])),
    )


def describe_searches(searches: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each search (document of `SweepResult.searches`) tried and chose, a line each."""
    lines = []
    for one in searches:
        trials = f"{one['trials']} trial{'s' * (one['trials'] != 1)}"
        tried = f"{one['task']} {one['head']}: {trials}, {one['epochs']} epochs in all"
        if one["best"] is None:
            lines.append(f"{tried}; none can be chosen, since in each a head diverged or failed")
            continue
        values = ", ".join(
            f"{name} {','.join(map(_brief, value)) if isinstance(value, list) else _brief(value)}"
            for name, value in ((name, one["best"].get(name, "default")) for name in one["space"])
        )
        lines.append(f"{tried}; chosen by {one['metric']} {one['score']:.4f} on selection rows: {values or 'defaults'}")
    return lines


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tell_unused(products: Sequence[Product]) -> None:
    """Say which options change nothing, since none of the families that they were given for has them."""
    for name, heads in dict.fromkeys(
        (name, one.head) for one in products for name in unused(one.options, one.head, one.features)
    ):
        verb = "do" if heads[1:] else "does"
        say(f"--{name.replace('_', '-')} changes nothing: {', '.join(heads)} {verb} not use it")


def _tell_unequal(trials: Mapping[str, Trials]) -> None:
    """Say which families of a grid are tried more often than others, since that alone can decide a comparison."""
    if len({one.trials for one in trials.values()}) > 1:
        counts = ", ".join(f"{family} {one.trials}" for family, one in trials.items())
        say(f"trials differ: {counts}; --search random --trials N gives every family as many")


def _studies(products: Sequence[Product], cache: Path) -> "list[Study]":
    if not products:
        return []  # Optuna is loaded for searches alone
    from pipeline.sweep.search import studies

    return studies(products, cache)
