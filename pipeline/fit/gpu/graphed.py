"""The engine for networks that the fused kernels do not cover: a step layer by layer, replayed as one graph."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.fit.engine import Epoch, PlainEngine, head_vectors
from pipeline.fit.extras import SplinePenalty, wanted
from pipeline.fit.gpu.batched import product, sum_rows
from pipeline.fit.gpu.capture import captured
from pipeline.fit.gpu.expansion import expand
from pipeline.fit.gpu.factored import worth
from pipeline.fit.gpu.loss import loss
from pipeline.fit.gpu.update import FlatAdamW
from pipeline.fit.predict import FirstLayer
from pipeline.fit.step import Operations, TrainingStep
from pipeline.heads.config import HeadConfig
from pipeline.heads.forward import scaled_weight
from pipeline.heads.network import LayerSpec, NetworkSpec

__all__ = ["GraphedEngine", "supports"]


def supports(network: NetworkSpec, config: HeadConfig) -> bool:
    """Whether a step has the same shapes every time and asks the host for nothing: dropout draws there, pools look up.

    Any depth, width and family will do.
    """
    per_edge = any(layer.per_edge for layer in network.layers)
    return network.pool is None and not config.dropout and not per_edge


def _linear(layer: LayerSpec, expansion: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """`pipeline.heads.forward.linear`."""
    return product(expansion, scaled_weight(layer, tensors), bias=tensors["bias"] if layer.bias else None)


FUSED = Operations(expand, _linear, product, sum_rows, loss)


class GraphedEngine(PlainEngine):
    """The plain engine's step with kernels for expansions and the update, without a word from the host in between.

    A minibatch is chosen by a counter on the device, so a step is captured once and replayed. Under Triton's
    interpreter, which has no graphs, the same step runs as it is.
    """

    def __init__(
        self, network: NetworkSpec, tensors: dict[str, Tensor], configs: Sequence[HeadConfig], source: FirstLayer,
        targets: Tensor,
    ) -> None:  # fmt: skip
        """`tensors` [heads, ...] are copied, but for buffers; `source` and `targets` are the training rows."""
        self.source, self.targets, device = source, targets, targets.device
        trained = {name: tensors[name] for name in network.shapes()}
        penalised = wanted(configs, "spline_l1", "spline_entropy")
        penalty = SplinePenalty(configs, network, device) if penalised else None
        rows, layers = configs[0].batch_size, () if penalised else enumerate(network.layers)
        by_factors = [f"layers.{index}.weight" for index, layer in layers if worth(layer, rows)]
        self.optimiser = FlatAdamW(trained, *head_vectors(configs, device), by_factors, rows)
        self.tensors = tensors | self.optimiser.tensors
        self.step = TrainingStep(
            network, self.tensors, self.optimiser, None, penalty, operations=FUSED, gradients=self.optimiser.gradients
        )
        self._turn = torch.zeros(1, dtype=torch.int64, device=device)
        self._total = torch.zeros(len(configs), device=device)
        self._order: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def first_moments(self) -> dict[str, Tensor]:
        """The first moment of every tensor's gradient [heads, ...] (after one step a tenth of the clipped gradient)."""
        return self.optimiser.first

    def _begin(self, epoch: Epoch) -> None:
        """The epoch's rows and numbers, where the captured step looks for them."""
        device, size, steps, last = self.targets.device, epoch.batch_size, epoch.steps, epoch.last
        shape = (len(epoch.order), steps, size)
        if self._order is None or self._order.shape != shape:
            self._graph = None
            self._order = torch.zeros(shape, dtype=torch.int64, device=device)
            self._replicate_of = epoch.replicate_of.to(device)
            # The last minibatch is filled up with rows that weigh nothing.
            self._weights = torch.full((steps, size), 1 / size, device=device)
            self._weights[-1] = (torch.arange(size, device=device) < last) / last
            self._sizes = torch.full((steps,), float(size), device=device)
            self._sizes[-1] = last
        self._order.view(len(epoch.order), -1)[:, : epoch.rows] = epoch.order.to(device)
        self._replicate_of.copy_(epoch.replicate_of)
        self.optimiser.clock[1] = steps * epoch.of
        self._turn.zero_()
        self._total.zero_()

    def _minibatch(self) -> None:
        """Train on the next minibatch."""
        rows = self._order.index_select(1, self._turn).squeeze(1)[self._replicate_of]
        weights = self._weights.index_select(0, self._turn).squeeze(0)
        losses = self.step(self.source.take(rows), self.targets[rows], weights, 1.0)
        self._total.addcmul_(losses, self._sizes.index_select(0, self._turn))
        self._turn.add_(1)

    def run(self, epoch: Epoch) -> Tensor:
        """Train one epoch; returns the mean loss of every head [heads]."""
        self._begin(epoch)
        if self.targets.device.type != "cuda":
            for _ in range(epoch.steps):
                self._minibatch()
            return self._total / epoch.rows
        done = 0
        if self._graph is None:
            # The first step sets up what a capture must not: libraries, kernels, autograd's threads.
            stream = torch.cuda.Stream(self.targets.device)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._minibatch()
            torch.cuda.synchronize()
            self._graph, done = captured(self._minibatch, stream), 1
        for _ in range(epoch.steps - done):
            self._graph.replay()
        return self._total / epoch.rows
