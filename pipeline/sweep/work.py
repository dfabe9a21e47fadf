"""Train planned heads, pack after pack, and store each pack as soon as it is done."""

import platform
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.metrics import classification_metrics
from pipeline.models.caches import CacheRef, load_data
from pipeline.sweep.packs import Pace, groups, head_work, is_out_of_memory, release
from pipeline.sweep.plan import PlannedHead
from pipeline.sweep.progress import SweepProgress, sweep_progress
from pipeline.sweep.results import SELECTION, Results
from pipeline.versions import version

if TYPE_CHECKING:
    import torch

    from pipeline.fit.data import FitData
    from pipeline.fit.train import Outcome

__all__ = ["Tally", "train_heads"]


@dataclass
class Tally:
    """What became of the heads that were to be trained; `failures` has a line for each that fits into no memory."""

    trained: int = 0
    diverged: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Count what became of more heads."""
        self.trained += other.trained
        self.diverged += other.diverged
        self.failures += other.failures


def train_heads(todo: Sequence[PlannedHead], store: Results, results: Path, device_name: str) -> Tally:
    """Train and store. A pack that memory does not hold is halved; a head that alone is too large is left out."""
    from pipeline.device import hardware, resolve_device

    device = resolve_device(device_name)
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("kanglue", "torch", "numpy")}
    work = _Work(store, results, device, versions | {"hardware": hardware(device)})
    with sweep_progress(len(todo), sum(map(head_work, todo))) as progress:
        for group in groups(todo):
            work.group(group, progress)
    return work.tally


class _Work:
    """Trains groups of heads of one shape."""

    def __init__(self, store: Results, results: Path, device: "torch.device", versions: dict[str, str]) -> None:
        self.store, self.results, self.device, self.versions = store, results, device, versions
        self.tally = Tally()
        self._data: FitData | None = None
        self._loaded: Any = None

    def data(self, head: PlannedHead) -> "FitData":
        """What a head trains on; the last one asked for is kept."""
        wanted = (head.cache, head.config.features, head.config.scale, head.config.token_pool)
        if wanted != self._loaded:
            self._data, self._loaded = None, None
            self._data, self._loaded = load_data(*wanted), wanted
            _store_cache(self.store, head.cache, self._data)
        return self._data

    def group(self, group: Sequence[PlannedHead], progress: SweepProgress) -> None:
        """Train heads of one shape, pack after pack."""
        from pipeline.device import free_bytes

        queue, first = deque(group), group[0]
        data, pace = self.data(first), Pace(first, self.device)
        if pace.bytes[0] > free_bytes(self.device):
            self._give_up(group, pace, progress)
            return
        while queue:
            count = pace.heads(len(queue), free_bytes(self.device))
            pack = [queue.popleft() for _ in range(count)]
            progress.pack(f"{first.cache.task.name} {first.config.head}, {count} in a pack")
            began = time.monotonic()
            try:
                self._train(pack, data, progress)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                pace.took(count, time.monotonic() - began)
                continue
            # Outside the handler, where the exception no longer holds the failed pack's tensors.
            release(self.device)
            if count == 1:
                self._give_up(pack, pace, progress)
            else:
                queue.extendleft(reversed(pack))
                pace.failed(count)

    def _train(self, pack: Sequence[PlannedHead], data: "FitData", progress: SweepProgress) -> None:
        from pipeline.fit.train import train_pack
        from pipeline.models.saved import SavedHead, heads_folder, store_head

        epochs, work = pack[0].config.epochs, sum(map(head_work, pack))
        outcomes = train_pack(
            [head.config for head in pack],
            data,
            self.device,
            lambda: progress.advance(len(pack) / epochs, work / epochs),
        )
        for head, outcome in zip(pack, outcomes, strict=True):
            store_head(heads_folder(self.results), SavedHead(
                head.id, outcome.config, outcome.network, outcome.tensors, data.scaling, data.target_scale,
                head.cache.task.labels, head.cache.attributes, outcome.diverged_at,
            ))  # fmt: skip
        self.store.add(
            _record(head, outcome, data, str(self.device), self.versions)
            for head, outcome in zip(pack, outcomes, strict=True)
        )
        self.tally.trained += len(pack)
        self.tally.diverged += sum(outcome.diverged_at is not None for outcome in outcomes)
        progress.stored(len(pack), work)

    def _give_up(self, heads: Sequence[PlannedHead], pace: Pace, progress: SweepProgress) -> None:
        from pipeline.device import free_bytes

        least, free = pace.bytes[0] / 2**30, free_bytes(self.device) / 2**30
        first = heads[0]
        self.tally.failures += [
            f"{first.cache.task.name} {head.config.head}, seed {head.config.seed}: expected more than {least:.1f} GiB "
            f"of free memory on {self.device} for this head alone, found {free:.1f}; give a smaller --hidden, --grid "
            "or --batch-size, or another --device"
            for head in heads
        ]
        progress.stored(len(heads), sum(map(head_work, heads)))


def _record(
    head: PlannedHead, outcome: "Outcome", data: "FitData", device: str, versions: dict[str, str]
) -> dict[str, Any]:
    return {
        "id": head.id,
        "task": head.cache.task.name,
        "cache": head.cache.name,
        "source": head.cache.attributes["source"],
        "encoder": head.cache.encoder,
        "pairs": head.cache.attributes["pairs"],
        "row_limit": head.cache.attributes["limit"],
        "fingerprint": head.cache.fingerprint,
        "head": head.config.head,
        "main_metric": head.cache.task.main_metric,
        "features": head.config.features,
        "inputs": data.inputs,
        "protocol": head.config.protocol,
        "seed": head.config.seed,
        "config": head.config.to_json(),
        "trained": "head",
        "status": "trained" if outcome.diverged_at is None else "diverged",
        "diverged_at": outcome.diverged_at,
        "epoch": outcome.epoch,
        "still_improving": None,
        "coverage": None,
        "parameters": outcome.parameters,
        "flops": outcome.flops,
        "fit_seconds": outcome.fit_seconds,
        "train_rows": len(data.labels["train"]),
        "folds": 1,
        "device": device,
        "versions": versions,
        "metrics": outcome.metrics | ({SELECTION: outcome.selection} if outcome.selection else {}),
        "curve": outcome.curve,
        "outputs": outcome.outputs,
    }


def _store_cache(store: Results, ref: CacheRef, data: "FitData") -> None:
    """Store a cache's attributes, labels, and what the training split's majority class scores (classification)."""
    majority: dict[str, dict[str, float | None]] = {}
    for split in data.reported:
        labels = data.labels[split]
        if data.task.labels is None:
            majority[split] = dict.fromkeys(("pearson", "spearmanr"))
            continue
        largest = int(np.bincount(data.labels["train"].astype(np.int64)).argmax())
        guess = np.full((1, len(labels)), largest)
        scores = classification_metrics(guess, labels.astype(np.int64), data.outputs)
        majority[split] = {name: float(value[0]) for name, value in scores.items()}
    store.add_cache(ref.attributes, {split: data.labels[split] for split in data.reported}, majority)
