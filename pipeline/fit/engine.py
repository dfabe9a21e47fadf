"""What trains a pack for an epoch, and the plain engine: PyTorch operations on any device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.fit.extras import Dropout, SplinePenalty, wanted
from pipeline.fit.optimiser import PackedAdamW
from pipeline.fit.predict import FirstLayer
from pipeline.fit.step import TrainingStep
from pipeline.heads.config import HeadConfig
from pipeline.heads.network import NetworkSpec

__all__ = ["Engine", "Epoch", "PlainEngine"]


@dataclass(frozen=True)
class Epoch:
    """One epoch's work: `order` [replicates, rows] are row numbers, `replicate_of` [heads] tells a head its line.

    `number` counts from 0, `of` is the number of epochs.
    """

    order: Tensor
    replicate_of: Tensor
    batch_size: int
    number: int
    of: int

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self.order.shape[1]

    @property
    def steps(self) -> int:
        """Minibatches of an epoch; the last one may be smaller."""
        return -(-self.rows // self.batch_size)

    @property
    def last(self) -> int:
        """Rows of the last minibatch."""
        return self.rows - (self.steps - 1) * self.batch_size


class Engine(Protocol):
    """Trains all heads of a pack.

    `tensors` are [heads, ...], current after every epoch; `diverged_at` [heads] is the step, from 0, at which a head's
    loss or gradient was not finite (-1: never), from which on its tensors stay as they are.
    """

    tensors: dict[str, Tensor]

    diverged_at: Tensor

    def run(self, epoch: Epoch) -> Tensor:
        """Train one epoch; returns the mean loss of every head [heads]."""


def head_vectors(configs: Sequence[HeadConfig], device: torch.device) -> list[Tensor]:
    """Learning rate, weight decay and clipping norm of every head, each [heads]."""
    return [
        torch.tensor([getattr(config, name) for config in configs], dtype=torch.float32, device=device)
        for name in ("lr", "weight_decay", "clip")
    ]


class PlainEngine:
    """The engine that runs everywhere, and that the others are tested against."""

    def __init__(
        self, network: NetworkSpec, tensors: dict[str, Tensor], configs: Sequence[HeadConfig], source: FirstLayer,
        targets: Tensor,
    ) -> None:  # fmt: skip
        """`tensors` [heads, ...] start the heads and change in place; `source` and `targets` are the training rows."""
        self.tensors, self.source, self.targets = tensors, source, targets
        trained = {name: tensors[name] for name in network.shapes()}
        self.optimiser = PackedAdamW(trained, *head_vectors(configs, targets.device))
        device = targets.device
        dropout = Dropout(configs, network, device) if wanted(configs, "dropout") else None
        penalised = wanted(configs, "spline_l1", "spline_entropy")
        penalty = SplinePenalty(configs, network, device) if penalised else None
        self.step = TrainingStep(network, tensors, self.optimiser, dropout, penalty)

    def resume(self, steps: int, diverged_at: Tensor) -> None:
        """Go on where another engine was after `steps` steps, with moments that are zero."""
        self.optimiser.restart(steps, diverged_at)

    @property
    def diverged_at(self) -> Tensor:
        """The step at which each head diverged [heads], -1 where it did not."""
        return self.optimiser.diverged_at

    def run(self, epoch: Epoch) -> Tensor:
        """Train one epoch; returns the mean loss of every head [heads]."""
        device, size, steps = self.targets.device, epoch.batch_size, epoch.steps
        # The last minibatch is filled up with rows that weigh nothing, so that every step has the same shape.
        order = torch.zeros(len(epoch.order), steps * size, dtype=torch.int64)
        order[:, : epoch.rows] = epoch.order
        order = order.view(-1, steps, size)[epoch.replicate_of].to(device)
        last = epoch.last
        full = torch.full((size,), 1 / size, device=device)
        partial = (torch.arange(size, device=device) < last) / last
        total = torch.zeros(len(epoch.replicate_of), device=device)
        for step in range(steps):
            batch, final = order[:, step], step == steps - 1
            share = 1 - (epoch.number * steps + step) / (steps * epoch.of)
            losses = self.step(self.source.take(batch), self.targets[batch], partial if final else full, share)
            total += losses * (last if final else size)
        return total / epoch.rows
