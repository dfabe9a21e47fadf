"""Clipping and AdamW for tensors of any shape, in three launches: all of a head's tensors lie side by side.

Weights whose gradients come as factors take two launches more each.
"""

import math
from collections.abc import Collection, Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.fit.gpu import factored
from pipeline.fit.gpu.products import LOG_BETA1, LOG_BETA2, adamw, one_minus_power
from pipeline.fit.step import Gradient

__all__ = ["FlatAdamW"]

#: Numbers that a program works on. A sum's order depends on it, and on nothing of the pack.
BLOCK = 4096
#: Tensors begin at multiples of so many numbers (128 bytes).
ALIGNED = 32


@triton.jit
def _squares(gradient_ptr, partial_ptr, numbers, partials, BLOCK: tl.constexpr):
    """The sum of squares of every block of a head's gradients, to `partial` [heads, partials]."""
    head, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = block * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gradient_ptr + head * numbers + i, mask=i < numbers, other=0.0)
    tl.store(partial_ptr + head * partials + block, tl.sum(g * g, axis=0))


@triton.jit
def _scalars(
    partial_ptr, loss_ptr, rate_ptr, decay_ptr, clip_ptr, diverged_ptr, clock_ptr, scalar_ptr, partials,
    PARTIALS_PAD: tl.constexpr,
):  # fmt: skip
    """Every head's decay, rate, correction and clipping factor [heads, 4] for this step; a rate of -1 where frozen.

    `clock` is the steps before this one, those of all epochs, and the step at which the moments began.
    """
    head = tl.program_id(0)
    p = tl.arange(0, PARTIALS_PAD)
    norm = tl.sum(tl.load(partial_ptr + head * partials + p, mask=p < partials, other=0.0), axis=0)
    # Rounded products of factors may add up to less than nothing; what is not a number stays so.
    norm = tl.sqrt(tl.where(norm < 0, 0.0, norm))
    step = tl.load(clock_ptr)
    diverged = tl.load(diverged_ptr + head)
    sound = (norm + tl.abs(tl.load(loss_ptr + head))) < 3e38
    diverged = tl.where((diverged < 0) & (sound == 0), step, diverged)
    tl.store(diverged_ptr + head, diverged)
    rate = tl.load(rate_ptr + head) * (1.0 - step.to(tl.float32) / tl.load(clock_ptr + 1).to(tl.float32))
    age = (step - tl.load(clock_ptr + 2) + 1).to(tl.float32)
    tl.store(scalar_ptr + head * 4, 1.0 - rate * tl.load(decay_ptr + head))
    tl.store(scalar_ptr + head * 4 + 1, tl.where(diverged < 0, rate / one_minus_power(age, LOG_BETA1), -1.0))
    tl.store(scalar_ptr + head * 4 + 2, 1.0 / tl.sqrt(one_minus_power(age, LOG_BETA2)))
    tl.store(scalar_ptr + head * 4 + 3, tl.minimum(tl.load(clip_ptr + head) / (norm + 1e-6), 1.0))


@triton.jit
def _update(weight_ptr, first_ptr, second_ptr, gradient_ptr, scalar_ptr, numbers, room, BLOCK: tl.constexpr):
    """One AdamW update of a block of a head that is not frozen."""
    head = tl.program_id(0).to(tl.int64)
    rate = tl.load(scalar_ptr + head * 4 + 1)
    if rate >= 0:
        i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside, at = i < numbers, head * room + i
        g = tl.load(gradient_ptr + head * numbers + i, mask=inside, other=0.0) * tl.load(scalar_ptr + head * 4 + 3)
        w = tl.load(weight_ptr + at, mask=inside, other=0.0)
        m = tl.load(first_ptr + at, mask=inside, other=0.0)
        v = tl.load(second_ptr + at, mask=inside, other=0.0)
        w, m, v = adamw(w, m, v, g, tl.load(scalar_ptr + head * 4), rate, tl.load(scalar_ptr + head * 4 + 2))
        tl.store(weight_ptr + at, w, mask=inside)
        tl.store(first_ptr + at, m, mask=inside)
        tl.store(second_ptr + at, v, mask=inside)


class FlatAdamW:
    """What `pipeline.fit.optimiser.PackedAdamW` does, with nothing left on the host, so that a graph can hold it.

    `tensors` and `gradients` are views [heads, ...] of flat arrays; `clock` counts on the device. Weights named in
    `by_factors` have no gradients there: `step` is given their factors.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], lr: Tensor, weight_decay: Tensor, clip: Tensor,
        by_factors: Collection[str] = (), rows: int = 0,
    ) -> None:  # fmt: skip
        """`tensors` [heads, ...] are copied; `lr`, `weight_decay` and `clip` are [heads]; `rows` are the factors'."""
        heads, device = len(lr), lr.device
        self._by_factors = [name for name in tensors if name in by_factors]
        #: Where a tensor begins, and its shape with rows filled up.
        places: dict[str, tuple[int, list[int]]] = {}
        size = numbers = 0
        for name in sorted(tensors, key=self._by_factors.__contains__):
            shape = list(tensors[name].shape[1:])
            if name in self._by_factors:
                shape[-1] = -(-shape[-1] // factored.ALIGNED) * factored.ALIGNED
            places[name] = size, shape
            size += -(-math.prod(shape) // ALIGNED) * ALIGNED
            numbers = size if name not in self._by_factors else numbers

        def views(flat: Tensor, names: Collection[str]) -> dict[str, Tensor]:
            found = {}
            for name in names:
                start, shape = places[name]
                own = flat[:, start : start + math.prod(shape)].view(heads, *shape)
                found[name] = own[..., : tensors[name].shape[-1]]
            return found

        self._flat, self._first, self._second = (torch.zeros(heads, size, device=device) for _ in range(3))
        self._gradient = torch.zeros(heads, numbers, device=device)
        self.tensors, self.first, second = (views(flat, tensors) for flat in (self._flat, self._first, self._second))
        self.gradients = views(self._gradient, [name for name in tensors if name not in self._by_factors])
        self._state = {
            name: {"weight": self.tensors[name], "first": self.first[name], "second": second[name]}
            for name in self._by_factors
        }
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)
        self._vectors = lr, weight_decay, clip.clamp(max=3e38)
        self._blocks = triton.cdiv(numbers, BLOCK)
        tiles = factored.gram_tiles(rows) if self._by_factors else 0
        self._partial = torch.zeros(heads, self._blocks + tiles * len(self._by_factors), device=device)
        self._tiles = self._partial[:, self._blocks :].split(tiles or 1, 1)
        self._scalars = torch.zeros(heads, 4, device=device)
        self.diverged_at = torch.full((heads,), -1, dtype=torch.int64, device=device)
        #: Steps made, steps of all epochs, and the step at which the moments began.
        self.clock = torch.zeros(3, dtype=torch.int64, device=device)
        self._tick = torch.tensor([1, 0, 0], device=device)

    def restart(self, steps: int, diverged_at: Tensor) -> None:
        """Go on as after `steps` steps with moments that are zero."""
        self._first.zero_()
        self._second.zero_()
        self.clock[0], self.clock[2] = steps, steps
        self.diverged_at.copy_(diverged_at)

    def step(self, gradients: Mapping[str, Gradient], loss: Tensor, share: float) -> None:  # noqa: ARG002
        """One step with `gradients` as they are now and losses [heads]; the schedule's share is read off the clock."""
        heads, numbers = self._gradient.shape
        grid, partials = (heads, self._blocks), self._partial.shape[1]
        _squares[grid](self._gradient, self._partial, numbers, partials, BLOCK=BLOCK)
        factors = {name: [one.contiguous() for one in gradients[name]] for name in self._by_factors}
        for one, partial in zip(factors.values(), self._tiles, strict=False):
            factored.squares(*one, partial)
        _scalars[(heads,)](
            self._partial, loss, *self._vectors, self.diverged_at, self.clock, self._scalars, partials,
            PARTIALS_PAD=triton.next_power_of_2(partials),
        )  # fmt: skip
        _update[grid](
            self._flat, self._first, self._second, self._gradient, self._scalars, numbers, self._flat.shape[1],
            BLOCK=BLOCK, num_warps=8,
        )  # fmt: skip
        for name, state in self._state.items():
            factored.update(state, *factors[name], self._scalars)
        self.clock.add_(self._tick)
