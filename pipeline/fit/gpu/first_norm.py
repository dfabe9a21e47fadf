"""The norm of the first layer's gradients where it takes a pass over the weights: a scaler or a layer norm trains."""

import triton
import triton.language as tl

from pipeline.fit.gpu.bases import IDENTITY
from pipeline.fit.gpu.products import (
    deltas_of,
    dot,
    gradient_terms,
    gradient_tile,
    inputs_of,
    outputs_of,
    slopes,
    zeros_of,
)

__all__ = ["gradient_norm"]


@triton.jit
def _basis_norm(
    weight_ptr, row, inside, o, terms, delta, slope, s, squares, own, back,
    STRIDE: tl.constexpr, NORM: tl.constexpr, SCALER: tl.constexpr, WHOLE: tl.constexpr, FEW: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a basis's part to the squares of its gradients, to the scaler's gradient, and to what is handed down.

    By blocks of the outputs `o`. What is handed down is [rows, i], or of few rows [i, o] each, not yet times delta.
    """
    found, scaled, few_back = (), (), ()
    for c in tl.static_range(len(o)):
        g = gradient_tile(terms, delta[c], FEW, PRECISION)
        if not WHOLE:
            g = tl.where(inside[:, None], g, 0.0)
        found = found + (squares[c] + g * g,)
        if SCALER or NORM:
            mask = inside[:, None] & (o[c] < STRIDE)[None, :]
            w = tl.load(weight_ptr + row[:, None] * STRIDE + o[c][None, :], mask=mask, other=0.0)
            if SCALER:
                scaled = scaled + (own[c] + w * g,)
                w *= s[c]
            if NORM:
                if FEW:
                    for r in tl.static_range(len(slope)):
                        few_back = few_back + (back[c * len(slope) + r] + slope[r][:, None] * w,)
                else:
                    back += dot(delta[c][0], tl.trans(w), PRECISION) * slope
    if NORM and FEW:
        back = few_back
    return found, scaled, back


@triton.jit(do_not_specialize=["order_stride", "affine_stride"])
def gradient_norm(
    weight_ptr, scaler_ptr, own_ptr, x_ptr, normed_ptr, affine_ptr, affine_gradient_ptr, before_ptr,
    order_ptr, replicate_ptr, delta_ptr, squares_ptr, turn_ptr, order_stride, affine_stride, low, inverse, sharpness,
    INPUTS: tl.constexpr, FEATURES: tl.constexpr, OUT: tl.constexpr, OUT_PAD: tl.constexpr, BLOCKS: tl.constexpr,
    STRIDE: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr, KIND0: tl.constexpr, WIDTH0: tl.constexpr,
    KIND1: tl.constexpr, ORDER: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, NORM0: tl.constexpr,
    NORM1: tl.constexpr, SCALER: tl.constexpr, AT: tl.constexpr, SLOTS: tl.constexpr, PRECISION: tl.constexpr,
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
    WHOLE: tl.constexpr = each * SPLITS * TILE == INPUTS
    o = outputs_of(BLOCKS)
    b = tl.arange(0, ROWS)
    delta = deltas_of(delta_ptr, b, o, OUT_PAD, BATCH, FEW, PRECISION)
    rows = 0
    if not FEW:
        rows = tl.load(rows_ptr + tl.minimum(b, BATCH - 1)).to(tl.int64)[:, None] * INPUTS
    squares = zeros_of(TILE, o, 1)
    more = tl.zeros((TILE,), tl.float32)
    for turn in range(each):
        i = (share * each + turn) * TILE + tl.arange(0, TILE)
        inside = i < INPUTS
        source_ptr = normed_ptr if NORM0 else x_ptr
        x = inputs_of(
            source_ptr, affine_ptr, rows_ptr, rows, i, inside, low, inverse, INPUTS, BATCH, NORM0, KIND0, ORDER, FEW
        )
        back = ()
        if NORM:
            tl.store(before_ptr + i, tl.load(affine_ptr + i, mask=inside, other=0.0), mask=inside)
            shift = tl.load(affine_ptr + INPUTS + i, mask=inside, other=0.0)
            tl.store(before_ptr + INPUTS + i, shift, mask=inside)
            back = zeros_of(TILE, o, BATCH) if FEW else tl.zeros((ROWS, TILE), tl.float32)
        s, own, own_squares = (), (), squares
        if SCALER:
            own, own_squares = zeros_of(TILE, o, 1), zeros_of(TILE, o, 1)
            for c in tl.static_range(len(o)):
                within = inside[:, None] & (o[c] < OUT)[None, :]
                s_at = head * INPUTS * OUT + i[:, None] * OUT + o[c][None, :]
                s = s + (tl.load(scaler_ptr + s_at, mask=within, other=0.0),)
        for k in range(WIDTH0):
            terms, slope = gradient_terms(x, k, inverse, sharpness, KIND0, ORDER, BATCH, FEW, PRECISION), ()
            if NORM0:
                slope = slopes(x, k, inverse, sharpness, KIND0, ORDER, BATCH, FEW)
            own_squares, own, back = _basis_norm(
                weight_ptr, head * FEATURES + i * WIDTH0 + k, inside, o, terms, delta, slope, s, own_squares, own, back,
                STRIDE, NORM0, SCALER, WHOLE, FEW, PRECISION,
            )  # fmt: skip
        if SCALER:
            scaled = ()
            for c in tl.static_range(len(o)):
                within = inside[:, None] & (o[c] < OUT)[None, :]
                s_at = head * INPUTS * OUT + i[:, None] * OUT + o[c][None, :]
                tl.store(own_ptr + s_at, own[c], mask=within)
                scaled = scaled + (squares[c] + own[c] * own[c] + own_squares[c] * s[c] * s[c],)
            own_squares = scaled
        squares = own_squares
        if KIND1 >= 0:
            source_ptr = normed_ptr if NORM1 else x_ptr
            x = inputs_of(
                source_ptr, affine_ptr, rows_ptr, rows, i, inside, low, inverse, INPUTS, BATCH, NORM1, KIND1, ORDER, FEW
            )
            terms, slope = gradient_terms(x, 0, inverse, sharpness, KIND1, ORDER, BATCH, FEW, PRECISION), ()
            if NORM1:
                slope = slopes(x, 0, inverse, sharpness, KIND1, ORDER, BATCH, FEW)
            squares, _, back = _basis_norm(
                weight_ptr, head * FEATURES + INPUTS * WIDTH0 + i, inside, o, terms, delta, slope, (), squares, (),
                back, STRIDE, NORM1, False, WHOLE, FEW, PRECISION,
            )  # fmt: skip
        if NORM:
            normed = inputs_of(
                normed_ptr, affine_ptr, rows_ptr, rows, i, inside, low, inverse, INPUTS, BATCH, False, IDENTITY,
                ORDER, FEW,
            )  # fmt: skip
            if FEW:
                by_shift = tl.zeros((TILE,), tl.float32)
                by_scale = tl.zeros((TILE,), tl.float32)
                for r in tl.static_range(BATCH):
                    one = tl.zeros((TILE,), tl.float32)
                    for c in tl.static_range(len(o)):
                        one += tl.sum(back[c * BATCH + r] * delta[c][r][None, :], axis=1)
                    by_shift += one
                    by_scale += one * normed[r]
            else:
                by_shift = tl.sum(back, axis=0)
                by_scale = tl.sum(back * normed, axis=0)
            tl.store(affine_gradient_ptr + i, by_scale, mask=inside)
            tl.store(affine_gradient_ptr + INPUTS + i, by_shift, mask=inside)
            more += tl.where(inside, by_scale * by_scale + by_shift * by_shift, 0.0)
    norm = tl.sum(more, axis=0)
    for c in tl.static_range(len(o)):
        norm += tl.sum(tl.sum(squares[c], axis=1), axis=0)
    tl.store(squares_ptr + head * SLOTS + AT + share, norm)
