"""Packs: heads of one shape together, as many as memory holds and speed rewards."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.heads.cost import parameters
from pipeline.heads.families import build_network
from pipeline.sweep.plan import PlannedHead

__all__ = ["PackSizer", "groups", "head_bytes", "head_work"]

#: Options that may differ within a pack; everything else decides shapes or data.
PER_HEAD = ("seed", "lr", "weight_decay", "clip")
#: Bytes a parameter while a pack trains: weights, two moments and the best epoch's weights at least; with the initial
#: weights, gradients, scratch and padding at most.
LEAST_BYTES, BYTES = 16, 40
#: Rows of a minibatch up to which activations are counted: a larger one may be the whole training split.
ROWS = 64
#: Share of free memory that a pack may take; the rest is for embeddings, expansions and outputs.
SHARE = 0.5
#: The first pack of a shape: bytes of its state, fewest and most heads.
FIRST = {"cpu": (128 << 20, 16, 256), "cuda": (3 << 30, 64, 4096)}
#: Seconds: a pack that took less is doubled while that pays, one that took more is halved, since an interruption loses
#: what the running pack has done.
SHORT, LONG = 10.0, 60.0


def groups(todo: Sequence[PlannedHead]) -> list[list[PlannedHead]]:
    """Heads of one cache and one shape together, caches and embeddings one after another."""
    by_shape: dict[Any, list[PlannedHead]] = {}
    for head in todo:
        shape = replace(head.config, **dict.fromkeys(PER_HEAD, 0))
        by_shape.setdefault((head.cache.path, head.config.features, head.config.scale, shape), []).append(head)
    return list(by_shape.values())


def _parameters(head: PlannedHead) -> int:
    network = build_network(head.config, head.cache.widths[head.config.features], head.cache.outputs)
    return parameters(network)


def head_bytes(head: PlannedHead) -> tuple[int, int]:
    """Bytes that one head's training needs at least and at most: its parameters' and a minibatch's activations'."""
    network = build_network(head.config, head.cache.widths[head.config.features], head.cache.outputs)
    count, rows = parameters(network), min(head.config.batch_size, ROWS)
    # A unit's value and its gradient; at most also what a layer reads, and scratch.
    units = sum(layer.outputs for layer in network.layers)
    read = sum(layer.features for layer in network.layers)
    members = head.config.folds or 1
    return (
        members * (LEAST_BYTES * count + 8 * rows * units),
        members * (BYTES * count + 12 * rows * (units + read)),
    )


def head_work(head: PlannedHead) -> float:
    """The cost of a head relative to others: steps move its parameters, rows multiply them."""
    config = head.config
    times = 1 if config.folds is None else config.folds + 1  # trained for each fold, and again on all rows
    rows = times * (config.rows or head.cache.train_rows)
    return rows * config.epochs * (_parameters(head) + 5000) * (1 / config.batch_size + 1 / 50)


class PackSizer:
    """How many heads the next pack of a shape takes, from free memory and from the speed of the packs before it."""

    def __init__(self, head: PlannedHead, device: str) -> None:
        state, self.least, most = FIRST[device.partition(":")[0]]
        self.bytes = head_bytes(head)
        self.size = max(self.least, min(most, state // self.bytes[0]))
        self.rate, self.ceiling = 0.0, sys.maxsize

    def heads(self, left: int, free: int) -> int:
        """The next pack's heads, of `left`, with `free` bytes of memory; at least 1."""
        return max(1, min(self.size, left, int(SHARE * free) // self.bytes[1]))

    def took(self, heads: int, seconds: float) -> None:
        """Learn from the speed of a pack that is done."""
        rate = heads / max(seconds, 1e-9)
        if seconds > LONG:
            self.size = max(self.least, heads // 2)
        elif seconds < SHORT and heads == self.size and rate > self.rate:
            self.size = min(2 * heads, self.ceiling)
        self.rate = max(self.rate, rate)

    def failed(self, heads: int) -> None:
        """A pack did not fit into memory: half of it may."""
        self.size = self.least = self.ceiling = max(1, heads // 2)
