"""The first layer's kernels, where nearly all parameters are: update a tile of weights, and use it for the next step.

A gradient is never written: its tile is the product of the minibatch's expansion and the output's gradient, both small,
and goes straight into AdamW. The updated tile then takes part in the next minibatch's forward while it is still on the
chip, so a step moves 24 bytes a parameter: weight and two moments, read and written. Expansions are evaluated from the
features as they are needed: reading them ready-made would add a third to the traffic at batch 64.
"""

import triton
import triton.language as tl

from pipeline.fit.gpu.products import (
    adamw,
    deltas_of,
    dot,
    forward_terms,
    gradient_terms,
    gradient_tile,
    gram_tile,
    inputs_of,
    outputs_of,
    zeros_of,
)

__all__ = ["update_and_forward"]


@triton.jit
def _updated(
    weight_ptr, first_ptr, second_ptr, row, inside, o, terms, delta, s, s_next, decay, rate, correction,
    STRIDE: tl.constexpr, UPDATE: tl.constexpr, SCALER: tl.constexpr, FEW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A basis's weights in these rows, by blocks of the outputs `o`, after AdamW on them.

    `terms` and `delta` make their gradients; with SCALER these are times `s`, and what is returned is times `s_next`.
    """
    found = ()
    for c in tl.static_range(len(o)):
        at = row[:, None] * STRIDE + o[c][None, :]
        mask = inside[:, None] & (o[c] < STRIDE)[None, :]
        w = tl.load(weight_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
        if UPDATE:
            m = tl.load(first_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
            v = tl.load(second_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
            g = gradient_tile(terms, delta[c], FEW, PRECISION)
            if SCALER:
                g *= s[c]
            w, m, v = adamw(w, m, v, g, decay, rate, correction)
            tl.store(weight_ptr + at, w, mask=mask, eviction_policy="evict_first")
            tl.store(first_ptr + at, m, mask=mask, eviction_policy="evict_first")
            tl.store(second_ptr + at, v, mask=mask, eviction_policy="evict_first")
        if SCALER:
            w *= s_next[c]
        found = found + (w,)
    return found


@triton.jit
def _forward(sums, phi, weights, FEW: tl.constexpr, PRECISION: tl.constexpr):
    """Add a basis's part of every block of the outputs."""
    found = ()
    for c in tl.static_range(len(weights)):
        if FEW:
            for r in tl.static_range(len(phi)):
                found = found + (sums[c * len(phi) + r] + phi[r][:, None] * weights[c],)
        else:
            found = found + (sums[c] + dot(phi, weights[c], PRECISION),)
    return found


@triton.jit
def _scalers(
    scaler_ptr, first_ptr, second_ptr, own_ptr, i, inside, o, decay, rate, correction, factor, OUT: tl.constexpr,
    UPDATE: tl.constexpr,
):  # fmt: skip
    """The scalers of the inputs i by blocks of outputs, before and after AdamW on them; `own` is their gradient."""
    before, after = (), ()
    for c in tl.static_range(len(o)):
        within = inside[:, None] & (o[c] < OUT)[None, :]
        at = i[:, None] * OUT + o[c][None, :]
        s = tl.load(scaler_ptr + at, mask=within, other=0.0)
        before = before + (s,)
        if UPDATE:
            own = tl.load(own_ptr + at, mask=within, other=0.0)
            # A frozen head's own gradient may be infinite.
            own = tl.where(factor > 0, own * factor, 0.0)
            m = tl.load(first_ptr + at, mask=within, other=0.0)
            v = tl.load(second_ptr + at, mask=within, other=0.0)
            s, m, v = adamw(s, m, v, own, decay, rate, correction)
            tl.store(scaler_ptr + at, s, mask=within)
            tl.store(first_ptr + at, m, mask=within)
            tl.store(second_ptr + at, v, mask=within)
        after = after + (s,)
    return before, after


@triton.jit(do_not_specialize=["order_stride", "affine_stride"])
def update_and_forward(
    weight_ptr, first_ptr, second_ptr, scaler_ptr, scaler_first_ptr, scaler_second_ptr, own_ptr,
    x_ptr, normed_ptr, affine_ptr, before_ptr, order_ptr, replicate_ptr, delta_ptr, scalar_ptr, output_ptr, gram_ptr,
    turn_ptr, order_stride, affine_stride, low, inverse, sharpness,
    INPUTS: tl.constexpr, FEATURES: tl.constexpr, OUT: tl.constexpr, OUT_PAD: tl.constexpr, BLOCKS: tl.constexpr,
    STRIDE: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr, KIND0: tl.constexpr, WIDTH0: tl.constexpr,
    KIND1: tl.constexpr, ORDER: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, NORM0: tl.constexpr,
    NORM1: tl.constexpr, UPDATE: tl.constexpr, GRAM: tl.constexpr, SCALER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (head, split): AdamW on a share of the head's weights, then their part of the next step's outputs.

    `turn` [heads] is the next step t; `delta` [heads, ROWS, OUT_PAD] is the clipped gradient by the outputs of step
    t - 1; `order` holds row numbers [replicates, steps * BATCH]. Writes `output` [heads, SPLITS, ROWS, OUT_PAD] and,
    with GRAM, `gram` [heads, SPLITS, ROWS, ROWS] for step t. ROWS is BATCH or, for matrix units, at least 16. A row of
    weights has OUT numbers, and zeros up to STRIDE; BLOCKS are the widths they are taken in. A tile is TILE inputs with
    all their bases; KIND1 of -1 means no second branch. `scalar` [heads, 4] is decay, rate, bias correction
    and clipping factor. With SCALER, `own` [heads, INPUTS, OUT] is the scaler's gradient, not clipped. With NORM0 or
    NORM1 a branch reads `normed` rows times the trained scale plus shift: `affine` holds both [heads, 2, INPUTS] (with
    a stride) as they are now, `before` as they were at step t - 1.
    """
    head = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    turn = tl.load(turn_ptr + head)
    next_ptr = order_ptr + tl.load(replicate_ptr + head).to(tl.int64) * order_stride + turn * BATCH
    last_ptr = next_ptr - BATCH
    delta_ptr += head * ROWS * OUT_PAD
    affine_ptr += head * affine_stride
    before_ptr += head * 2 * INPUTS
    FEW: tl.constexpr = ROWS < 16
    tiles: tl.constexpr = (INPUTS + TILE - 1) // TILE
    each: tl.constexpr = (tiles + SPLITS - 1) // SPLITS
    o = outputs_of(BLOCKS)
    b = tl.arange(0, ROWS)
    decay = tl.load(scalar_ptr + head * 4)
    rate = tl.load(scalar_ptr + head * 4 + 1)
    correction = tl.load(scalar_ptr + head * 4 + 2)
    factor = tl.load(scalar_ptr + head * 4 + 3)
    last, following, delta = 0, 0, ()
    if UPDATE:
        delta = deltas_of(delta_ptr, b, o, OUT_PAD, BATCH, FEW, PRECISION)
    sums = zeros_of(TILE if FEW else ROWS, o, BATCH if FEW else 1)
    if FEW:
        gram = ()
        if GRAM:
            for _ in tl.static_range(BATCH * BATCH):
                gram = gram + (tl.zeros((TILE,), tl.float32),)
    else:
        # Filled up with a row that is there: another one's numbers could set the scale of what is halved.
        filled = tl.minimum(b, BATCH - 1)
        if UPDATE:
            last = tl.load(last_ptr + filled).to(tl.int64)[:, None] * INPUTS
        following = tl.load(next_ptr + filled).to(tl.int64)[:, None] * INPUTS
        gram = tl.zeros((ROWS, ROWS) if GRAM else (1, 1), tl.float32)
    for turn in range(each):
        i = (share * each + turn) * TILE + tl.arange(0, TILE)
        inside = i < INPUTS
        source_ptr = normed_ptr if NORM0 else x_ptr
        if UPDATE:
            x_last = inputs_of(
                source_ptr, before_ptr, last_ptr, last, i, inside, low, inverse, INPUTS, BATCH, NORM0, KIND0, ORDER, FEW
            )
        x_next = inputs_of(
            source_ptr, affine_ptr, next_ptr, following, i, inside, low, inverse, INPUTS, BATCH, NORM0, KIND0, ORDER,
            FEW,
        )  # fmt: skip
        s, s_next = (), ()
        if SCALER:
            start = head * INPUTS * OUT
            s, s_next = _scalers(
                scaler_ptr + start, scaler_first_ptr + start, scaler_second_ptr + start, own_ptr + start, i, inside, o,
                decay, rate, correction, factor, OUT, UPDATE,
            )  # fmt: skip
        for k in range(WIDTH0):
            terms = ()
            if UPDATE:
                terms = gradient_terms(x_last, k, inverse, sharpness, KIND0, ORDER, BATCH, FEW, PRECISION)
            w = _updated(
                weight_ptr, first_ptr, second_ptr, head * FEATURES + i * WIDTH0 + k, inside, o, terms, delta, s, s_next,
                decay, rate, correction, STRIDE, UPDATE, SCALER, FEW, PRECISION,
            )  # fmt: skip
            phi = forward_terms(x_next, inside, k, inverse, sharpness, KIND0, ORDER, BATCH, FEW)
            sums = _forward(sums, phi, w, FEW, PRECISION)
            if GRAM:
                gram = gram_tile(gram, phi, FEW, PRECISION)
        if KIND1 >= 0:
            source_ptr, terms = normed_ptr if NORM1 else x_ptr, ()
            if UPDATE:
                x_last = inputs_of(
                    source_ptr, before_ptr, last_ptr, last, i, inside, low, inverse, INPUTS, BATCH, NORM1, KIND1,
                    ORDER, FEW,
                )  # fmt: skip
                terms = gradient_terms(x_last, 0, inverse, sharpness, KIND1, ORDER, BATCH, FEW, PRECISION)
            w = _updated(
                weight_ptr, first_ptr, second_ptr, head * FEATURES + INPUTS * WIDTH0 + i, inside, o, terms, delta, (),
                (), decay, rate, correction, STRIDE, UPDATE, False, FEW, PRECISION,
            )  # fmt: skip
            x_next = inputs_of(
                source_ptr, affine_ptr, next_ptr, following, i, inside, low, inverse, INPUTS, BATCH, NORM1, KIND1,
                ORDER, FEW,
            )  # fmt: skip
            phi = forward_terms(x_next, inside, 0, inverse, sharpness, KIND1, ORDER, BATCH, FEW)
            sums = _forward(sums, phi, w, FEW, PRECISION)
            if GRAM:
                gram = gram_tile(gram, phi, FEW, PRECISION)
    output_ptr += (head * SPLITS + share) * ROWS * OUT_PAD
    gram_ptr += (head * SPLITS + share) * ROWS * ROWS
    for c in tl.static_range(len(o)):
        if FEW:
            for r in tl.static_range(BATCH):
                tl.store(output_ptr + r * OUT_PAD + o[c], tl.sum(sums[c * BATCH + r], axis=0))
        else:
            tl.store(output_ptr + b[:, None] * OUT_PAD + o[c][None, :], sums[c])
    if GRAM:
        if FEW:
            for r in tl.static_range(BATCH):
                for c in tl.static_range(BATCH):
                    tl.store(gram_ptr + r * ROWS + c, tl.sum(gram[r * BATCH + c], axis=0))
        else:
            tl.store(gram_ptr + b[:, None] * ROWS + tl.arange(0, ROWS)[None, :], gram)
