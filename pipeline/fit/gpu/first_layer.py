"""The first layer's kernels, where nearly all parameters are: update a tile of weights, and use it for the next step.

A gradient is never written: its tile is the product of the minibatch's expansion and the output's gradient, both small,
and goes straight into AdamW. The updated tile then takes part in the next minibatch's forward while it is still on the
chip, so a step moves 24 bytes a parameter: weight and two moments, read and written. Expansions are evaluated from the
features as they are needed: reading them ready-made would add a third to the traffic at batch 64.
"""

import triton
import triton.language as tl

from pipeline.fit.gpu.bases import value

__all__ = ["clip_norm", "update_and_forward"]


@triton.jit
def _adamw(w, m, v, g, decay, rate, correction):
    m = m * 0.9 + g * 0.1
    v = v * 0.999 + g * g * 0.001
    return w * decay - rate * m / (tl.sqrt(v) * correction + 1e-8), m, v


@triton.jit
def _gradient(
    x, x_ptr, rows_ptr, i, inside, k, delta, delta_ptr, o, low, inverse, sharpness, KIND: tl.constexpr,
    ORDER: tl.constexpr, INPUTS: tl.constexpr, BATCH: tl.constexpr, OUT_PAD: tl.constexpr, FEW: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Basis k's gradient tile [i, o]: expansion of the minibatch transposed, times delta [rows, o]."""
    if FEW:
        g = tl.zeros((i.shape[0], OUT_PAD), tl.float32)
        for r in tl.static_range(BATCH):
            row = tl.load(rows_ptr + r).to(tl.int64)
            one = tl.load(x_ptr + row * INPUTS + i, mask=inside, other=0.0)
            d = tl.load(delta_ptr + r * OUT_PAD + o)
            g += value(one, k, low, inverse, sharpness, KIND, ORDER)[:, None] * d[None, :]
    else:
        phi = value(x, k, low, inverse, sharpness, KIND, ORDER)
        g = tl.dot(tl.trans(phi), delta, input_precision=PRECISION)
    return g


@triton.jit
def _forward(
    sums, gram, w, x, inside, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr, FEW: tl.constexpr,
    GRAM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add basis k's part of the outputs and of the Gram matrix of the expansion; x is [rows, i], w [i, o]."""
    phi = tl.where(inside[None, :], value(x, k, low, inverse, sharpness, KIND, ORDER), 0.0)
    if FEW:
        sums += phi[:, :, None] * w[None, :, :]
        if GRAM:
            gram += phi[:, None, :] * phi[None, :, :]
    else:
        sums = tl.dot(phi, w, sums, input_precision=PRECISION)
        if GRAM:
            gram = tl.dot(phi, tl.trans(phi), gram, input_precision=PRECISION)
    return sums, gram


@triton.jit
def update_and_forward(
    weight_ptr, first_ptr, second_ptr, scaler_ptr, scaler_first_ptr, scaler_second_ptr,
    x_ptr, order_ptr, replicate_ptr, delta_ptr, scalar_ptr, output_ptr, gram_ptr, step_ptr, order_stride,
    low, inverse, sharpness,
    INPUTS: tl.constexpr, FEATURES: tl.constexpr, OUT: tl.constexpr, OUT_PAD: tl.constexpr,
    BATCH: tl.constexpr, ROWS: tl.constexpr, KIND0: tl.constexpr, WIDTH0: tl.constexpr, KIND1: tl.constexpr,
    ORDER: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
    UPDATE: tl.constexpr, FORWARD: tl.constexpr, GRAM: tl.constexpr, SCALER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (head, split): AdamW on a share of the head's weights, then their part of the next step's outputs.

    `delta` [heads, ROWS, OUT_PAD] is the clipped gradient by the outputs of step t (read from `step`), `order` the row
    numbers [replicates, steps * BATCH]. Writes `output` [heads, SPLITS, ROWS, OUT_PAD] and, with GRAM, `gram` [heads,
    SPLITS, ROWS, ROWS] for step t + 1 (step t without UPDATE). ROWS is BATCH or, for matrix units, at least 16. A tile
    is TILE inputs with all their bases; KIND1 of -1 means that there is no second branch.
    """
    head = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    step = tl.load(step_ptr)
    rows_ptr = order_ptr + tl.load(replicate_ptr + head).to(tl.int64) * order_stride + step * BATCH
    next_ptr = rows_ptr + BATCH if UPDATE else rows_ptr
    delta_ptr += head * ROWS * OUT_PAD
    FEW: tl.constexpr = ROWS < 16
    tiles: tl.constexpr = (INPUTS + TILE - 1) // TILE
    each: tl.constexpr = (tiles + SPLITS - 1) // SPLITS
    o = tl.arange(0, OUT_PAD)
    b = tl.arange(0, ROWS)
    decay = tl.load(scalar_ptr + head * 4)
    rate = tl.load(scalar_ptr + head * 4 + 1)
    correction = tl.load(scalar_ptr + head * 4 + 2)
    delta = tl.load(delta_ptr + b[:, None] * OUT_PAD + o[None, :])
    before = tl.load(rows_ptr + b, mask=b < BATCH, other=0).to(tl.int64)
    # Behind an epoch's last step there are no next rows to read.
    after = tl.load(next_ptr + b, mask=(b < BATCH) & FORWARD, other=0).to(tl.int64)
    if FEW:
        sums = tl.zeros((ROWS, TILE, OUT_PAD), tl.float32)
        gram = tl.zeros((ROWS, ROWS, TILE), tl.float32)
    else:
        sums = tl.zeros((ROWS, OUT_PAD), tl.float32)
        gram = tl.zeros((ROWS, ROWS), tl.float32)
    for turn in range(each):
        i = (share * each + turn) * TILE + tl.arange(0, TILE)
        inside = i < INPUTS
        mask = inside[:, None] & (o < OUT)[None, :]
        x_before = tl.load(x_ptr + before[:, None] * INPUTS + i[None, :], mask=inside[None, :], other=0.0)
        x_after = tl.load(x_ptr + after[:, None] * INPUTS + i[None, :], mask=inside[None, :], other=0.0)
        if SCALER:
            s_at = head * INPUTS * OUT + i[:, None] * OUT + o[None, :]
            s = tl.load(scaler_ptr + s_at, mask=mask, other=0.0)
            own = tl.zeros((TILE, OUT_PAD), tl.float32)
            part = tl.zeros((ROWS, TILE, OUT_PAD) if FEW else (ROWS, OUT_PAD), tl.float32)
        for k in range(WIDTH0):
            at = head * FEATURES * OUT + (i * WIDTH0 + k)[:, None] * OUT + o[None, :]
            w = tl.load(weight_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
            if UPDATE:
                m = tl.load(first_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
                v = tl.load(second_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
                g = _gradient(
                    x_before, x_ptr, rows_ptr, i, inside, k, delta, delta_ptr, o, low, inverse, sharpness, KIND0, ORDER,
                    INPUTS, BATCH, OUT_PAD, FEW, PRECISION,
                )  # fmt: skip
                if SCALER:
                    own += w * g
                    g *= s
                w, m, v = _adamw(w, m, v, g, decay, rate, correction)
                tl.store(weight_ptr + at, w, mask=mask, eviction_policy="evict_first")
                tl.store(first_ptr + at, m, mask=mask, eviction_policy="evict_first")
                tl.store(second_ptr + at, v, mask=mask, eviction_policy="evict_first")
            if FORWARD:
                if not SCALER:
                    sums, gram = _forward(
                        sums, gram, w, x_after, inside, k, low, inverse, sharpness, KIND0, ORDER, FEW, GRAM, PRECISION
                    )
                elif FEW:
                    part, gram = _forward(
                        part, gram, w, x_after, inside, k, low, inverse, sharpness, KIND0, ORDER, FEW, GRAM, PRECISION
                    )
        if KIND1 >= 0:
            at = head * FEATURES * OUT + (INPUTS * WIDTH0 + i)[:, None] * OUT + o[None, :]
            w = tl.load(weight_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
            if UPDATE:
                m = tl.load(first_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
                v = tl.load(second_ptr + at, mask=mask, other=0.0, eviction_policy="evict_first")
                g = _gradient(
                    x_before, x_ptr, rows_ptr, i, inside, 0, delta, delta_ptr, o, low, inverse, sharpness, KIND1, ORDER,
                    INPUTS, BATCH, OUT_PAD, FEW, PRECISION,
                )  # fmt: skip
                w, m, v = _adamw(w, m, v, g, decay, rate, correction)
                tl.store(weight_ptr + at, w, mask=mask, eviction_policy="evict_first")
                tl.store(first_ptr + at, m, mask=mask, eviction_policy="evict_first")
                tl.store(second_ptr + at, v, mask=mask, eviction_policy="evict_first")
            if FORWARD:
                sums, gram = _forward(
                    sums, gram, w, x_after, inside, 0, low, inverse, sharpness, KIND1, ORDER, FEW, GRAM, PRECISION
                )
        if SCALER:
            if UPDATE:
                m = tl.load(scaler_first_ptr + s_at, mask=mask, other=0.0)
                v = tl.load(scaler_second_ptr + s_at, mask=mask, other=0.0)
                s, m, v = _adamw(s, m, v, own, decay, rate, correction)
                tl.store(scaler_ptr + s_at, s, mask=mask)
                tl.store(scaler_first_ptr + s_at, m, mask=mask)
                tl.store(scaler_second_ptr + s_at, v, mask=mask)
            if FORWARD:
                if FEW:
                    sums += part * s[None, :, :]
                else:
                    # A product sums over inputs, so the new scaler has to go in before it: the weights come back from
                    # the cache that they were just written to.
                    tl.debug_barrier()
                    for k in range(WIDTH0):
                        at = head * FEATURES * OUT + (i * WIDTH0 + k)[:, None] * OUT + o[None, :]
                        w = tl.load(weight_ptr + at, mask=mask, other=0.0) * s
                        sums, gram = _forward(
                            sums, gram, w, x_after, inside, k, low, inverse, sharpness, KIND0, ORDER, FEW, GRAM,
                            PRECISION,
                        )  # fmt: skip
    if FORWARD:
        place = (head * SPLITS + share) * ROWS
        if FEW:
            outputs = tl.sum(sums, axis=1)
            inner = tl.sum(gram, axis=2)
        else:
            outputs = sums
            inner = gram
        tl.store(output_ptr + (place + b[:, None]) * OUT_PAD + o[None, :], outputs)
        if GRAM:
            c = tl.arange(0, ROWS)
            tl.store(gram_ptr + (place + b[:, None]) * ROWS + c[None, :], inner)


@triton.jit
def clip_norm(
    weight_ptr, scaler_ptr, x_ptr, order_ptr, replicate_ptr, delta_ptr, norm_ptr, step_ptr, order_stride, low, inverse,
    sharpness, INPUTS: tl.constexpr, FEATURES: tl.constexpr, OUT: tl.constexpr, OUT_PAD: tl.constexpr,
    BATCH: tl.constexpr, ROWS: tl.constexpr, KIND0: tl.constexpr, WIDTH0: tl.constexpr, KIND1: tl.constexpr,
    ORDER: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Squared norm of the first layer's gradients where a scaler stands beside the weights: norm [heads, SPLITS].

    Gram matrices do not give it: the gradients are s * G and the sum over the bases of W * G, so W and s are read once
    more. `delta` is not clipped yet.
    """
    head = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    step = tl.load(step_ptr)
    rows_ptr = order_ptr + tl.load(replicate_ptr + head).to(tl.int64) * order_stride + step * BATCH
    delta_ptr += head * ROWS * OUT_PAD
    FEW: tl.constexpr = ROWS < 16
    tiles: tl.constexpr = (INPUTS + TILE - 1) // TILE
    each: tl.constexpr = (tiles + SPLITS - 1) // SPLITS
    o = tl.arange(0, OUT_PAD)
    b = tl.arange(0, ROWS)
    rows = tl.load(rows_ptr + b, mask=b < BATCH, other=0).to(tl.int64)
    delta = tl.load(delta_ptr + b[:, None] * OUT_PAD + o[None, :])
    total = tl.zeros((TILE, OUT_PAD), tl.float32)
    for turn in range(each):
        i = (share * each + turn) * TILE + tl.arange(0, TILE)
        inside = i < INPUTS
        mask = inside[:, None] & (o < OUT)[None, :]
        x = tl.load(x_ptr + rows[:, None] * INPUTS + i[None, :], mask=inside[None, :], other=0.0)
        s = tl.load(scaler_ptr + head * INPUTS * OUT + i[:, None] * OUT + o[None, :], mask=mask, other=0.0)
        own = tl.zeros((TILE, OUT_PAD), tl.float32)
        squares = tl.zeros((TILE, OUT_PAD), tl.float32)
        for k in range(WIDTH0):
            g = _gradient(
                x, x_ptr, rows_ptr, i, inside, k, delta, delta_ptr, o, low, inverse, sharpness, KIND0, ORDER, INPUTS,
                BATCH, OUT_PAD, FEW, PRECISION,
            )  # fmt: skip
            at = head * FEATURES * OUT + (i * WIDTH0 + k)[:, None] * OUT + o[None, :]
            own += tl.load(weight_ptr + at, mask=mask, other=0.0) * g
            squares += g * g
        if KIND1 >= 0:
            g = _gradient(
                x, x_ptr, rows_ptr, i, inside, 0, delta, delta_ptr, o, low, inverse, sharpness, KIND1, ORDER, INPUTS,
                BATCH, OUT_PAD, FEW, PRECISION,
            )  # fmt: skip
            total += tl.where(mask, g * g, 0.0)
        total += own * own + squares * s * s
    tl.store(norm_ptr + head * SPLITS + share, tl.sum(tl.sum(total, axis=1), axis=0))
