"""Train one pack: all heads of one shape on one task, each with its own replicate, rates and best epoch."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.fit.attention import TokenSource
from pipeline.fit.data import FitData, targets_of
from pipeline.fit.engine import Engine, Epoch
from pipeline.fit.engines import ready_engine
from pipeline.fit.predict import FirstLayer, first_layer, outputs, split_loss, split_metrics
from pipeline.fit.split import Replicate, fold_replicates, replicate, whole_replicate
from pipeline.heads.config import HeadConfig
from pipeline.heads.cost import forward_flops, parameters
from pipeline.heads.extend import extend_grid
from pipeline.heads.families import FAMILIES, build_network
from pipeline.heads.initialization import stack, starts
from pipeline.heads.knots import start_knots, update_grid
from pipeline.heads.network import NetworkSpec
from pipeline.heads.schedule import stages
from pipeline.metrics import metric_value
from pipeline.progress import say

__all__ = ["Outcome", "train_pack"]


@dataclass(frozen=True)
class Outcome:
    """What training gave for one head.

    `epoch` (from 1) is the chosen one; `selection` and `metrics` are its metrics on the selection rows and, by split,
    on the reported splits; `outputs` are its logits (or values in the task's units) [rows, classes] by split; `curve`
    has one (training loss, selection loss, selection score) for every epoch. A head that diverged has its step
    (from 0) in `diverged_at` and no metrics.
    """

    config: HeadConfig
    network: NetworkSpec
    epoch: int
    selection: dict[str, float]
    metrics: dict[str, dict[str, float]]
    outputs: dict[str, np.ndarray]
    curve: list[tuple[float, float, float]]
    tensors: dict[str, Tensor]
    parameters: int
    flops: int
    fit_seconds: float
    diverged_at: int | None = None


def _own_tensors(tensors: Mapping[str, Tensor], head: int) -> dict[str, Tensor]:
    """Copies on the CPU of one head's tensors."""
    return {name: tensor[head].to("cpu", copy=True) for name, tensor in tensors.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch on one thread: for operations so small that waking others and waiting for them takes longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass
class _Best:
    """The best epoch of every head so far, by selection score, ties by lower loss, then by earlier epoch."""

    tensors: dict[str, Tensor]
    score: np.ndarray
    loss: np.ndarray
    epoch: np.ndarray
    selection: list[dict[str, float]]

    def keep(self, heads: np.ndarray, current: dict[str, Tensor]) -> None:
        """Copy the current tensors of some heads."""
        if len(heads):
            index = torch.from_numpy(heads).to(next(iter(current.values())).device)
            for name, tensor in current.items():
                self.tensors[name][index] = tensor[index]


class _Pack:
    """The state of one pack in training.

    A head has a member for each fold of its seed; members are ordered by seed and fold, so that those of one replicate
    are neighbours.
    """

    def __init__(
        self, heads: Sequence[HeadConfig], data: FitData, device: torch.device,
        first: Sequence[Mapping[str, Tensor]] | None, folds: Sequence[Sequence[Replicate]],
    ) -> None:  # fmt: skip
        """`folds` are the replicates of every seed, as many for each, in the order of the heads' seeds."""
        self.heads, self.data, self.device = heads, data, device
        self.shape = heads[0]
        self.folds, self.replicates = len(folds[0]), [one for seed in folds for one in seed]
        head_of = [[head for head, config in enumerate(heads) if config.seed == one.seed] for one in self.replicates]
        self.replicate_of = torch.arange(len(head_of)).repeat_interleave(torch.tensor([len(own) for own in head_of]))
        head_of = np.concatenate(head_of)
        #: Members by head and fold [heads, folds].
        self.members = np.argsort(head_of, kind="stable").reshape(len(heads), self.folds)
        self.configs = configs = [heads[head] for head in head_of]
        self.stages = stages(self.shape)
        self.network = build_network(replace(self.shape, grid=self.stages[0]), data.inputs, data.outputs)
        self.targets, self.first_knots = data.targets.to(device), None
        with ThreadPoolExecutor(1) as ahead:
            prepared = ahead.submit(self._prepare)
            draws = None if first is None else stack([first[head] for head in head_of])
            begun = (
                starts(configs, self.network, device) if draws is None else {n: t.to(device) for n, t in draws.items()}
            )
            self._kind = prepared.result()
        begun = start_knots(self.network, len(configs), device) | begun
        if self.shape.update_grid:
            self._update_grid(begun, torch.ones(len(configs), dtype=torch.bool))
        self._begin(begun)
        self._ahead = ThreadPoolExecutor(1) if device.type == "cuda" else None
        self._next: Future[Tensor] | None = None
        self.steps = -(-self.replicates[0].rows // self.shape.batch_size)
        self.curves: list[list[tuple[float, float, float]]] = [[] for _ in heads]

    def _prepare(self) -> type[Engine]:
        """The engine's class, when it has done what it can while heads are drawn."""
        return ready_engine(self.network, self.configs, lambda: self._source("train"), self.targets)

    def _begin(self, tensors: dict[str, Tensor]) -> None:
        """An engine, rows and a best epoch for the network as it is now, from these tensors."""
        self.first_knots = tensors["layers.0.knots"][0] if "layers.0.knots" in tensors else None
        self.train = self._source("train")
        self.validation = None
        if self.shape.protocol == "published":
            self.validation = self._source(self.data.reported[0])
        self.engine = self._kind(self.network, tensors, self.configs, self.train, self.targets)
        heads = len(self.heads)
        self.best = _Best(
            {name: tensor.clone() for name, tensor in self.engine.tensors.items()} if self.folds == 1 else {},
            np.full(heads, -np.inf), np.full(heads, np.inf), np.zeros(heads, np.int64), [{} for _ in self.heads],
        )  # fmt: skip

    def _source(self, split: str) -> FirstLayer | TokenSource:
        return first_layer(self.network, self.data.features[split], self.device, self.first_knots)

    def _update_grid(self, tensors: dict[str, Tensor], live: Tensor) -> None:
        """Knots from the training rows; those of a constant first layer never change after the first time."""
        update_grid(self.network, tensors, torch.from_numpy(self.data.features["train"]).to(self.device), live)

    def _extend(self, epoch: int, intervals: int) -> None:
        """The same functions on another grid; what was best before had another shape, so the choice begins anew."""
        diverged, old = self.engine.diverged_at, self.stages[max(at for at in self.stages if at < epoch)]
        found = extend_grid(self.engine.tensors, self.network, intervals)
        how = "nested, functions stay as they are" if found.nested else "not nested, functions are least-squares fits"
        say(f"{self.shape.head}: grid {old} to {intervals} before epoch {epoch + 1}: {how}")
        self.network = found.network
        self._kind = self._prepare()
        self._begin(found.tensors)
        self.engine.resume(epoch * self.steps, diverged)

    def run_epoch(self, epoch: int) -> np.ndarray:
        """Train one epoch; returns the mean training loss of every head [heads]."""
        if epoch and epoch in self.stages:
            self._extend(epoch, self.stages[epoch])
        if 0 < epoch < (self.shape.update_grid or 0):
            diverged = self.engine.diverged_at
            self._update_grid(self.engine.tensors, diverged < 0)
            self.engine.resume(epoch * self.steps, diverged)
        order = self._next.result() if self._next else self._order(epoch)
        if self._ahead and epoch + 1 < self.shape.epochs:
            # While the GPU trains this epoch, the next one's rows are put in order.
            self._next = self._ahead.submit(self._order, epoch + 1)
        work = Epoch(order, self.replicate_of, self.shape.batch_size, epoch, self.shape.epochs)
        return self.engine.run(work).cpu().numpy()

    def _order(self, epoch: int) -> Tensor:
        """The training rows of every replicate in an epoch's order [replicates, rows]."""
        return torch.from_numpy(np.stack([one.order(epoch) for one in self.replicates]))

    def select(self, epoch: int, training_loss: np.ndarray) -> None:
        """Score every head on its selection rows and keep those that improved; of folds only the choice is kept."""
        with _one_thread():
            scored = [
                (split_metrics(values, labels, self.data), split_loss(values, targets).cpu().numpy())
                for values, labels, targets in self._selection()
            ]
        metrics = {name: np.concatenate([found[name] for found, _ in scored]) for name in scored[0][0]}
        losses, scores = np.concatenate([loss for _, loss in scored]), metric_value(metrics, self.data.task.main_metric)
        best, members = self.best, torch.from_numpy(self.members).to(self.device)
        # An update that breaks a head on an epoch's last step shows only here.
        broken = members[torch.from_numpy(~np.isfinite(losses)).to(self.device)].flatten()
        self.engine.diverged_at[broken[self.engine.diverged_at[broken] < 0]] = (epoch + 1) * self.steps
        sound = self.diverged_at() < 0
        better = sound & ((scores > best.score) | ((scores == best.score) & (losses < best.loss)))
        best.score[better], best.loss[better], best.epoch[better] = scores[better], losses[better], epoch + 1
        for head in np.flatnonzero(better):
            best.selection[head] = {name: float(value[head]) for name, value in metrics.items()}
        training_loss = training_loss[self.members].mean(1)
        for head in np.flatnonzero(sound):
            self.curves[head].append((float(training_loss[head]), float(losses[head]), float(scores[head])))
        if self.folds == 1:
            best.keep(np.flatnonzero(better), self.engine.tensors)

    def _selection(self) -> Iterator[tuple[Tensor, np.ndarray, Tensor]]:
        """Outputs [heads, rows, classes], labels and targets [rows] or [heads, rows] of some heads after others.

        A head's rows are those of all its folds, each answered by the member that did not train on it.
        """
        if self.validation is not None:
            labels = self.data.labels[self.data.reported[0]]
            values = self._outputs(self.validation, torch.arange(len(self.validation), device=self.device))
            yield values, labels, targets_of(self.data, labels).to(self.device)
            return
        counts = [len(one.selection) for one in self.replicates]
        rows = np.stack([np.resize(one.selection, max(counts)) for one in self.replicates])[self.replicate_of.numpy()]
        at, labels = torch.from_numpy(rows).to(self.device), self.data.labels["train"]
        values = self._outputs(self.train, at)
        if self.folds == 1 and min(counts) == max(counts):
            yield values, labels[rows], self.targets[at]
            return
        ends = torch.bincount(self.replicate_of).cumsum(0).tolist()
        parts = [values[start:end, :count] for start, end, count in zip([0, *ends], ends, counts, strict=False)]
        for seed in range(0, len(parts), self.folds):
            own = np.concatenate([one.selection for one in self.replicates[seed : seed + self.folds]])
            targets = self.targets[torch.from_numpy(own).to(self.device)]
            yield torch.cat(parts[seed : seed + self.folds], 1), labels[own], targets

    def diverged_at(self) -> np.ndarray:
        """The first step at which a member of a head diverged [heads], -1 where none did."""
        steps = self.engine.diverged_at.cpu().numpy()[self.members]
        never = np.iinfo(np.int64).max
        first = np.where(steps < 0, never, steps).min(1)
        return np.where(first == never, -1, first)

    def _outputs(self, source: FirstLayer, rows: Tensor) -> Tensor:
        """Outputs [heads, rows, classes] of the heads as they are, by the engine where it has a way of its own."""
        own = getattr(self.engine, "outputs", None)
        return outputs(self.network, self.engine.tensors, source, rows) if own is None else own(source, rows)

    def outcomes(self, seconds: float) -> list[Outcome]:
        """Final metrics and outputs of every head at its best epoch."""
        data, mean_spread = self.data, self.data.target_scale
        by_split = {}
        for split in data.reported:
            source = self._source(split)
            values = outputs(self.network, self.best.tensors, source, None)
            metrics = split_metrics(values, data.labels[split], data)
            if data.task.labels is None:
                values = values * mean_spread[1] + mean_spread[0]
            by_split[split] = (metrics, values.cpu().numpy())
        with ThreadPoolExecutor(torch.get_num_threads()) as workers:
            # One copy a head: a view would keep the whole pack's tensors.
            tensors = list(workers.map(lambda head: _own_tensors(self.best.tensors, head), range(len(self.heads))))
        diverged, done = self.diverged_at().tolist(), []
        for head, config in enumerate(self.heads):
            failed = diverged[head] >= 0
            metrics = {split: {n: float(v[head]) for n, v in found.items()} for split, (found, _) in by_split.items()}
            done.append(
                Outcome(
                    config=config,
                    network=self.network,
                    epoch=int(self.best.epoch[head]),
                    selection={} if failed else self.best.selection[head],
                    metrics={} if failed else metrics,
                    outputs={} if failed else {split: values[head] for split, (_, values) in by_split.items()},
                    curve=self.curves[head],
                    tensors=tensors[head],
                    parameters=parameters(self.network),
                    flops=forward_flops(self.network),
                    fit_seconds=seconds / len(self.heads),
                    diverged_at=diverged[head] if failed else None,
                )
            )
        return done


def train_pack(
    configs: Sequence[HeadConfig],
    data: FitData,
    device: torch.device,
    on_epoch: Callable[[], None] = lambda: None,
    *,
    first: Sequence[Mapping[str, Tensor]] | None = None,
    last: bool = False,
) -> list[Outcome]:
    """Train heads of one shape together; returns their outcomes in the order given.

    All configurations must agree in everything but seed, lr, weight_decay and clip. `on_epoch` is called after every
    epoch. A single head is a pack of one; pykan's heads, which have a loop of their own, train one after another.
    With `folds` in the configuration, epochs are chosen by cross-fitting (a member of the pack for each fold, scored
    together on all rows), and heads are trained again on all rows.
    `first` are each head's first weights instead of its own draw; with `last`, heads are as their last epoch left
    them instead of as their best one did.
    """
    if FAMILIES[configs[0].head].own_loop:
        from pipeline.fit.kan_train import train_kan

        begun = first or [None] * len(configs)
        pairs = zip(configs, begun, strict=True)
        return [train_kan(config, data, on_epoch, first=one, last=last) for config, one in pairs]
    order = sorted(range(len(configs)), key=lambda head: configs[head].seed)
    begin, sorted_configs = time.perf_counter(), [configs[head] for head in order]
    begun = None if first is None else [first[head] for head in order]
    shape, seeds = configs[0], dict.fromkeys(config.seed for config in sorted_configs)
    if shape.folds is None:
        folds = [[replicate(data, seed, shape.protocol, shape.rows)] for seed in seeds]
    else:
        folds = [fold_replicates(data, seed, shape.folds, shape.rows) for seed in seeds]
    pack = _Pack(sorted_configs, data, device, begun, folds)
    for epoch in range(shape.epochs):
        pack.select(epoch, pack.run_epoch(epoch))
        on_epoch()
    if shape.folds is not None:
        pack = _refitted(pack, begun)
    if last:
        pack.best.tensors = {name: tensor.clone() for name, tensor in pack.engine.tensors.items()}
    done = pack.outcomes(time.perf_counter() - begin)
    return [done[order.index(head)] for head in range(len(configs))]


def _refitted(chosen: _Pack, first: Sequence[Mapping[str, Tensor]] | None) -> _Pack:
    """The heads trained again, on all rows, each up to the epoch that its folds chose."""
    data, device, best = chosen.data, chosen.device, chosen.best
    seeds = dict.fromkeys(config.seed for config in chosen.heads)
    folds = [[whole_replicate(data, seed, chosen.shape.rows)] for seed in seeds]
    diverged = torch.from_numpy(chosen.diverged_at()).to(device)
    chosen.engine = chosen.train = None  # their memory is wanted
    pack = _Pack(chosen.heads, data, device, first, folds)
    for epoch in range(best.epoch.max()):
        pack.run_epoch(epoch)
        pack.best.keep(np.flatnonzero(best.epoch == epoch + 1), pack.engine.tensors)
    pack.curves, pack.best = chosen.curves, replace(best, tensors=pack.best.tensors)
    pack.engine.diverged_at[diverged >= 0] = diverged[diverged >= 0]
    return pack
