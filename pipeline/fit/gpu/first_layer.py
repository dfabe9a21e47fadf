"""The first layer's kernels, where nearly all parameters are: update a tile of weights, and use it for the next step.

A gradient is never written: its tile is the product of the minibatch's expansion and the output's gradient, both small,
and goes straight into AdamW. The updated tile then takes part in the next minibatch's forward while it is still on the
chip, so a step moves 24 bytes a parameter: weight and two moments, read and written. Expansions are evaluated from the
features as they are needed: reading them ready-made would add a third to the traffic at batch 64.
"""

import triton
import triton.language as tl

from pipeline.fit.gpu.products import adamw, delta_rows, forward_tile, gradient_tile, inputs_of

__all__ = ["update_and_forward"]


@triton.jit(do_not_specialize=["order_stride", "affine_stride"])
def update_and_forward(
    weight_ptr, first_ptr, second_ptr, scaler_ptr, scaler_first_ptr, scaler_second_ptr, own_ptr,
    x_ptr, normed_ptr, affine_ptr, before_ptr, order_ptr, replicate_ptr, delta_ptr, scalar_ptr, output_ptr, gram_ptr,
    turn_ptr, order_stride, affine_stride, low, inverse, sharpness,
    INPUTS: tl.constexpr, FEATURES: tl.constexpr, OUT: tl.constexpr, OUT_PAD: tl.constexpr, STRIDE: tl.constexpr,
    BATCH: tl.constexpr, ROWS: tl.constexpr, KIND0: tl.constexpr, WIDTH0: tl.constexpr, KIND1: tl.constexpr,
    ORDER: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, NORM0: tl.constexpr, NORM1: tl.constexpr,
    UPDATE: tl.constexpr, GRAM: tl.constexpr, SCALER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (head, split): AdamW on a share of the head's weights, then their part of the next step's outputs.

    `turn` [heads] is the next step t; `delta` [heads, ROWS, OUT_PAD] is the clipped gradient by the outputs of step
    t - 1; `order` holds row numbers [replicates, steps * BATCH]. Writes `output` [heads, SPLITS, ROWS, OUT_PAD] and,
    with GRAM, `gram` [heads, SPLITS, ROWS, ROWS] for step t. ROWS is BATCH or, for matrix units, at least 16. A row of
    weights has OUT numbers, and zeros up to STRIDE. A tile is TILE inputs with all their bases; KIND1 of -1 means that
    there is no second branch. `scalar` [heads, 4] is decay, rate, bias correction and clipping factor. With SCALER,
    `own` [heads, INPUTS, OUT] is the scaler's gradient, not clipped. With NORM0 or NORM1 a branch reads `normed` rows
    times the trained scale plus shift: `affine` holds both [heads, 2, INPUTS] (with a stride) as they are now, `before`
    as they were at step t - 1.
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
    o = tl.arange(0, OUT_PAD)
    b = tl.arange(0, ROWS)
    decay = tl.load(scalar_ptr + head * 4)
    rate = tl.load(scalar_ptr + head * 4 + 1)
    correction = tl.load(scalar_ptr + head * 4 + 2)
    if SCALER:
        factor = tl.load(scalar_ptr + head * 4 + 3)
    last, following = 0, 0
    if FEW:
        if UPDATE:
            delta = delta_rows(delta_ptr, o, BATCH, OUT_PAD)
        sums = ()
        gram = ()
        for _ in tl.static_range(BATCH):
            sums = sums + (tl.zeros((TILE, OUT_PAD), tl.float32),)
        if GRAM:
            for _ in tl.static_range(BATCH * BATCH):
                gram = gram + (tl.zeros((TILE,), tl.float32),)
    else:
        if UPDATE:
            delta = tl.load(delta_ptr + b[:, None] * OUT_PAD + o[None, :])
            last = tl.load(last_ptr + b, mask=b < BATCH, other=0).to(tl.int64)[:, None] * INPUTS
        following = tl.load(next_ptr + b, mask=b < BATCH, other=0).to(tl.int64)[:, None] * INPUTS
        sums = tl.zeros((ROWS, OUT_PAD), tl.float32)
        gram = tl.zeros((ROWS, ROWS) if GRAM else (1, 1), tl.float32)
    for turn in range(each):
        i = (share * each + turn) * TILE + tl.arange(0, TILE)
        inside = i < INPUTS
        mask = inside[:, None] & (o < STRIDE)[None, :]
        source_ptr = normed_ptr if NORM0 else x_ptr
        if UPDATE:
            x_last = inputs_of(source_ptr, before_ptr, last_ptr, last, i, inside, INPUTS, BATCH, NORM0, FEW)
        x_next = inputs_of(source_ptr, affine_ptr, next_ptr, following, i, inside, INPUTS, BATCH, NORM0, FEW)
        if SCALER:
            within = inside[:, None] & (o < OUT)[None, :]
            s_at = head * INPUTS * OUT + i[:, None] * OUT + o[None, :]
            s = tl.load(scaler_ptr + s_at, mask=within, other=0.0)
            s_next = s
            if UPDATE:
                own = tl.load(own_ptr + s_at, mask=within, other=0.0)
                # A frozen head's own gradient may be infinite.
                own = tl.where(factor > 0, own * factor, 0.0)
                m = tl.load(scaler_first_ptr + s_at, mask=within, other=0.0)
                v = tl.load(scaler_second_ptr + s_at, mask=within, other=0.0)
                s_next, m, v = adamw(s, m, v, own, decay, rate, correction)
                tl.store(scaler_ptr + s_at, s_next, mask=within)
                tl.store(scaler_first_ptr + s_at, m, mask=within)
                tl.store(scaler_second_ptr + s_at, v, mask=within)
        for k in range(WIDTH0):
            at = head * FEATURES * STRIDE + (i * WIDTH0 + k)[:, None] * STRIDE + o[None, :]
            w = tl.load(weight_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
            if UPDATE:
                m = tl.load(first_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
                v = tl.load(second_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
                g = gradient_tile(x_last, delta, k, low, inverse, sharpness, KIND0, ORDER, BATCH, FEW, PRECISION)
                if SCALER:
                    g *= s
                w, m, v = adamw(w, m, v, g, decay, rate, correction)
                tl.store(weight_ptr + at, w, mask=mask, eviction_policy="evict_first")
                tl.store(first_ptr + at, m, mask=mask, eviction_policy="evict_first")
                tl.store(second_ptr + at, v, mask=mask, eviction_policy="evict_first")
            if SCALER:
                w *= s_next
            sums, gram = forward_tile(
                sums, gram, w, x_next, inside, k, low, inverse, sharpness, KIND0, ORDER, BATCH, FEW, GRAM, PRECISION
            )
        if KIND1 >= 0:
            if NORM0 != NORM1:
                source_ptr = normed_ptr if NORM1 else x_ptr
                if UPDATE:
                    x_last = inputs_of(source_ptr, before_ptr, last_ptr, last, i, inside, INPUTS, BATCH, NORM1, FEW)
                x_next = inputs_of(source_ptr, affine_ptr, next_ptr, following, i, inside, INPUTS, BATCH, NORM1, FEW)
            at = head * FEATURES * STRIDE + (INPUTS * WIDTH0 + i)[:, None] * STRIDE + o[None, :]
            w = tl.load(weight_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
            if UPDATE:
                m = tl.load(first_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
                v = tl.load(second_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
                g = gradient_tile(x_last, delta, 0, low, inverse, sharpness, KIND1, ORDER, BATCH, FEW, PRECISION)
                w, m, v = adamw(w, m, v, g, decay, rate, correction)
                tl.store(weight_ptr + at, w, mask=mask, eviction_policy="evict_first")
                tl.store(first_ptr + at, m, mask=mask, eviction_policy="evict_first")
                tl.store(second_ptr + at, v, mask=mask, eviction_policy="evict_first")
            sums, gram = forward_tile(
                sums, gram, w, x_next, inside, 0, low, inverse, sharpness, KIND1, ORDER, BATCH, FEW, GRAM, PRECISION
            )
    place = (head * SPLITS + share) * ROWS
    if FEW:
        for r in tl.static_range(BATCH):
            tl.store(output_ptr + (place + r) * OUT_PAD + o, tl.sum(sums[r], axis=0))
            if GRAM:
                for c in tl.static_range(BATCH):
                    tl.store(gram_ptr + (place + r) * ROWS + c, tl.sum(gram[r * BATCH + c], axis=0))
    else:
        tl.store(output_ptr + (place + b[:, None]) * OUT_PAD + o[None, :], sums)
        if GRAM:
            c = tl.arange(0, ROWS)
            tl.store(gram_ptr + (place + b[:, None]) * ROWS + c[None, :], gram)
