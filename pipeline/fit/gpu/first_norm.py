"""The norm of the first layer's gradients where it takes a pass over the weights: a scaler or a layer norm trains."""

import triton
import triton.language as tl

from pipeline.fit.gpu.products import backward_tile, delta_rows, gradient_tile, inputs_of

__all__ = ["gradient_norm"]


@triton.jit(do_not_specialize=["order_stride", "affine_stride"])
def gradient_norm(
    weight_ptr, scaler_ptr, own_ptr, x_ptr, normed_ptr, affine_ptr, affine_gradient_ptr, before_ptr,
    order_ptr, replicate_ptr, delta_ptr, squares_ptr, turn_ptr, order_stride, affine_stride, low, inverse, sharpness,
    INPUTS: tl.constexpr, FEATURES: tl.constexpr, OUT: tl.constexpr, OUT_PAD: tl.constexpr, STRIDE: tl.constexpr,
    BATCH: tl.constexpr, ROWS: tl.constexpr, KIND0: tl.constexpr, WIDTH0: tl.constexpr, KIND1: tl.constexpr,
    ORDER: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, NORM0: tl.constexpr, NORM1: tl.constexpr,
    SCALER: tl.constexpr, AT: tl.constexpr, SLOTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Squared norm of a first layer's gradients where Gram matrices of the data do not give it.

    Its SPLITS parts go to `squares` [heads, SLOTS], from number AT on. With SCALER the gradients are s * G and the sum
    over the bases of W * G, the scaler's, which goes to `own`. With a norm in front, the gradients of its scale and
    shift go to `affine_gradient`, and scale and shift themselves to `before`, as the update still needs them after they
    have changed. `turn` is the current step, `delta` not clipped.
    """
    head = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    turn = tl.load(turn_ptr + head)
    rows_ptr = order_ptr + tl.load(replicate_ptr + head).to(tl.int64) * order_stride + turn * BATCH
    delta_ptr += head * ROWS * OUT_PAD
    affine_ptr += head * affine_stride
    affine_gradient_ptr += head * affine_stride
    before_ptr += head * 2 * INPUTS
    FEW: tl.constexpr = ROWS < 16
    NORM: tl.constexpr = NORM0 or NORM1
    tiles: tl.constexpr = (INPUTS + TILE - 1) // TILE
    each: tl.constexpr = (tiles + SPLITS - 1) // SPLITS
    o = tl.arange(0, OUT_PAD)
    b = tl.arange(0, ROWS)
    rows = 0
    if FEW:
        delta = delta_rows(delta_ptr, o, BATCH, OUT_PAD)
    else:
        delta = tl.load(delta_ptr + b[:, None] * OUT_PAD + o[None, :])
        rows = tl.load(rows_ptr + b, mask=b < BATCH, other=0).to(tl.int64)[:, None] * INPUTS
    total = tl.zeros((TILE, OUT_PAD), tl.float32)
    more = tl.zeros((TILE,), tl.float32)
    for turn in range(each):
        i = (share * each + turn) * TILE + tl.arange(0, TILE)
        inside = i < INPUTS
        mask = inside[:, None] & (o < STRIDE)[None, :]
        source_ptr = normed_ptr if NORM0 else x_ptr
        x = inputs_of(source_ptr, affine_ptr, rows_ptr, rows, i, inside, INPUTS, BATCH, NORM0, FEW)
        if NORM:
            tl.store(before_ptr + i, tl.load(affine_ptr + i, mask=inside, other=0.0), mask=inside)
            shift = tl.load(affine_ptr + INPUTS + i, mask=inside, other=0.0)
            tl.store(before_ptr + INPUTS + i, shift, mask=inside)
            if FEW:
                back = ()
                for _ in tl.static_range(BATCH):
                    back = back + (tl.zeros((TILE, OUT_PAD), tl.float32),)
            else:
                back = tl.zeros((ROWS, TILE), tl.float32)
        if SCALER:
            within = inside[:, None] & (o < OUT)[None, :]
            s_at = head * INPUTS * OUT + i[:, None] * OUT + o[None, :]
            s = tl.load(scaler_ptr + s_at, mask=within, other=0.0)
            own = tl.zeros((TILE, OUT_PAD), tl.float32)
        squares = tl.zeros((TILE, OUT_PAD), tl.float32)
        for k in range(WIDTH0):
            g = gradient_tile(x, delta, k, low, inverse, sharpness, KIND0, ORDER, BATCH, FEW, PRECISION)
            squares += g * g
            if SCALER or NORM0:
                at = head * FEATURES * STRIDE + (i * WIDTH0 + k)[:, None] * STRIDE + o[None, :]
                w = tl.load(weight_ptr + at, mask=mask, other=0.0)
                if SCALER:
                    own += w * g
                    w *= s
                if NORM0:
                    back = backward_tile(
                        back, x, w, delta, k, low, inverse, sharpness, KIND0, ORDER, BATCH, FEW, PRECISION
                    )
        if SCALER:
            tl.store(own_ptr + s_at, own, mask=within)
            squares = own * own + squares * s * s
        if KIND1 >= 0:
            if NORM0 != NORM1:
                source_ptr = normed_ptr if NORM1 else x_ptr
                x = inputs_of(source_ptr, affine_ptr, rows_ptr, rows, i, inside, INPUTS, BATCH, NORM1, FEW)
            g = gradient_tile(x, delta, 0, low, inverse, sharpness, KIND1, ORDER, BATCH, FEW, PRECISION)
            squares += g * g
            if NORM1:
                at = head * FEATURES * STRIDE + (INPUTS * WIDTH0 + i)[:, None] * STRIDE + o[None, :]
                w = tl.load(weight_ptr + at, mask=mask, other=0.0)
                back = backward_tile(back, x, w, delta, 0, low, inverse, sharpness, KIND1, ORDER, BATCH, FEW, PRECISION)
        total += tl.where(mask, squares, 0.0)
        if NORM:
            normed = inputs_of(normed_ptr, affine_ptr, rows_ptr, rows, i, inside, INPUTS, BATCH, False, FEW)
            if FEW:
                by_shift = tl.zeros((TILE,), tl.float32)
                by_scale = tl.zeros((TILE,), tl.float32)
                for r in tl.static_range(BATCH):
                    one = tl.sum(back[r] * delta[r][None, :], axis=1)
                    by_shift += one
                    by_scale += one * normed[r]
            else:
                by_shift = tl.sum(back, axis=0)
                by_scale = tl.sum(back * normed, axis=0)
            tl.store(affine_gradient_ptr + i, by_scale, mask=inside)
            tl.store(affine_gradient_ptr + INPUTS + i, by_shift, mask=inside)
            more += tl.where(inside, by_scale * by_scale + by_shift * by_shift, 0.0)
    norm = tl.sum(tl.sum(total, axis=1), axis=0)
    if NORM:
        norm += tl.sum(more, axis=0)
    tl.store(squares_ptr + head * SLOTS + AT + share, norm)
