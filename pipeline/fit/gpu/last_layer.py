"""What follows the first layer's outputs: loss, the second layer forward and backward, clipping, and its update.

One program serves one head; all of it is small beside the first layer. A head's small tensors (second weights, its
scaler, biases) lie side by side in one flat array [heads, small], with their gradients and moments alike.
"""

import triton
import triton.language as tl

from pipeline.fit.gpu.bases import slope, value
from pipeline.fit.gpu.products import LOG_BETA1, LOG_BETA2, adamw, one_minus_power

__all__ = ["clip_and_update", "loss_and_gradients"]


@triton.jit
def _loss_gradient(
    logits, target_ptr, rows, valid, count, c, CLASSES: tl.constexpr, REGRESSION: tl.constexpr
):  # fmt: skip
    """Mean loss over valid rows, and its gradient by logits [rows, classes]."""
    inside = valid[:, None] & (c < CLASSES)[None, :]
    if REGRESSION:
        y = tl.load(target_ptr + rows, mask=valid, other=0.0)
        error = tl.where(inside, logits - y[:, None], 0.0)
        loss = tl.sum(tl.sum(error * error, axis=1), axis=0) / count
        gradient = 2.0 * error / count
    else:
        y = tl.load(target_ptr + rows, mask=valid, other=0)
        shown = tl.where((c < CLASSES)[None, :], logits, float("-inf"))
        largest = tl.max(shown, axis=1)
        e = tl.exp(shown - largest[:, None])
        total = tl.sum(e, axis=1)
        here = c[None, :] == y[:, None]
        own = tl.sum(tl.where(here, logits, 0.0), axis=1)
        loss = tl.sum(tl.where(valid, tl.log(total) + largest - own, 0.0), axis=0) / count
        gradient = tl.where(inside, (e / total[:, None] - tl.where(here, 1.0, 0.0)) / count, 0.0)
    return loss, gradient


@triton.jit
def _outputs(
    logits, x, w, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr, FEW: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Add basis k of x [rows, o] times w [o, classes]."""
    phi = value(x, k, low, inverse, sharpness, KIND, ORDER)
    if FEW:
        logits += tl.sum(phi[:, :, None] * w[None, :, :], axis=1)
    else:
        logits = tl.dot(phi, w, logits, input_precision=PRECISION)
    return logits


@triton.jit
def _weight_gradient(
    x, upper, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr, FEW: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Basis k of x [rows, o] transposed, times the gradient by the logits [rows, classes]."""
    phi = value(x, k, low, inverse, sharpness, KIND, ORDER)
    if FEW:
        g = tl.sum(phi[:, :, None] * upper[:, None, :], axis=0)
    else:
        g = tl.dot(tl.trans(phi), upper, input_precision=PRECISION)
    return g


@triton.jit
def _input_gradient(
    x, upper, w, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr, FEW: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What basis k hands down: (upper [rows, classes] times w [o, classes] transposed) times the basis's slope."""
    if FEW:
        back = tl.sum(upper[:, None, :] * w[None, :, :], axis=2)
    else:
        back = tl.dot(upper, tl.trans(w), input_precision=PRECISION)
    return back * slope(x, k, low, inverse, sharpness, KIND, ORDER)


@triton.jit
def _clip_and_update(
    head, norm, loss, small_ptr, small_first_ptr, small_second_ptr, small_gradient_ptr, delta_ptr, diverged_ptr,
    scalar_ptr, rate_ptr, decay_ptr, clip_ptr, turn_ptr, span_ptr,
    SMALL: tl.constexpr, SMALL_PAD: tl.constexpr, DELTA: tl.constexpr, DELTA_PAD: tl.constexpr,
):  # fmt: skip
    """Clip `delta` in place, update the small tensors, and leave the head's `scalar` row for the first layer.

    `norm` is squared. `span` is the steps before this epoch, of all epochs, of this epoch, and the rows of
    its last minibatch. A head whose loss or norm is not finite is
    frozen: its rate is zero, its decay one and its gradient zero from here on. Ends the head's turn.
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
    i = tl.arange(0, DELTA_PAD)
    d = tl.load(delta_ptr + head * DELTA + i, mask=i < DELTA, other=0.0)
    tl.store(delta_ptr + head * DELTA + i, tl.where(live, d * factor, 0.0), mask=i < DELTA)
    if SMALL > 0:
        j = tl.arange(0, SMALL_PAD)
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
def clip_and_update(
    small_ptr, small_first_ptr, small_second_ptr, small_gradient_ptr, delta_ptr, norm_ptr, more_ptr, loss_ptr,
    diverged_ptr, scalar_ptr, rate_ptr, decay_ptr, clip_ptr, turn_ptr, span_ptr,
    SMALL: tl.constexpr, SMALL_PAD: tl.constexpr, DELTA: tl.constexpr, DELTA_PAD: tl.constexpr,
    SPLITS: tl.constexpr, SPLITS_PAD: tl.constexpr,
):  # fmt: skip
    """The rest of the step where the norm takes a pass over the weights; `more` [heads, SPLITS] sums to its square."""
    head = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, SPLITS_PAD)
    norm = tl.load(norm_ptr + head)
    norm += tl.sum(tl.load(more_ptr + head * SPLITS + s, mask=s < SPLITS, other=0.0), axis=0)
    _clip_and_update(
        head, norm, tl.load(loss_ptr + head), small_ptr, small_first_ptr, small_second_ptr, small_gradient_ptr,
        delta_ptr, diverged_ptr, scalar_ptr, rate_ptr, decay_ptr, clip_ptr, turn_ptr, span_ptr,
        SMALL, SMALL_PAD, DELTA, DELTA_PAD,
    )  # fmt: skip


@triton.jit(do_not_specialize=["order_stride", "table_stride"])
def loss_and_gradients(
    output_ptr, gram_ptr, small_ptr, small_first_ptr, small_second_ptr, small_gradient_ptr, delta_ptr, norm_ptr,
    loss_ptr, total_ptr, target_ptr, order_ptr, replicate_ptr, diverged_ptr, scalar_ptr, rate_ptr, decay_ptr, clip_ptr,
    turn_ptr, span_ptr, order_stride, table_stride, low, inverse, sharpness,
    SMALL: tl.constexpr, SMALL_PAD: tl.constexpr, SPLITS: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr,
    OUT: tl.constexpr, OUT_PAD: tl.constexpr, DELTA_PAD: tl.constexpr, CLASSES: tl.constexpr,
    CLASSES_PAD: tl.constexpr, REGRESSION: tl.constexpr, DEEP: tl.constexpr, KIND0: tl.constexpr,
    WIDTH0: tl.constexpr, KIND1: tl.constexpr, ORDER: tl.constexpr, NORM0: tl.constexpr, NORM1: tl.constexpr,
    AT_WEIGHT: tl.constexpr, AT_SCALER: tl.constexpr, AT_SCALE: tl.constexpr, AT_SHIFT: tl.constexpr,
    AT_BIAS0: tl.constexpr, AT_BIAS1: tl.constexpr, GRAM: tl.constexpr, TABLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the first layer's partial outputs to every small gradient and `delta`.

    The squared norm of the gradients is that of the small ones and, with GRAM, of the first layer's; then clipping and
    the small updates follow in the same program. Without GRAM, `norm` [heads] is left to `clip_and_update`. The Gram
    matrices of the expansions are in `gram` [heads, SPLITS, ROWS, ROWS] or, with TABLE, `gram` [rows, rows] holds the
    products of all rows of the split. `loss` [heads] is the minibatch's, `total` [heads] the epoch's sum over rows.
    AT_* are offsets into the small tensors, -1 for none. Without DEEP the first layer's outputs are the logits.
    """
    head = tl.program_id(0).to(tl.int64)
    turn = tl.load(turn_ptr + head)
    count = tl.where(turn == tl.load(span_ptr + 2) - 1, tl.load(span_ptr + 3), BATCH)
    b, o, c = tl.arange(0, ROWS), tl.arange(0, OUT_PAD), tl.arange(0, CLASSES_PAD)
    valid = b < count
    order = order_ptr + tl.load(replicate_ptr + head).to(tl.int64) * order_stride + turn * BATCH
    rows = tl.load(order + b, mask=valid, other=0).to(tl.int64)
    small = small_ptr + head * SMALL
    gradients = small_gradient_ptr + head * SMALL
    FEW: tl.constexpr = ROWS < 16
    NORM: tl.constexpr = NORM0 or NORM1
    x = tl.zeros((ROWS, OUT_PAD), tl.float32)
    for share in range(SPLITS):
        x += tl.load(output_ptr + ((head * SPLITS + share) * ROWS + b[:, None]) * OUT_PAD + o[None, :])
    if AT_BIAS0 >= 0:
        x += tl.load(small + AT_BIAS0 + o, mask=o < OUT, other=0.0)[None, :]
    x = tl.where(valid[:, None], x, 0.0)
    norm = 0.0
    if DEEP:
        inside = (o < OUT)[:, None] & (c < CLASSES)[None, :]
        if NORM:
            hidden = (o < OUT)[None, :]
            centred = tl.where(hidden, x - (tl.sum(x, axis=1) / OUT)[:, None], 0.0)
            inverse_spread = tl.rsqrt(tl.sum(centred * centred, axis=1) / OUT + 1e-5)
            normed = centred * inverse_spread[:, None]
            scale = tl.load(small + AT_SCALE + o, mask=o < OUT, other=0.0)
            shift = tl.load(small + AT_SHIFT + o, mask=o < OUT, other=0.0)
            z = normed * scale[None, :] + shift[None, :]
        if AT_SCALER >= 0:
            s = tl.load(small + AT_SCALER + o[:, None] * CLASSES + c[None, :], mask=inside, other=0.0)
        logits = tl.zeros((ROWS, CLASSES_PAD), tl.float32)
        if AT_BIAS1 >= 0:
            logits += tl.load(small + AT_BIAS1 + c, mask=c < CLASSES, other=0.0)[None, :]
        for k in range(WIDTH0):
            at = ((o * WIDTH0 + k) * CLASSES)[:, None] + c[None, :]
            w = tl.load(small + AT_WEIGHT + at, mask=inside, other=0.0)
            if AT_SCALER >= 0:
                w *= s
            here = z if NORM0 else x
            logits = _outputs(logits, here, w, k, low, inverse, sharpness, KIND0, ORDER, FEW, PRECISION)
        if KIND1 >= 0:
            at = ((OUT * WIDTH0 + o) * CLASSES)[:, None] + c[None, :]
            w = tl.load(small + AT_WEIGHT + at, mask=inside, other=0.0)
            here = z if NORM1 else x
            logits = _outputs(logits, here, w, 0, low, inverse, sharpness, KIND1, ORDER, FEW, PRECISION)
        loss, upper = _loss_gradient(logits, target_ptr, rows, valid, count, c, CLASSES, REGRESSION)
        if AT_BIAS1 >= 0:
            bias1 = tl.sum(upper, axis=0)
            norm += tl.sum(bias1 * bias1, axis=0)
            tl.store(gradients + AT_BIAS1 + c, bias1, mask=c < CLASSES)
        delta = tl.zeros((ROWS, OUT_PAD), tl.float32)
        by_z = tl.zeros((ROWS, OUT_PAD), tl.float32)
        own = tl.zeros((OUT_PAD, CLASSES_PAD), tl.float32)
        squares = tl.zeros((OUT_PAD, CLASSES_PAD), tl.float32)
        for k in range(WIDTH0):
            here = z if NORM0 else x
            at = ((o * WIDTH0 + k) * CLASSES)[:, None] + c[None, :]
            w = tl.load(small + AT_WEIGHT + at, mask=inside, other=0.0)
            g = tl.where(
                inside, _weight_gradient(here, upper, k, low, inverse, sharpness, KIND0, ORDER, FEW, PRECISION), 0.0
            )
            if AT_SCALER >= 0:
                own += w * g
                g *= s
                w *= s
            squares += g * g
            tl.store(gradients + AT_WEIGHT + at, g, mask=inside)
            back = _input_gradient(here, upper, w, k, low, inverse, sharpness, KIND0, ORDER, FEW, PRECISION)
            if NORM0:
                by_z += back
            else:
                delta += back
        if KIND1 >= 0:
            here = z if NORM1 else x
            at = ((OUT * WIDTH0 + o) * CLASSES)[:, None] + c[None, :]
            w = tl.load(small + AT_WEIGHT + at, mask=inside, other=0.0)
            g = tl.where(
                inside, _weight_gradient(here, upper, 0, low, inverse, sharpness, KIND1, ORDER, FEW, PRECISION), 0.0
            )
            squares += g * g
            tl.store(gradients + AT_WEIGHT + at, g, mask=inside)
            back = _input_gradient(here, upper, w, 0, low, inverse, sharpness, KIND1, ORDER, FEW, PRECISION)
            if NORM1:
                by_z += back
            else:
                delta += back
        if AT_SCALER >= 0:
            squares += own * own
            tl.store(gradients + AT_SCALER + o[:, None] * CLASSES + c[None, :], own, mask=inside)
        norm += tl.sum(tl.sum(squares, axis=1), axis=0)
        if NORM:
            by_z = tl.where(valid[:, None] & hidden, by_z, 0.0)
            by_scale, by_shift = tl.sum(by_z * normed, axis=0), tl.sum(by_z, axis=0)
            norm += tl.sum(by_scale * by_scale + by_shift * by_shift, axis=0)
            tl.store(gradients + AT_SCALE + o, by_scale, mask=o < OUT)
            tl.store(gradients + AT_SHIFT + o, by_shift, mask=o < OUT)
            by_z *= scale[None, :]
            along = normed * (tl.sum(by_z * normed, axis=1) / OUT)[:, None]
            delta += (by_z - (tl.sum(by_z, axis=1) / OUT)[:, None] - along) * inverse_spread[:, None]
        delta = tl.where(valid[:, None] & (o < OUT)[None, :], delta, 0.0)
    else:
        loss, delta = _loss_gradient(x, target_ptr, rows, valid, count, o, OUT, REGRESSION)
    if AT_BIAS0 >= 0:
        bias0 = tl.sum(delta, axis=0)
        norm += tl.sum(bias0 * bias0, axis=0)
        tl.store(gradients + AT_BIAS0 + o, bias0, mask=o < OUT)
    tl.store(delta_ptr + (head * ROWS + b[:, None]) * OUT_PAD + o[None, :], delta)
    tl.store(total_ptr + head, tl.load(total_ptr + head) + loss * count)
    if GRAM:
        r = tl.arange(0, ROWS)
        if TABLE:
            other = tl.load(order + r, mask=r < count, other=0).to(tl.int64)
            gram = tl.load(gram_ptr + rows[:, None] * table_stride + other[None, :])
        else:
            gram = tl.zeros((ROWS, ROWS), tl.float32)
            for share in range(SPLITS):
                gram += tl.load(gram_ptr + ((head * SPLITS + share) * ROWS + b[:, None]) * ROWS + r[None, :])
        if FEW:
            inner = tl.sum(delta[:, None, :] * delta[None, :, :], axis=2)
        else:
            inner = tl.dot(delta, tl.trans(delta), input_precision=PRECISION)
        norm += tl.maximum(tl.sum(tl.sum(gram * inner, axis=1), axis=0), 0.0)
        # The gradients were written by other threads than will read them.
        tl.debug_barrier()
        _clip_and_update(
            head, norm, loss, small_ptr, small_first_ptr, small_second_ptr, small_gradient_ptr, delta_ptr, diverged_ptr,
            scalar_ptr, rate_ptr, decay_ptr, clip_ptr, turn_ptr, span_ptr, SMALL, SMALL_PAD, ROWS * OUT_PAD, DELTA_PAD,
        )  # fmt: skip
    else:
        tl.store(norm_ptr + head, norm)
        tl.store(loss_ptr + head, loss)
