"""What follows a stack's first layer: the loss, and the gradients from it down to the first layer's outputs.

One program serves one head; all of it is small beside the first layer. A head's small tensors (second weights, their
scalers, biases, layer norms) lie side by side in one flat array [heads, small], with their gradients and moments alike.
"""

import triton
import triton.language as tl

from pipeline.fit.gpu.bases import slope, value
from pipeline.fit.gpu.clipping import clip_and_update
from pipeline.fit.gpu.outputs import first_outputs, layer_norm, second_outputs

__all__ = ["loss_and_gradients"]


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


@triton.jit(do_not_specialize=["order_stride", "table_stride"])
def loss_and_gradients(
    output_ptr, logits_ptr, gram_ptr, small_ptr, small_first_ptr, small_second_ptr, small_gradient_ptr, delta_ptr,
    squares_ptr, loss_ptr, total_ptr, target_ptr, order_ptr, replicate_ptr, diverged_ptr, scalar_ptr, rate_ptr,
    decay_ptr, clip_ptr, turn_ptr, span_ptr, order_stride, table_stride, low, inverse, sharpness,
    STACK: tl.constexpr, STACKS: tl.constexpr, SLOTS: tl.constexpr,
    SMALL: tl.constexpr, SMALL_PAD: tl.constexpr, SPLITS: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr,
    OUT: tl.constexpr, OUT_PAD: tl.constexpr, CLASSES: tl.constexpr,
    CLASSES_PAD: tl.constexpr, REGRESSION: tl.constexpr, DEEP: tl.constexpr, KIND0: tl.constexpr,
    WIDTH0: tl.constexpr, KIND1: tl.constexpr, ORDER: tl.constexpr, NORM0: tl.constexpr, NORM1: tl.constexpr,
    AT_WEIGHT: tl.constexpr, AT_SCALER: tl.constexpr, AT_SCALE: tl.constexpr, AT_SHIFT: tl.constexpr,
    AT_BIAS0: tl.constexpr, AT_BIAS1: tl.constexpr, GRAM: tl.constexpr, TABLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From a stack's partial first outputs to its small gradients and `delta` [stacks, heads, ROWS, OUT_PAD].

    Of several stacks the logits are those that `stack_outputs` left. With GRAM the first layer's gradients are part of
    the squared norm: the Gram matrices of the expansions are in `gram` [heads, SPLITS, ROWS, ROWS] or, with TABLE,
    `gram` [rows, rows] holds the products of all rows of the split. Where that norm is the head's, clipping and the
    small updates follow in the same program; otherwise it goes to number STACK of `squares` [heads, SLOTS], and
    `finish` does them. `loss` [heads] is the minibatch's, `total` [heads] the epoch's sum over rows, of the first
    stack's program. AT_* are offsets into the small tensors, -1 for none. Without DEEP the first layer's outputs are
    logits, and CLASSES is OUT.
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
    delta_place = ((STACK * tl.num_programs(0) + head) * ROWS + b[:, None]) * OUT_PAD
    FEW: tl.constexpr = ROWS < 16
    NORM: tl.constexpr = NORM0 or NORM1
    x = first_outputs(output_ptr, small, head, valid, b, o, SPLITS, ROWS, OUT, OUT_PAD, AT_BIAS0)
    z = x
    if DEEP and NORM:
        normed, z, scale, inverse_spread = layer_norm(x, o, small, OUT, AT_SCALE, AT_SHIFT)
    if STACKS > 1:
        logits = tl.zeros((ROWS, CLASSES_PAD), tl.float32)
        for stack in tl.static_range(STACKS):
            place = ((stack * tl.num_programs(0) + head) * ROWS + b[:, None]) * CLASSES_PAD
            logits += tl.load(logits_ptr + place + c[None, :])
    elif DEEP:
        logits = second_outputs(
            x, z, small, o, c, low, inverse, sharpness, ROWS, OUT, CLASSES, CLASSES_PAD, KIND0, WIDTH0, KIND1, ORDER,
            NORM0, NORM1, AT_WEIGHT, AT_SCALER, AT_BIAS1, FEW, PRECISION,
        )  # fmt: skip
    else:
        logits = x
    loss, upper = _loss_gradient(logits, target_ptr, rows, valid, count, c, CLASSES, REGRESSION)
    norm = 0.0
    if DEEP:
        inside = (o < OUT)[:, None] & (c < CLASSES)[None, :]
        if AT_SCALER >= 0:
            s = tl.load(small + AT_SCALER + o[:, None] * CLASSES + c[None, :], mask=inside, other=0.0)
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
            by_z = tl.where(valid[:, None] & (o < OUT)[None, :], by_z, 0.0)
            by_scale, by_shift = tl.sum(by_z * normed, axis=0), tl.sum(by_z, axis=0)
            norm += tl.sum(by_scale * by_scale + by_shift * by_shift, axis=0)
            tl.store(gradients + AT_SCALE + o, by_scale, mask=o < OUT)
            tl.store(gradients + AT_SHIFT + o, by_shift, mask=o < OUT)
            by_z *= scale[None, :]
            along = normed * (tl.sum(by_z * normed, axis=1) / OUT)[:, None]
            delta += (by_z - (tl.sum(by_z, axis=1) / OUT)[:, None] - along) * inverse_spread[:, None]
        delta = tl.where(valid[:, None] & (o < OUT)[None, :], delta, 0.0)
    else:
        delta = upper
    if AT_BIAS0 >= 0:
        bias0 = tl.sum(delta, axis=0)
        norm += tl.sum(bias0 * bias0, axis=0)
        tl.store(gradients + AT_BIAS0 + o, bias0, mask=o < OUT)
    tl.store(delta_ptr + delta_place + o[None, :], delta)
    if STACK == 0:
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
        found = tl.sum(tl.sum(gram * inner, axis=1), axis=0)
        # Not `tl.maximum`, which on a GPU makes zero of what is not a number.
        norm += tl.where(found < 0, 0.0, found)
    if GRAM and STACKS == 1:
        # The gradients were written by other threads than will read them.
        tl.debug_barrier()
        clip_and_update(
            head, norm, loss, small_ptr, small_first_ptr, small_second_ptr, small_gradient_ptr, delta_ptr, diverged_ptr,
            scalar_ptr, rate_ptr, decay_ptr, clip_ptr, turn_ptr, span_ptr, SMALL, SMALL_PAD, ROWS * OUT_PAD,
            STACKS,
        )  # fmt: skip
    else:
        tl.store(squares_ptr + head * SLOTS + STACK, norm)
        if STACK == 0:
            tl.store(loss_ptr + head, loss)
