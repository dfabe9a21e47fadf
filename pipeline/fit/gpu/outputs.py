"""A stack's outputs from what its first layer's programs left: their sum, the layer norm, the second layer forward."""

import triton
import triton.language as tl

from pipeline.fit.gpu.bases import value

__all__ = ["first_outputs", "layer_norm", "second_outputs", "stack_outputs"]


@triton.jit
def first_outputs(
    output_ptr, small_ptr, head, valid, b, o, SPLITS: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr,
    OUT_PAD: tl.constexpr, AT_BIAS0: tl.constexpr,
):  # fmt: skip
    """The first layer's outputs [rows, o] from those of its programs; zero in rows that are not valid."""
    x = tl.zeros((ROWS, OUT_PAD), tl.float32)
    for share in range(SPLITS):
        x += tl.load(output_ptr + ((head * SPLITS + share) * ROWS + b[:, None]) * OUT_PAD + o[None, :])
    if AT_BIAS0 >= 0:
        x += tl.load(small_ptr + AT_BIAS0 + o, mask=o < OUT, other=0.0)[None, :]
    return tl.where(valid[:, None], x, 0.0)


@triton.jit
def layer_norm(x, o, small_ptr, OUT: tl.constexpr, AT_SCALE: tl.constexpr, AT_SHIFT: tl.constexpr):
    """x's layer norm before and after the affine map, the map's scale, and 1 / the rows' spreads."""
    centred = tl.where((o < OUT)[None, :], x - (tl.sum(x, axis=1) / OUT)[:, None], 0.0)
    inverse_spread = tl.rsqrt(tl.sum(centred * centred, axis=1) / OUT + 1e-5)
    normed = centred * inverse_spread[:, None]
    scale = tl.load(small_ptr + AT_SCALE + o, mask=o < OUT, other=0.0)
    shift = tl.load(small_ptr + AT_SHIFT + o, mask=o < OUT, other=0.0)
    return normed, normed * scale[None, :] + shift[None, :], scale, inverse_spread


@triton.jit
def _add_outputs(
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
def second_outputs(
    x, z, small_ptr, o, c, low, inverse, sharpness, ROWS: tl.constexpr, OUT: tl.constexpr, CLASSES: tl.constexpr,
    CLASSES_PAD: tl.constexpr, KIND0: tl.constexpr, WIDTH0: tl.constexpr, KIND1: tl.constexpr, ORDER: tl.constexpr,
    NORM0: tl.constexpr, NORM1: tl.constexpr, AT_WEIGHT: tl.constexpr, AT_SCALER: tl.constexpr,
    AT_BIAS1: tl.constexpr, FEW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The second layer's outputs [rows, classes] of x and, where a branch reads the norm, z [rows, o]."""
    inside = (o < OUT)[:, None] & (c < CLASSES)[None, :]
    if AT_SCALER >= 0:
        s = tl.load(small_ptr + AT_SCALER + o[:, None] * CLASSES + c[None, :], mask=inside, other=0.0)
    logits = tl.zeros((ROWS, CLASSES_PAD), tl.float32)
    if AT_BIAS1 >= 0:
        logits += tl.load(small_ptr + AT_BIAS1 + c, mask=c < CLASSES, other=0.0)[None, :]
    for k in range(WIDTH0):
        at = ((o * WIDTH0 + k) * CLASSES)[:, None] + c[None, :]
        w = tl.load(small_ptr + AT_WEIGHT + at, mask=inside, other=0.0)
        if AT_SCALER >= 0:
            w *= s
        here = z if NORM0 else x
        logits = _add_outputs(logits, here, w, k, low, inverse, sharpness, KIND0, ORDER, FEW, PRECISION)
    if KIND1 >= 0:
        at = ((OUT * WIDTH0 + o) * CLASSES)[:, None] + c[None, :]
        w = tl.load(small_ptr + AT_WEIGHT + at, mask=inside, other=0.0)
        here = z if NORM1 else x
        logits = _add_outputs(logits, here, w, 0, low, inverse, sharpness, KIND1, ORDER, FEW, PRECISION)
    return logits


@triton.jit
def stack_outputs(
    output_ptr, small_ptr, logits_ptr, turn_ptr, span_ptr, low, inverse, sharpness, STACK: tl.constexpr,
    SMALL: tl.constexpr, SPLITS: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr,
    OUT_PAD: tl.constexpr, CLASSES: tl.constexpr, CLASSES_PAD: tl.constexpr, DEEP: tl.constexpr, KIND0: tl.constexpr,
    WIDTH0: tl.constexpr, KIND1: tl.constexpr, ORDER: tl.constexpr, NORM0: tl.constexpr, NORM1: tl.constexpr,
    AT_WEIGHT: tl.constexpr, AT_SCALER: tl.constexpr, AT_SCALE: tl.constexpr, AT_SHIFT: tl.constexpr,
    AT_BIAS0: tl.constexpr, AT_BIAS1: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One stack's part of the logits, to number STACK of `logits` [stacks, heads, ROWS, CLASSES_PAD]."""
    head = tl.program_id(0).to(tl.int64)
    count = tl.where(tl.load(turn_ptr + head) == tl.load(span_ptr + 2) - 1, tl.load(span_ptr + 3), BATCH)
    b, o, c = tl.arange(0, ROWS), tl.arange(0, OUT_PAD), tl.arange(0, CLASSES_PAD)
    small = small_ptr + head * SMALL
    x = first_outputs(output_ptr, small, head, b < count, b, o, SPLITS, ROWS, OUT, OUT_PAD, AT_BIAS0)
    if DEEP:
        z = x
        if NORM0 or NORM1:
            _, z, _, _ = layer_norm(x, o, small, OUT, AT_SCALE, AT_SHIFT)
        x = second_outputs(
            x, z, small, o, c, low, inverse, sharpness, ROWS, OUT, CLASSES, CLASSES_PAD, KIND0, WIDTH0, KIND1, ORDER,
            NORM0, NORM1, AT_WEIGHT, AT_SCALER, AT_BIAS1, ROWS < 16, PRECISION,
        )  # fmt: skip
    place = ((STACK * tl.num_programs(0) + head) * ROWS + b[:, None]) * CLASSES_PAD
    tl.store(logits_ptr + place + c[None, :], x)
