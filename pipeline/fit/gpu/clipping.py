"""The end of a step: clipping, AdamW for a head's small tensors, and what the first layers' updates need."""

import triton
import triton.language as tl

from pipeline.fit.gpu.products import LOG_BETA1, LOG_BETA2, adamw, one_minus_power

__all__ = ["clip_and_update", "finish"]

#: Small numbers that a program updates at a time.
BLOCK = tl.constexpr(2048)


@triton.jit
def clip_and_update(
    head, norm, loss, small_ptr, small_first_ptr, small_second_ptr, small_gradient_ptr, delta_ptr, diverged_ptr,
    scalar_ptr, rate_ptr, decay_ptr, clip_ptr, turn_ptr, span_ptr,
    SMALL: tl.constexpr, SMALL_PAD: tl.constexpr, DELTA: tl.constexpr, STACKS: tl.constexpr,
):  # fmt: skip
    """Clip `delta` [STACKS, heads, DELTA] in place, update the small tensors, leave the head's `scalar` row.

    `norm` is squared. `span` is the steps before this epoch, of all epochs, of this epoch, and the rows of its last
    minibatch. A head whose loss or norm is not finite is frozen: its rate is zero, its decay one and its gradient zero
    from here on. Ends the head's turn.
    """
    turn = tl.load(turn_ptr + head)
    t = (tl.load(span_ptr) + turn).to(tl.float32)
    norm = tl.sqrt(norm)
    diverged = tl.load(diverged_ptr + head)
    sound = (norm + tl.abs(loss)) < 3e38
    diverged = tl.where((diverged < 0) & (sound == 0), t.to(tl.int64), diverged)
    live = diverged < 0
    factor = tl.where(live, tl.minimum(tl.load(clip_ptr + head) / (norm + 1e-6), 1.0), 0.0)
    rate = tl.where(live, tl.load(rate_ptr + head) * (1.0 - t / tl.load(span_ptr + 1).to(tl.float32)), 0.0)
    decay = 1.0 - rate * tl.load(decay_ptr + head)
    rate = rate / one_minus_power(t + 1.0, LOG_BETA1)
    correction = 1.0 / tl.sqrt(one_minus_power(t + 1.0, LOG_BETA2))
    # All threads have read what is written from here on.
    tl.debug_barrier()
    tl.store(diverged_ptr + head, diverged)
    tl.store(turn_ptr + head, turn + 1)
    tl.store(scalar_ptr + head * 4, decay)
    tl.store(scalar_ptr + head * 4 + 1, rate)
    tl.store(scalar_ptr + head * 4 + 2, correction)
    tl.store(scalar_ptr + head * 4 + 3, factor)
    i = tl.arange(0, DELTA)
    for stack in tl.static_range(STACKS):
        place = (stack * tl.num_programs(0) + head) * DELTA + i
        d = tl.load(delta_ptr + place)
        tl.store(delta_ptr + place, tl.where(live, d * factor, 0.0))
    EACH: tl.constexpr = SMALL_PAD if SMALL_PAD < BLOCK else BLOCK
    for begin in range(0, SMALL, EACH):
        j = begin + tl.arange(0, EACH)
        mask = j < SMALL
        at = head * SMALL + j
        g = tl.load(small_gradient_ptr + at, mask=mask, other=0.0)
        g = tl.where(live, g * factor, 0.0)
        w = tl.load(small_ptr + at, mask=mask, other=0.0)
        m = tl.load(small_first_ptr + at, mask=mask, other=0.0)
        v = tl.load(small_second_ptr + at, mask=mask, other=0.0)
        w, m, v = adamw(w, m, v, g, decay, rate, correction)
        tl.store(small_ptr + at, w, mask=mask)
        tl.store(small_first_ptr + at, m, mask=mask)
        tl.store(small_second_ptr + at, v, mask=mask)


@triton.jit
def finish(
    small_ptr, small_first_ptr, small_second_ptr, small_gradient_ptr, delta_ptr, squares_ptr, loss_ptr,
    diverged_ptr, scalar_ptr, rate_ptr, decay_ptr, clip_ptr, turn_ptr, span_ptr,
    SMALL: tl.constexpr, SMALL_PAD: tl.constexpr, DELTA: tl.constexpr,
    STACKS: tl.constexpr, SLOTS: tl.constexpr, SLOTS_PAD: tl.constexpr,
):  # fmt: skip
    """The rest of a step whose norm more than one kernel found: `squares` [heads, SLOTS] sum to its square."""
    head = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, SLOTS_PAD)
    norm = tl.sum(tl.load(squares_ptr + head * SLOTS + s, mask=s < SLOTS, other=0.0), axis=0)
    clip_and_update(
        head, norm, tl.load(loss_ptr + head), small_ptr, small_first_ptr, small_second_ptr, small_gradient_ptr,
        delta_ptr, diverged_ptr, scalar_ptr, rate_ptr, decay_ptr, clip_ptr, turn_ptr, span_ptr,
        SMALL, SMALL_PAD, DELTA, STACKS,
    )  # fmt: skip
