"""The norm of the first layer's gradients where it takes a pass over the weights: a scaler or a layer norm trains."""

import triton
import triton.language as tl

from pipeline.fit.gpu.products import affine_rows, backward_tile, delta_rows, gradient_tile, rows_of

__all__ = ["gradient_norm"]


@triton.jit(do_not_specialize=["order_stride", "affine_stride"])
def gradient_norm(
    weight_ptr, scaler_ptr, own_ptr, x_ptr, normed_ptr, affine_ptr, affine_gradient_ptr, before_ptr, order_ptr,
    replicate_ptr, delta_ptr, norm_ptr, turn_ptr, order_stride, affine_stride, low, inverse, sharpness,
    INPUTS: tl.constexpr, FEATURES: tl.constexpr, OUT: tl.constexpr, OUT_PAD: tl.constexpr,
    BATCH: tl.constexpr, ROWS: tl.constexpr, KIND0: tl.constexpr, WIDTH0: tl.constexpr, KIND1: tl.constexpr,
    ORDER: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, NORM0: tl.constexpr, NORM1: tl.constexpr,
    SCALER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Squared norm [heads, SPLITS] of the first layer's gradients where Gram matrices of the data do not give it.

    With SCALER the gradients are s * G and the sum over the bases of W * G, the scaler's, which goes to `own`. With a
    norm in front, the gradients of its scale and shift go to `affine_gradient`, and scale and shift themselves to
    `before`, as the update still needs them after they have changed. `turn` is the current step, `delta` not clipped.
    """
    head = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    turn = tl.load(turn_ptr + head)
    rows_ptr = order_ptr + tl.load(replicate_ptr + head).to(tl.int64) * order_stride + turn * BATCH
    delta_ptr += head * ROWS * OUT_PAD
    FEW: tl.constexpr = ROWS < 16
    NORM: tl.constexpr = NORM0 or NORM1
    tiles: tl.constexpr = (INPUTS + TILE - 1) // TILE
    each: tl.constexpr = (tiles + SPLITS - 1) // SPLITS
    o = tl.arange(0, OUT_PAD)
    b = tl.arange(0, ROWS)
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
        mask = inside[:, None] & (o < OUT)[None, :]
        if FEW:
            x = rows_of(x_ptr, rows_ptr, i, inside, INPUTS, BATCH)
        else:
            x = tl.load(x_ptr + rows + i[None, :], mask=inside[None, :], other=0.0)
        if NORM:
            affine = affine_ptr + head * affine_stride + i
            scale = tl.load(affine, mask=inside, other=0.0)
            shift = tl.load(affine + INPUTS, mask=inside, other=0.0)
            before = before_ptr + head * 2 * INPUTS + i
            tl.store(before, scale, mask=inside)
            tl.store(before + INPUTS, shift, mask=inside)
            if FEW:
                normed = rows_of(normed_ptr, rows_ptr, i, inside, INPUTS, BATCH)
                z = affine_rows(normed, scale, shift, BATCH)
                back = ()
                for _ in tl.static_range(BATCH):
                    back = back + (tl.zeros((TILE, OUT_PAD), tl.float32),)
            else:
                normed = tl.load(normed_ptr + rows + i[None, :], mask=inside[None, :], other=0.0)
                z = normed * scale[None, :] + shift[None, :]
                back = tl.zeros((ROWS, TILE), tl.float32)
        if SCALER:
            s_at = head * INPUTS * OUT + i[:, None] * OUT + o[None, :]
            s = tl.load(scaler_ptr + s_at, mask=mask, other=0.0)
            own = tl.zeros((TILE, OUT_PAD), tl.float32)
        squares = tl.zeros((TILE, OUT_PAD), tl.float32)
        for k in range(WIDTH0):
            here = z if NORM0 else x
            g = gradient_tile(here, delta, k, low, inverse, sharpness, KIND0, ORDER, BATCH, FEW, PRECISION)
            squares += g * g
            if SCALER or NORM0:
                at = head * FEATURES * OUT + (i * WIDTH0 + k)[:, None] * OUT + o[None, :]
                w = tl.load(weight_ptr + at, mask=mask, other=0.0)
                if SCALER:
                    own += w * g
                if NORM0:
                    back = backward_tile(
                        back, z, w, delta, k, low, inverse, sharpness, KIND0, ORDER, BATCH, FEW, PRECISION
                    )
        if SCALER:
            tl.store(own_ptr + s_at, own, mask=mask)
            squares = own * own + squares * s * s
        if KIND1 >= 0:
            here = z if NORM1 else x
            g = gradient_tile(here, delta, 0, low, inverse, sharpness, KIND1, ORDER, BATCH, FEW, PRECISION)
            squares += g * g
            if NORM1:
                at = head * FEATURES * OUT + (INPUTS * WIDTH0 + i)[:, None] * OUT + o[None, :]
                w = tl.load(weight_ptr + at, mask=mask, other=0.0)
                back = backward_tile(back, z, w, delta, 0, low, inverse, sharpness, KIND1, ORDER, BATCH, FEW, PRECISION)
        total += tl.where(mask, squares, 0.0)
        if NORM:
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
            affine = affine_gradient_ptr + head * affine_stride + i
            tl.store(affine, by_scale, mask=inside)
            tl.store(affine + INPUTS, by_shift, mask=inside)
            more += tl.where(inside, by_scale * by_scale + by_shift * by_shift, 0.0)
    norm = tl.sum(tl.sum(total, axis=1), axis=0)
    if NORM:
        norm += tl.sum(more, axis=0)
    tl.store(norm_ptr + head * SPLITS + share, norm)
