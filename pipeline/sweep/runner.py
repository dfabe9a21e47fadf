"""Train planned heads, pack after pack, and store each pack as soon as it is done."""

import time
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.hashing import hash_json
from pipeline.metrics import classification_metrics
from pipeline.models.caches import CacheRef, load_labels
from pipeline.progress import PackProgress, SweepProgress, sweep_progress
from pipeline.sweep.executor import Executor, PackResult, PackTooLargeError, Work
from pipeline.sweep.packs import PackSizer, groups, head_work
from pipeline.sweep.plan import PlannedHead
from pipeline.sweep.results import SELECTION, Results

if TYPE_CHECKING:
    from pipeline.fit.train import Outcome

__all__ = ["Tally", "store_cache", "train_heads"]


@dataclass
class Tally:
    """What became of the heads to train; `failures` has a line for each that fits into no memory."""

    trained: int = 0
    diverged: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass
class _Group:
    """Heads of one shape that wait to be trained."""

    heads: deque[PlannedHead]
    sizer: PackSizer


@dataclass(frozen=True)
class _Pack:
    """A pack in training."""

    group: _Group
    heads: tuple[PlannedHead, ...]
    progress: PackProgress
    began: float


def train_heads(
    todo: Sequence[PlannedHead], store: Results, executor: Executor, tally: Tally, repaired: Collection[str] = ()
) -> None:
    """Train and store heads, and count them in `tally`; those in `repaired` are stored over what is there.

    A pack that memory does not hold is halved; a head that alone is too large is left out.
    """
    with sweep_progress(len(todo), sum(map(head_work, todo))) as progress:
        _Runner(store, executor, progress, tally, repaired).run(todo)


class _Runner:
    """Feeds an executor with packs and stores what comes back."""

    def __init__(
        self, store: Results, executor: Executor, progress: SweepProgress, tally: Tally, repaired: Collection[str]
    ) -> None:
        self.store, self.executor, self.progress, self.tally = store, executor, progress, tally
        self.repaired = repaired

    def run(self, todo: Sequence[PlannedHead]) -> None:
        """Train all heads."""
        caches = {head.cache.fingerprint: head.cache for head in todo}
        for ref in caches.values():
            store_cache(self.store, ref, hash_json(sorted(caches))[:16])
        waiting = deque(_Group(deque(heads), PackSizer(heads[0], self.executor.device)) for heads in groups(todo))
        running: dict[Future[PackResult], _Pack] = {}
        while waiting or running:
            while waiting and len(running) < self.executor.slots:
                group = waiting[0]
                if group.sizer.bytes[0] > self.executor.free_bytes():
                    self._give_up(tuple(group.heads), group)
                    group.heads.clear()
                else:
                    pack = self._next(group)
                    running[self._submit(pack)] = pack
                if not group.heads:
                    waiting.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                pack = running.pop(future)
                try:
                    result = future.result()
                except PackTooLargeError:
                    pack.progress.end()
                    self._halve(pack, waiting)
                else:
                    pack.group.sizer.took(len(pack.heads), time.monotonic() - pack.began)
                    self._store(pack, result)

    def _next(self, group: _Group) -> _Pack:
        count = group.sizer.heads(len(group.heads), self.executor.free_bytes())
        heads = tuple(group.heads.popleft() for _ in range(count))
        progress = self.progress.pack(f"{heads[0].cache.task.name} {heads[0].config.head}, {count} in a pack")
        return _Pack(group, heads, progress, time.monotonic())

    def _submit(self, pack: _Pack) -> "Future[PackResult]":
        epochs, work = pack.heads[0].config.epochs, sum(map(head_work, pack.heads))
        return self.executor.submit(
            Work(pack.heads[0].cache, tuple(head.config for head in pack.heads)),
            lambda: pack.progress.advance(len(pack.heads) / epochs, work / epochs),
        )

    def _halve(self, pack: _Pack, waiting: deque[_Group]) -> None:
        """Put the heads of a pack that was too large back in front, to come in smaller packs."""
        if len(pack.heads) == 1:
            self._give_up(pack.heads, pack.group)
            return
        pack.group.heads.extendleft(reversed(pack.heads))
        pack.group.sizer.failed(len(pack.heads))
        if pack.group not in waiting:
            waiting.appendleft(pack.group)

    def _store(self, pack: _Pack, result: PackResult) -> None:
        from pipeline.models.saved import SavedHead, heads_folder, stage

        trained = list(zip(pack.heads, result.outcomes, strict=True))
        with stage(heads_folder(self.store.path)) as files:
            records = []
            for head, outcome in trained:
                sha256 = files.write(SavedHead(
                    head.id, outcome.config, outcome.network, outcome.tensors, result.scaling, result.target_scale,
                    head.cache.task.labels, head.cache.attributes, outcome.diverged_at,
                ))  # fmt: skip
                records.append(_record(head, outcome, result) | {"sha256": sha256})
            files.sync()
            # Files are in place and on the disk before the rows that name them.
            self.store.add(records, publish=files.move, replace=self.repaired)
        self.tally.trained += len(trained)
        self.tally.diverged += sum(outcome.diverged_at is not None for outcome in result.outcomes)
        pack.progress.end(len(trained), sum(map(head_work, pack.heads)))

    def _give_up(self, heads: Sequence[PlannedHead], group: _Group) -> None:
        least, free = group.sizer.bytes[0] / 2**30, self.executor.free_bytes() / 2**30
        self.tally.failures += [
            f"{head.cache.task.name} {head.config.head}, seed {head.config.seed}: expected more than {least:.1f} GiB "
            f"of free memory on {self.executor.device} for this head alone, found {free:.1f}; give a smaller `hidden`, "
            "`grid` or `batch_size`, or another `device`"
            for head in heads
        ]
        self.progress.pack("").end(len(heads), sum(map(head_work, heads)))


def _record(head: PlannedHead, outcome: "Outcome", result: PackResult) -> dict[str, Any]:
    """A head as `Results.add` takes it."""
    ref, config = head.cache, head.config
    return {
        "id": head.id,
        "task": ref.task.name,
        "cache": ref.name,
        "source": ref.attributes["source"],
        "encoder": ref.encoder,
        "fingerprint": ref.fingerprint,
        "pairs": ref.attributes["pairs"],
        "row_limit": ref.attributes["limit"],
        "head": config.head,
        "main_metric": ref.task.main_metric,
        "features": config.features,
        "inputs": ref.widths[config.features],
        "protocol": config.protocol,
        "seed": config.seed,
        "config": config.to_json(),
        "trained": "head",
        "status": "trained" if outcome.diverged_at is None else "diverged",
        "diverged_at": outcome.diverged_at,
        "epoch": outcome.epoch,
        "still_improving": int(outcome.epoch == config.epochs),
        "coverage": None,
        "parameters": outcome.parameters,
        "flops": outcome.flops,
        "fit_seconds": outcome.fit_seconds,
        "train_rows": config.rows or result.train_rows,
        "folds": config.folds or 1,
        "device": result.device,
        "versions": result.versions,
        "metrics": outcome.metrics | ({SELECTION: outcome.selection} if outcome.selection else {}),
        "curve": outcome.curve,
        "outputs": outcome.outputs,
    }


def store_cache(store: Results, ref: CacheRef, plan: str | None = None) -> None:
    """Store a cache's attributes, labels, and what the training split's majority class scores (classification).

    `plan` names the caches of a sweep, whose comparisons a report corrects together (`Results.add_cache`).
    """
    labels, majority = load_labels(ref), {}
    train = labels.pop("train")
    for split, values in labels.items():
        if ref.task.labels is None:
            majority[split] = dict.fromkeys(("pearson", "spearmanr"))
            continue
        guess = np.full((1, len(values)), np.bincount(train.astype(np.int64)).argmax())
        scores = classification_metrics(guess, values.astype(np.int64), ref.outputs)
        majority[split] = {name: float(value[0]) for name, value in scores.items()}
    store.add_cache(ref.attributes, labels, majority, plan)
