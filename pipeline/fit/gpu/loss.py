"""A pack's loss and its gradient by the outputs in one launch; sums over rows and classes depend on nothing else."""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["loss"]


@triton.jit
def _loss(
    outputs_ptr, target_ptr, weight_ptr, loss_ptr, gradient_ptr, rows, classes, REGRESSION: tl.constexpr,
    ROWS_PAD: tl.constexpr, CLASSES_PAD: tl.constexpr,
):  # fmt: skip
    """One head's weighted sum of row losses, and its gradient by the outputs [rows, classes]."""
    head = tl.program_id(0).to(tl.int64)
    r, c = tl.arange(0, ROWS_PAD), tl.arange(0, CLASSES_PAD)
    inside = (r < rows)[:, None] & (c < classes)[None, :]
    at = (head * rows + r[:, None]) * classes + c[None, :]
    y = tl.load(outputs_ptr + at, mask=inside, other=0.0)
    weight = tl.load(weight_ptr + r, mask=r < rows, other=0.0)
    target = tl.load(target_ptr + head * rows + r, mask=r < rows, other=0)
    if REGRESSION:
        error = tl.where(inside, y - target[:, None], 0.0)
        each = tl.sum(error * error, axis=1)
        gradient = 2.0 * error
    else:
        own = c[None, :] == target[:, None]
        shown = tl.where((c < classes)[None, :], y, float("-inf"))
        largest = tl.max(shown, axis=1)
        e = tl.exp(shown - largest[:, None])
        total = tl.sum(e, axis=1)
        each = tl.log(total) + largest - tl.sum(tl.where(own, y, 0.0), axis=1)
        gradient = e / total[:, None] - tl.where(own, 1.0, 0.0)
    tl.store(loss_ptr + head, tl.sum(each * weight, axis=0))
    tl.store(gradient_ptr + at, gradient * weight[:, None], mask=inside)


def loss(outputs: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Loss [heads] of outputs [heads, rows, classes], and its gradient by them; as `pipeline.fit.step.loss`."""
    outputs, targets = outputs.contiguous(), targets.contiguous()
    heads, rows, classes = outputs.shape
    losses, gradient = outputs.new_empty(heads), torch.empty_like(outputs)
    _loss[(heads,)](
        outputs, targets, weights, losses, gradient, rows, classes, REGRESSION=targets.dtype != torch.int64,
        ROWS_PAD=triton.next_power_of_2(rows), CLASSES_PAD=triton.next_power_of_2(classes),
    )  # fmt: skip
    return losses, gradient
