"""Run a sweep: name every head, skip those that are stored, train and store the rest."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.heads.match import Match
from pipeline.heads.match import describe as describe_matches
from pipeline.progress import say
from pipeline.sweep.plan import PlannedHead, plan
from pipeline.sweep.results import Results
from pipeline.sweep.spec import Product
from pipeline.sweep.work import Tally, heads_folder, train_heads

__all__ = ["PlannedHead", "SweepResult", "heads_folder", "plan", "run_sweep"]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did (document of `fit_heads.py sweep --json`).

    `ids` are all its heads, trained now or before; `matched` says what widths `--match` chose; `failures` has a line
    for each of the `failed` heads, which fit into no memory.
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

    def document(self) -> dict[str, Any]:
        """Plain JSON, without the ids; `matched` is there where matching was asked for."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("ids", "matched", "failures")}
        return plain | ({"matched": [one.document() for one in self.matched]} if self.matched else {})


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
        tally = train_heads(todo, store, results, device) if todo else Tally()
    return SweepResult(
        heads=len(heads),
        trained=tally.trained,
        skipped=len(known),
        diverged=tally.diverged,
        failed=len(tally.failures),
        seconds=time.perf_counter() - begin,
        results=str(results),
        ids=tuple(head.id for head in heads),
        matched=matched,
        failures=tuple(tally.failures),
    )
