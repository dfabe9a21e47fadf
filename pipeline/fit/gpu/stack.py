"""The launches of one stack of a part's heads, and what a part's stacks share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from pipeline.fit.gpu.bases import KINDS
from pipeline.fit.gpu.first_layer import update_and_forward
from pipeline.fit.gpu.first_norm import gradient_norm
from pipeline.fit.gpu.last_layer import loss_and_gradients
from pipeline.fit.gpu.outputs import stack_outputs
from pipeline.fit.gpu.tuning import Tuning
from pipeline.heads.network import LayerSpec, NetworkSpec

__all__ = ["Heads", "Rows", "Stack", "grid_numbers", "kinds", "launch_kernel", "out_pad", "passes"]


@dataclass(frozen=True)
class Rows:
    """What all parts read: features and layer-normed features [rows, inputs], and targets [rows].

    `tables` [rows, rows] of every stack have the products of the rows' first expansions, `expansion` [rows, features]
    is that of a network's only stack; `None` where they are not kept.
    """

    features: Tensor
    normed: Tensor
    targets: Tensor
    tables: tuple[Tensor | None, ...]
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
    """low, 1 / step and sharpness of a layer's grid; a switch is the same for a sharpness of either sign."""
    grid = layer.grid
    parts = grid.intervals if layer.branches[0].basis == "b_spline" else max(1, grid.centres - 1)
    return grid.low, parts / (grid.high - grid.low), abs(grid.sharpness)


@dataclass
class Heads:
    """The heads of a part, cut out of the pack's tensors.

    `tensors` and `moments` are those of the first layers; `small` [4, heads, numbers] has the other tensors, their
    moments and gradients, each from its number in `at` on; `vectors` are rate, decay and clipping norm [heads].
    """

    network: NetworkSpec
    rows: Rows
    tuning: Tuning
    batch: int
    padded: int
    tensors: dict[str, Tensor]
    moments: dict[str, list[Tensor]]
    small: Tensor
    at: dict[str, int]
    vectors: list[Tensor]
    diverged_at: Tensor
    total: Tensor

    def __post_init__(self) -> None:
        self.count, device = len(self.total), self.total.device
        self.turn = torch.zeros(self.count, dtype=torch.int32, device=device)
        #: Steps before this epoch, of all epochs and of this one, and rows of its last minibatch.
        self.span = torch.zeros(4, dtype=torch.int32, device=device)
        self.scalar = torch.zeros(self.count, 4, device=device)
        self.loss = torch.zeros(self.count, device=device)
        self.order: Tensor | None = None
        self.replicate_of: Tensor | None = None
        self.start: Callable[..., None] = launch_kernel


class Stack:
    """One stack of layers: its first layer's passes over the weights, and the small kernels between them."""

    def __init__(self, heads: Heads, number: int, shared: dict[str, Tensor], slot: int) -> None:
        """`shared` has the `delta`, `logits` and `squares` of all stacks; in `slot` begin those that `norm` finds."""
        network, tuning, count, device = heads.network, heads.tuning, heads.count, heads.total.device
        chain = network.chains[number]
        self.heads, self.number, self.slot = heads, number, slot
        self.first, self.last = network.layers[chain[0]], network.layers[chain[-1]]
        self.deep = len(chain) == 2
        self._first, self._last = f"layers.{chain[0]}.", f"layers.{chain[-1]}."
        self.weight = heads.tensors[self._first + "weight"]
        self.scaler = heads.tensors.get(self._first + "scaler", self.weight)
        self.table = heads.rows.tables[number]
        self.passes = passes(self.first)
        self.gram_inside = not self.passes and self.table is None
        self.out_pad = out_pad(network)
        self.delta, self.logits, self.squares = shared["delta"], shared["logits"], shared["squares"]
        shape = (count, tuning.splits, heads.padded)
        self.output = torch.zeros(*shape, self.out_pad, device=device)
        self.gram = torch.zeros(*shape, heads.padded, device=device) if self.gram_inside else self.output
        self.own = torch.zeros_like(self.scaler) if self.first.scaler else self.output
        self.before = torch.zeros(count, 2, self.first.inputs, device=device) if self.first.normed else self.output

    def update_and_forward(self, *, update: bool) -> None:
        """The first layer's update, and its outputs for the next minibatch."""
        heads, first, tuning = self.heads, self.first, self.heads.tuning
        moments = heads.moments[self._first + "weight"]
        heads.start(
            update_and_forward, (heads.count, tuning.splits),
            self.weight, *moments, self.scaler, *heads.moments.get(self._first + "scaler", moments), self.own,
            heads.rows.features, heads.rows.normed, self._affine(0), self.before, heads.order, heads.replicate_of,
            self.delta[self.number], heads.scalar, self.output, self.gram, heads.turn, heads.order.shape[1],
            heads.small.shape[2], *grid_numbers(first), **self._first_shape(), TILE=tuning.tile, UPDATE=update,
            GRAM=self.gram_inside, num_warps=tuning.warps, num_stages=tuning.stages, maxnreg=tuning.registers,
        )  # fmt: skip

    def _first_shape(self) -> dict[str, int | str]:
        """What the first layer's kernels know at compile time."""
        heads, first = self.heads, self.first
        return {
            "INPUTS": first.inputs, "FEATURES": first.features, "OUT": first.outputs, "OUT_PAD": self.out_pad,
            "BLOCKS": blocks(first.outputs, heads.padded), "STRIDE": self.weight.stride(1), "BATCH": heads.batch,
            "ROWS": heads.padded, **kinds(first), "SPLITS": heads.tuning.splits, "SCALER": first.scaler,
            "PRECISION": heads.tuning.precision,
        }  # fmt: skip

    def _affine(self, row: int) -> Tensor:
        """The first layer's norm_scale, norm_shift in row 0 (values) or 3 (gradients) of the small tensors."""
        return self.heads.small[row][:, self.heads.at.get(self._first + "norm_scale", 0) :]

    def norm(self) -> None:
        """The part of the squared norm that takes a pass over the first layer's weights, where one is needed."""
        if not self.passes:
            return
        heads, first, tuning = self.heads, self.first, self.heads.tuning
        heads.start(
            gradient_norm, (heads.count, tuning.splits),
            self.weight, self.scaler, self.own, heads.rows.features, heads.rows.normed, self._affine(0),
            self._affine(3), self.before, heads.order, heads.replicate_of, self.delta[self.number], self.squares,
            heads.turn, heads.order.shape[1], heads.small.shape[2], *grid_numbers(first), **self._first_shape(),
            TILE=tuning.norm_tile, AT=self.slot, SLOTS=self.squares.shape[1], num_warps=tuning.norm_warps,
            num_stages=tuning.norm_stages,
        )  # fmt: skip

    def _small_shape(self) -> dict[str, int | str]:
        """What the small kernels know at compile time."""
        heads, at = self.heads, self.heads.at
        second = self._last if self.deep else "none."
        return {
            "STACK": self.number, "SMALL": heads.small.shape[2], "SPLITS": heads.tuning.splits, "BATCH": heads.batch,
            "ROWS": heads.padded, "OUT": self.first.outputs, "OUT_PAD": self.out_pad, "CLASSES": self.last.outputs,
            "CLASSES_PAD": self.logits.shape[3], "DEEP": self.deep, **kinds(self.last),
            "AT_WEIGHT": at.get(second + "weight", -1), "AT_SCALER": at.get(second + "scaler", -1),
            "AT_SCALE": at.get(second + "norm_scale", -1), "AT_SHIFT": at.get(second + "norm_shift", -1),
            "AT_BIAS0": at.get(self._first + "bias", -1), "AT_BIAS1": at.get(second + "bias", -1),
            "PRECISION": heads.tuning.precision, "num_warps": heads.tuning.middle_warps,
        }  # fmt: skip

    def outputs(self) -> None:
        """The stack's part of the logits, for all stacks' losses."""
        heads = self.heads
        heads.start(
            stack_outputs, (heads.count,), self.output, heads.small[0], self.logits, heads.turn, heads.span,
            *grid_numbers(self.last), **self._small_shape(),
        )  # fmt: skip

    def loss(self) -> None:
        """Loss, gradients of the small tensors and by the first layer's outputs; of a lone stack also the rest."""
        heads, rows, numbers = self.heads, self.heads.rows, self.heads.small.shape[2]
        heads.start(
            loss_and_gradients, (heads.count,),
            self.output, self.logits, self.gram if self.table is None else self.table, *heads.small, self.delta,
            self.squares, heads.loss, heads.total, rows.targets, heads.order, heads.replicate_of, heads.diverged_at,
            heads.scalar, *heads.vectors, heads.turn, heads.span, heads.order.shape[1], len(rows.targets),
            *grid_numbers(self.last), STACKS=heads.network.stacks, SLOTS=self.squares.shape[1],
            SMALL_PAD=triton.next_power_of_2(numbers),
            REGRESSION=rows.targets.dtype == torch.float32, GRAM=not self.passes, TABLE=self.table is not None,
            **self._small_shape(),
        )  # fmt: skip


def passes(first: LayerSpec) -> bool:
    """Whether the norm of a first layer's gradients takes a pass over its weights."""
    return first.scaler or first.normed


def blocks(outputs: int, rows: int) -> tuple[int, ...]:
    """Powers of two that a first layer's outputs are taken in: just above 64, a second block pads less.

    On the matrix units, a block of 16 would leave most warps without work of their own.
    """
    pad = max(16, triton.next_power_of_2(outputs))
    rest = max(16 if rows < 16 else 32, triton.next_power_of_2(max(1, outputs - pad // 2)))
    return (pad // 2, rest) if pad > 64 and pad // 2 + rest < pad else (pad,)


def out_pad(network: NetworkSpec) -> int:
    """The first layers' outputs as the kernels see them; all stacks have as many."""
    return max(16, triton.next_power_of_2(network.layers[0].outputs))


def launch_kernel(kernel: triton.JITFunction, grid: tuple[int, ...], *arguments: object, **options: object) -> None:
    """Start a kernel."""
    kernel[grid](*arguments, **options)
