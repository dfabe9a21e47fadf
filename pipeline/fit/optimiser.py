"""AdamW for a pack: every head has its own learning rate, weight decay and clipping; tensors are [heads, ...]."""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["PackedAdamW"]


class PackedAdamW:
    """AdamW (Loshchilov and Hutter 2019) as `torch.optim.AdamW` computes it, for all heads of a pack at once.

    Each head's gradients are clipped together to a norm of `clip` (as `torch.nn.utils.clip_grad_norm_`). A head whose
    gradient norm or loss is not finite is frozen from that step on: its tensors keep their last values, and no other
    head notices.
    """

    BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, tensors: Mapping[str, Tensor], lr: Tensor, weight_decay: Tensor, clip: Tensor) -> None:
        """`tensors` are updated in place; `lr`, `weight_decay` and `clip` are [heads]."""
        self.tensors = tensors
        self.lr, self.weight_decay, self.clip = lr, weight_decay, clip
        self.first = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        self.second = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        self.scratch = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
        self.steps = self.since = 0
        self.diverged_at = torch.full_like(lr, -1, dtype=torch.int64)

    def restart(self, steps: int, diverged_at: Tensor) -> None:
        """Go on as after `steps` steps with moments that are zero: weights have been given other functions to weigh."""
        for moments in (self.first, self.second):
            for tensor in moments.values():
                tensor.zero_()
        self.steps = self.since = steps
        self.diverged_at = diverged_at.clone()

    def step(self, gradients: Mapping[str, Tensor], loss: Tensor, share: float) -> None:
        """One step with gradients [heads, ...] (overwritten), losses [heads] and the schedule's share of the rate."""
        squares = [torch.linalg.vector_norm(g.flatten(1), dim=1) ** 2 for g in gradients.values()]
        norm = torch.stack(squares).sum(0).sqrt()
        bad = ~(norm + loss).isfinite()
        self.diverged_at = torch.where(bad & (self.diverged_at < 0), self.steps, self.diverged_at)
        self.steps += 1
        frozen = self.diverged_at >= 0
        clipped = (self.clip / (norm + 1e-6)).clamp(max=1.0)
        rate = self.lr * share
        age = self.steps - self.since
        correction1, correction2 = 1 - self.BETA1**age, 1 - self.BETA2**age
        any_frozen = bool(frozen.any())
        for name, tensor in self.tensors.items():
            gradient, first, second = gradients[name], self.first[name], self.second[name]
            scratch = self.scratch[name]
            axes = (-1, *[1] * (tensor.dim() - 1))
            if any_frozen:
                gradient[frozen] = 0
            gradient.mul_(clipped.nan_to_num(0.0).view(axes))
            first.lerp_(gradient, 1 - self.BETA1)
            second.mul_(self.BETA2).addcmul_(gradient, gradient, value=1 - self.BETA2)
            torch.sqrt(second, out=scratch)
            scratch.div_(correction2**0.5).add_(self.EPSILON)
            torch.div(first, scratch, out=scratch)
            live = rate.masked_fill(frozen, 0.0)
            tensor.mul_((1 - live * self.weight_decay).view(axes))
            tensor.sub_(scratch.mul_((live / correction1).view(axes)))
