"""Whole-split outputs of all heads of a pack, and their metrics."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pipeline.device import free_bytes
from pipeline.fit.attention import TokenSource
from pipeline.fit.data import FitData
from pipeline.fit.step import row_losses
from pipeline.fit.tokens import Tokens
from pipeline.heads.forward import expand, layer_forward, layer_tensors, linear, network_forward
from pipeline.heads.network import NetworkSpec
from pipeline.metrics import classification_metrics, regression_metrics

__all__ = ["FirstLayer", "first_layer", "outputs", "split_loss", "split_metrics"]

#: Numbers that one chunk of an evaluation may expand to, over all heads of the pack.
CHUNK_NUMBERS = {"cpu": 1 << 24, "cuda": 1 << 27}
#: Share of free memory that a split's ready-made expansion may take.
EXPANSION_SHARE = 0.25


def row_stride(width: int) -> int:
    """Numbers from one row of an expansion to the next: an odd number of cache lines (of 16 floats).

    Rows that lie a multiple of 4 KiB apart share their places in a processor's cache and drive each other out.
    """
    return (-(-width // 16) | 1) * 16


class FirstLayer:
    """Rows of a split as the first layers take them: the cache never changes, so neither does a constant expansion.

    Where the expansion is a constant of the features (`NetworkSpec.constant`), the whole split is expanded once if
    that fits into a share of free memory, and each minibatch otherwise. Everywhere else rows stay features.
    """

    def __init__(
        self, network: NetworkSpec, features: np.ndarray, device: torch.device, knots: Tensor | None = None
    ) -> None:
        """`features` [rows, inputs] of a split; `knots` [inputs, knots] of a constant first layer that has its own."""
        self.kept = {} if knots is None else {"knots": knots}
        self.layer, self.constant = network.layers[0], network.constant
        self.features = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)).to(device)
        self.ready: Tensor | None = None
        width = self.layer.features
        if self.constant and len(features) * width * 4 <= EXPANSION_SHARE * free_bytes(device):
            self.ready = torch.empty(len(features), row_stride(width), device=device)[:, :width]
            chunk = max(1, CHUNK_NUMBERS[device.type] // width)
            for start in range(0, len(features), chunk):
                rows = slice(start, start + chunk)
                self.ready[rows] = expand(self.layer, self.features[rows], self.kept)

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: Tensor) -> Tensor:
        """Rows [...] as the step's `x` [..., features or inputs]."""
        if self.ready is not None:
            return self.ready[rows]
        return expand(self.layer, self.features[rows], self.kept) if self.constant else self.features[rows]


def first_layer(
    network: NetworkSpec, features: np.ndarray | Tokens, device: torch.device, knots: Tensor | None = None
) -> FirstLayer | TokenSource:
    """Rows of a split as the network takes them: features, or tokens for a pool that trains."""
    if network.pool is not None:
        return TokenSource(network.pool, features, device)
    return FirstLayer(network, features, device, knots)


@torch.no_grad()
def outputs(
    network: NetworkSpec, tensors: Mapping[str, Tensor], source: FirstLayer | TokenSource, rows: Tensor | None
) -> Tensor:
    """Outputs [heads, rows, classes] of every head on the rows [rows], or its own [heads, rows]; `None`: all rows."""
    heads = len(next(iter(tensors.values())))
    device = source.features.device
    rows = torch.arange(len(source), device=device) if rows is None else rows
    layers = network.layers
    widest = max(layer.numbers for layer in layers[int(network.constant) :] or layers)
    numbers = CHUNK_NUMBERS[device.type]
    if network.pool is not None:
        some = max(1, numbers // (heads * (widest + network.inputs)))
        taken = [source.take(rows[..., start : start + some]) for start in range(0, rows.shape[-1], some)]
        return torch.cat([network_forward(network, one.pooled(tensors["pool.weight"]), tensors) for one in taken], 1)
    if rows.dim() == 2:
        # Heads after heads: their expansions are many numbers, and so each weight is read once.
        chunk = max(1, numbers // (rows.shape[1] * (widest + layers[0].features)))
        own = [slice(start, start + chunk) for start in range(0, heads, chunk)]
        parts = [_forward(network, {n: t[some] for n, t in tensors.items()}, source.take(rows[some])) for some in own]
        return torch.cat(parts)
    chunk = max(1, numbers // (heads * widest + layers[0].features))
    parts = []
    for start in range(0, len(rows), chunk):
        x = source.take(rows[start : start + chunk])
        parts.append(_forward(network, tensors, x.expand(heads, *x.shape)))
    return torch.cat(parts, 1)


def _forward(network: NetworkSpec, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Outputs [heads, rows, classes] of what `FirstLayer.take` gives, [heads, rows, ...]."""
    if not network.constant:
        return network_forward(network, x, tensors)
    x = linear(network.layers[0], x, layer_tensors(tensors, 0))
    for index in range(1, len(network.layers)):
        x = layer_forward(network.layers[index], x, layer_tensors(tensors, index))
    return x


def split_loss(found: Tensor, targets: Tensor) -> Tensor:
    """Mean loss [heads] of outputs [heads, rows, classes] against targets [rows] or [heads, rows]."""
    return row_losses(found, targets.expand(len(found), -1)).mean(1)


def split_metrics(found: Tensor, labels: np.ndarray, data: FitData) -> dict[str, np.ndarray]:
    """Every metric of the task's kind, each [heads], of outputs [heads, rows, classes].

    `labels` are [rows] or [heads, rows].
    """
    if data.task.labels is not None:
        return classification_metrics(found.argmax(2).cpu().numpy(), labels.astype(np.int64), data.outputs)
    mean, spread = data.target_scale
    return regression_metrics(found.squeeze(2).cpu().numpy() * spread + mean, labels)
