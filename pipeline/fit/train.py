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
from pipeline.fit.split import replicate
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
    """The state of one pack in training; heads are ordered by seed so that a replicate's heads are neighbours."""

    def __init__(
        self, configs: Sequence[HeadConfig], data: FitData, device: torch.device,
        first: Sequence[Mapping[str, Tensor]] | None,
    ) -> None:  # fmt: skip
        self.configs, self.data, self.device = configs, data, device
        self.shape = configs[0]
        self.stages = stages(self.shape)
        self.network = build_network(replace(self.shape, grid=self.stages[0]), data.inputs, data.outputs)
        self.targets, self.first_knots = data.targets.to(device), None
        with ThreadPoolExecutor(1) as ahead:
            prepared, draws = ahead.submit(self._prepare), None if first is None else stack(list(first))
            begun = (
                starts(configs, self.network, device) if draws is None else {n: t.to(device) for n, t in draws.items()}
            )
            self._kind = prepared.result()
        begun = start_knots(self.network, len(configs), device) | begun
        if self.shape.update_grid:
            self._update_grid(begun, torch.ones(len(configs), dtype=torch.bool))
        self._begin(begun)
        seeds = sorted({config.seed for config in configs})
        self.replicates = [replicate(data, seed, self.shape.protocol) for seed in seeds]
        number = {seed: place for place, seed in enumerate(seeds)}
        self.replicate_of = torch.tensor([number[config.seed] for config in configs])
        self._ahead = ThreadPoolExecutor(1) if device.type == "cuda" else None
        self._next: Future[Tensor] | None = None
        self.steps = -(-len(self.replicates[0].train) // self.shape.batch_size)
        self.curves: list[list[tuple[float, float, float]]] = [[] for _ in configs]

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
        heads = len(self.configs)
        self.best = _Best(
            {name: tensor.clone() for name, tensor in self.engine.tensors.items()},
            np.full(heads, -np.inf), np.full(heads, np.inf), np.zeros(heads, np.int64), [{} for _ in self.configs],
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
        """Score every head on its selection rows and keep those that improved."""
        data, validation = self.data, self.validation
        if validation is None:
            # Strata are the same for all seeds, so as many rows are held out for each.
            rows = np.stack([one.selection for one in self.replicates])[self.replicate_of.numpy()]
            at = torch.from_numpy(rows).to(self.device)
            values, labels = self._outputs(self.train, at), data.labels["train"][rows]
        else:
            labels = data.labels[data.reported[0]]
            values = self._outputs(validation, torch.arange(len(validation), device=self.device))
        with _one_thread():
            targets = self.targets[at] if validation is None else targets_of(self.data, labels).to(self.device)
            metrics = split_metrics(values, labels, data)
            losses = split_loss(values, targets).cpu().numpy()
        scores = metric_value(metrics, data.task.main_metric)
        best = self.best
        # An update that breaks a head on an epoch's last step shows only here.
        broken = torch.from_numpy(~np.isfinite(losses)).to(self.device) & (self.engine.diverged_at < 0)
        self.engine.diverged_at[broken] = (epoch + 1) * self.steps
        sound = (self.engine.diverged_at < 0).cpu().numpy()
        better = sound & ((scores > best.score) | ((scores == best.score) & (losses < best.loss)))
        best.score[better], best.loss[better], best.epoch[better] = scores[better], losses[better], epoch + 1
        for head in np.flatnonzero(better):
            best.selection[head] = {name: float(value[head]) for name, value in metrics.items()}
        for head in np.flatnonzero(sound):
            self.curves[head].append((float(training_loss[head]), float(losses[head]), float(scores[head])))
        best.keep(np.flatnonzero(better), self.engine.tensors)

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
            tensors = list(workers.map(lambda head: _own_tensors(self.best.tensors, head), range(len(self.configs))))
        diverged = self.engine.diverged_at.tolist()
        done = []
        for head, config in enumerate(self.configs):
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
                    fit_seconds=seconds / len(self.configs),
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
    `first` are each head's first weights instead of its own draw; with `last`, heads are as their last epoch left
    them instead of as their best one did.
    """
    if FAMILIES[configs[0].head].own_loop:
        from pipeline.fit.kan_train import train_kan

        begun = first or [None] * len(configs)
        pairs = zip(configs, begun, strict=True)
        return [train_kan(config, data, on_epoch, first=one, last=last) for config, one in pairs]
    order = sorted(range(len(configs)), key=lambda head: configs[head].seed)
    begin = time.perf_counter()
    begun = None if first is None else [first[head] for head in order]
    pack = _Pack([configs[head] for head in order], data, device, begun)
    for epoch in range(pack.shape.epochs):
        pack.select(epoch, pack.run_epoch(epoch))
        on_epoch()
    if last:
        pack.best.tensors = {name: tensor.clone() for name, tensor in pack.engine.tensors.items()}
    done = pack.outcomes(time.perf_counter() - begin)
    return [done[order.index(head)] for head in range(len(configs))]
