"""The launches of a part of a pack: heads that go through their steps on a stream of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import JITFunction

from pipeline.fit.engine import Epoch
from pipeline.fit.gpu.bases import KINDS
from pipeline.fit.gpu.first_layer import update_and_forward
from pipeline.fit.gpu.first_norm import gradient_norm
from pipeline.fit.gpu.last_layer import clip_and_update, loss_and_gradients
from pipeline.fit.gpu.tuning import Tuning
from pipeline.heads.network import LayerSpec, NetworkSpec

__all__ = ["Part", "Rows", "grid_numbers", "kinds"]


@dataclass(frozen=True)
class Rows:
    """What all parts read: features and layer-normed features [rows, inputs], and targets [rows].

    `table` [rows, rows] has the products of the rows' expansions, `expansion` [rows, features] these themselves; `None`
    where they are not kept.
    """

    features: Tensor
    normed: Tensor
    targets: Tensor
    table: Tensor | None
    expansion: Tensor | None


def kinds(layer: LayerSpec) -> dict[str, int]:
    """The bases of a layer as the kernels take them; -1 for no second one."""
    second = layer.branches[1] if len(layer.branches) > 1 else None
    return {
        "KIND0": KINDS[layer.branches[0].basis], "WIDTH0": layer.widths[0], "NORM0": layer.branches[0].normed,
        "KIND1": KINDS[second.basis] if second else -1, "NORM1": bool(second and second.normed),
        "ORDER": layer.grid.intervals if layer.branches[0].basis == "fourier" else layer.grid.order,
    }  # fmt: skip


def grid_numbers(layer: LayerSpec) -> tuple[float, float, float]:
    """low, 1 / step and sharpness of a layer's grid."""
    grid = layer.grid
    parts = grid.intervals if layer.branches[0].basis == "b_spline" else max(1, grid.centres - 1)
    return grid.low, parts / (grid.high - grid.low), grid.sharpness


def _launch(kernel: JITFunction, grid: tuple[int, ...], *arguments: object, **options: object) -> None:
    kernel[grid](*arguments, **options)


class Part:
    """Steps of some heads: loss and small tensors, then the first layer's update and next forward in one pass.

    Where the norm of the first layer's gradients takes a pass of its own over the weights, clipping waits for it. On a
    GPU a step is captured as a graph; the small kernels are on a stream of higher priority, so that they start while
    another part's pass still fills the processor.
    """

    def __init__(
        self, network: NetworkSpec, rows: Rows, tuning: Tuning, *, batch: int, padded: int, tensors: dict[str, Tensor],
        moments: dict[str, list[Tensor]], small: Tensor, at: dict[str, int], vectors: list[Tensor],
        diverged_at: Tensor, total: Tensor,
    ) -> None:  # fmt: skip
        """All tensors are the pack's, cut to these heads: `small` [4, heads, numbers], `vectors` rate, decay, clip."""
        self.network, self.rows, self.tuning, self.batch, self.padded = network, rows, tuning, batch, padded
        self.tensors, self.moments, self.small, self.at = tensors, moments, small, at
        self.vectors, self.diverged_at, self.total = vectors, diverged_at, total
        self.heads, device = len(total), total.device
        self.turn = torch.zeros(self.heads, dtype=torch.int32, device=device)
        #: Steps before this epoch, of all epochs and of this one, and rows of its last minibatch.
        self.span = torch.zeros(4, dtype=torch.int32, device=device)
        self.order: Tensor | None = None
        self._start = _launch
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self.stream, self._urgent = torch.cuda.Stream(device), torch.cuda.Stream(device, priority=-1)
        self._buffers()

    def _buffers(self) -> None:
        """What one kernel leaves for the next."""
        first, tuning, padded, device = self.network.layers[0], self.tuning, self.padded, self.total.device
        self.out_pad = max(16, triton.next_power_of_2(first.outputs))
        self.passes = first.scaler or first.normed
        self.gram_inside = not self.passes and self.rows.table is None
        shape = (self.heads, tuning.splits)
        self.output = torch.zeros(*shape, padded, self.out_pad, device=device)
        self.gram = torch.zeros(*shape, padded, padded, device=device) if self.gram_inside else self.output
        self.delta = torch.zeros(self.heads, padded, self.out_pad, device=device)
        self.norm, self.loss = (torch.zeros(self.heads, device=device) for _ in range(2))
        self.more = torch.zeros(shape, device=device)
        self.scalar = torch.zeros(self.heads, 4, device=device)
        self.own = torch.zeros_like(self.tensors["layers.0.scaler"]) if first.scaler else self.output
        self.before = torch.zeros(self.heads, 2, first.inputs, device=device) if first.normed else self.output

    def begin(self, epoch: Epoch, order: Tensor, replicate_of: Tensor) -> None:
        """Start an epoch: `order` int32 [replicates, at least (steps + 1) * batch], `replicate_of` int32 [heads]."""
        if self.order is not order:
            # A captured step knows these by their addresses.
            self.order, self.replicate_of, self._graph = order, replicate_of.clone(), None
        self.replicate_of.copy_(replicate_of)
        self.turn.zero_()
        span = (epoch.number * epoch.steps, epoch.of * epoch.steps, epoch.steps, epoch.last)
        self.span.copy_(torch.tensor(span, dtype=torch.int32))
        self.total.zero_()

    def compile(self) -> list[Any]:
        """Ask for the kernels of all launches; after `begin`. In `triton.AsyncCompileMode` they may not be ready."""
        asked = []
        self._start = lambda kernel, grid, *arguments, **options: asked.append(
            kernel.warmup(*arguments, grid=grid, **options)
        )
        for update in (True, False):
            self._first(update=update)
        self._loss()
        if self.passes:
            self._norm()
            self._clip()
        self._start = _launch
        return asked

    def _first(self, *, update: bool) -> None:
        first, weight, tuning = self.network.layers[0], self.tensors["layers.0.weight"], self.tuning
        scaler = self.tensors.get("layers.0.scaler", weight)
        self._start(
            update_and_forward, (self.heads, tuning.splits),
            weight, *self.moments["layers.0.weight"], scaler,
            *self.moments.get("layers.0.scaler", self.moments["layers.0.weight"]), self.own, self.rows.features,
            self.rows.normed, self._affine(0), self.before, self.order, self.replicate_of, self.delta, self.scalar,
            self.output, self.gram, self.turn, self.order.shape[1], self.small.shape[2], *grid_numbers(first),
            INPUTS=first.inputs, FEATURES=first.features, OUT=first.outputs, OUT_PAD=self.out_pad, BATCH=self.batch,
            ROWS=self.padded, **kinds(first), TILE=tuning.tile, SPLITS=tuning.splits, UPDATE=update,
            GRAM=self.gram_inside, SCALER=first.scaler, PRECISION=tuning.precision, num_warps=tuning.warps,
            num_stages=tuning.stages,
        )  # fmt: skip

    def _affine(self, row: int) -> Tensor:
        """The first layer's norm_scale, norm_shift in row 0 (values) or 3 (gradients) of the small tensors."""
        return self.small[row][:, self.at.get("layers.0.norm_scale", 0) :]

    def _norm(self) -> None:
        first, tuning = self.network.layers[0], self.tuning
        weight = self.tensors["layers.0.weight"]
        self._start(
            gradient_norm, (self.heads, tuning.splits),
            weight, self.tensors.get("layers.0.scaler", weight), self.own, self.rows.features, self.rows.normed,
            self._affine(0), self._affine(3), self.before, self.order, self.replicate_of, self.delta, self.more,
            self.turn, self.order.shape[1], self.small.shape[2], *grid_numbers(first), INPUTS=first.inputs,
            FEATURES=first.features, OUT=first.outputs, OUT_PAD=self.out_pad, BATCH=self.batch, ROWS=self.padded,
            **kinds(first), TILE=tuning.norm_tile, SPLITS=tuning.splits, SCALER=first.scaler,
            PRECISION=tuning.precision, num_warps=tuning.norm_warps, num_stages=tuning.norm_stages,
        )  # fmt: skip

    def _loss(self) -> None:
        first, last, rows = self.network.layers[0], self.network.layers[-1], self.rows
        deep = len(self.network.layers) == 2
        classes = max(2 if self.padded < 16 else 16, triton.next_power_of_2(last.outputs))
        numbers = self.small.shape[2]
        self._start(
            loss_and_gradients, (self.heads,),
            self.output, self.gram if rows.table is None else rows.table, *self.small, self.delta, self.norm, self.loss,
            self.total, rows.targets, self.order, self.replicate_of, self.diverged_at, self.scalar, *self.vectors,
            self.turn, self.span, self.order.shape[1], len(rows.targets), *grid_numbers(last),
            SMALL=numbers, SMALL_PAD=triton.next_power_of_2(numbers), SPLITS=self.tuning.splits, BATCH=self.batch,
            ROWS=self.padded, OUT=first.outputs, OUT_PAD=self.out_pad,
            DELTA_PAD=triton.next_power_of_2(self.padded * self.out_pad), CLASSES=last.outputs, CLASSES_PAD=classes,
            REGRESSION=rows.targets.dtype == torch.float32, DEEP=deep, **kinds(last),
            AT_WEIGHT=self.at.get("layers.1.weight", -1), AT_SCALER=self.at.get("layers.1.scaler", -1),
            AT_SCALE=self.at.get("layers.1.norm_scale", -1), AT_SHIFT=self.at.get("layers.1.norm_shift", -1),
            AT_BIAS0=self.at.get("layers.0.bias", -1), AT_BIAS1=self.at.get("layers.1.bias", -1),
            GRAM=not self.passes, TABLE=rows.table is not None, PRECISION=self.tuning.precision,
            num_warps=self.tuning.middle_warps,
        )  # fmt: skip

    def _clip(self) -> None:
        numbers, splits = self.padded * self.out_pad, self.tuning.splits
        self._start(
            clip_and_update, (self.heads,),
            *self.small, self.delta, self.norm, self.more, self.loss, self.diverged_at, self.scalar, *self.vectors,
            self.turn, self.span, SMALL=self.small.shape[2], SMALL_PAD=triton.next_power_of_2(self.small.shape[2]),
            DELTA=numbers, DELTA_PAD=triton.next_power_of_2(numbers), SPLITS=splits,
            SPLITS_PAD=triton.next_power_of_2(splits), num_warps=4,
        )  # fmt: skip

    def _urgently(self, *work: Callable[[], None]) -> None:
        if self.total.device.type != "cuda":
            for one in work:
                one()
            return
        self._urgent.wait_stream(self.stream)
        with torch.cuda.stream(self._urgent):
            for one in work:
                one()
        self.stream.wait_stream(self._urgent)

    def _middle(self) -> None:
        """Loss, small gradients, clipping and small updates of the current step."""
        if self.passes:
            self._urgently(self._loss)
            self._norm()
            self._urgently(self._clip)
        else:
            self._urgently(self._loss)

    def launches(self, steps: int) -> int:
        """Launches of an epoch of so many steps, in order."""
        return steps + 1

    def launch(self, number: int) -> None:
        """The first minibatch's forward, then steps. The last one's forward is of rows that no step will see."""
        if number == 0:
            self._first(update=False)
        else:
            self._step()

    def _step(self) -> None:
        """One step and the next one's forward."""
        if self._graph is not None:
            self._graph.replay()
            return
        self._middle()
        self._first(update=True)
        if self.total.device.type == "cuda":
            # The first step compiles the kernels; the graph is captured behind it.
            torch.cuda.current_stream().synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self.stream):
                self._middle()
                self._first(update=True)
