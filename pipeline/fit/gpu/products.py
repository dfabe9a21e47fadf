"""What the first layer's kernels share: AdamW, rows of a minibatch, and products of a tile of weights [inputs, out].

Few rows (at most 4) are summed over on the ordinary units, row by row, as tuples of vectors that share the layout of a
weight tile; more rows are tensors [rows, inputs] and go to the matrix units.
"""

import triton
import triton.language as tl

from pipeline.fit.gpu.bases import slope, value

__all__ = [
    "adamw",
    "backward_tile",
    "delta_rows",
    "dot",
    "forward_tile",
    "gradient_tile",
    "inputs_of",
    "one_minus_power",
]

#: Logarithms of AdamW's 0.9 and 0.999.
LOG_BETA1, LOG_BETA2 = tl.constexpr(-0.10536051565782628), tl.constexpr(-0.0010005003335835335)


@triton.jit
def adamw(w, m, v, g, decay, rate, correction):
    """One AdamW update; returns weight and both moments. `rate` and `correction` hold the bias corrections."""
    m = m * 0.9 + g * 0.1
    v = v * 0.999 + g * g * 0.001
    d = tl.sqrt(v) * correction + 1e-8
    # d is positive, so this is 1 / d, in two instructions where a division takes eight.
    r = tl.rsqrt(d)
    return w * decay - rate * m * (r * r), m, v


@triton.jit
def one_minus_power(steps, LOG: tl.constexpr):
    """1 - beta^steps from beta's logarithm.

    While that is small, by the series of the exponential: subtracting from 1 would leave four digits of 1 - 0.999, and
    Adam's first steps carry such errors far.
    """
    y = steps * LOG
    series = 1.0 + y / 8
    for n in tl.static_range(6):
        series = 1.0 + y / (7 - n) * series
    return tl.where(y > -0.5, -y * series, 1.0 - tl.exp(y))


@triton.jit
def inputs_of(
    x_ptr, affine_ptr, rows_ptr, places, i, inside, INPUTS: tl.constexpr, BATCH: tl.constexpr, NORM: tl.constexpr,
    FEW: tl.constexpr,
):  # fmt: skip
    """The inputs i of every row of a minibatch; with NORM times a scale, plus a shift, from `affine` [2, inputs].

    Few rows are named by `rows` and come as a tuple of vectors, which share the layout of a weight tile; more as a
    tensor [rows, i] from the places [rows, 1] where they begin.
    """
    if NORM:
        scale = tl.load(affine_ptr + i, mask=inside, other=0.0)
        shift = tl.load(affine_ptr + INPUTS + i, mask=inside, other=0.0)
    if FEW:
        found = ()
        for r in tl.static_range(BATCH):
            row = tl.load(rows_ptr + r).to(tl.int64)
            x = tl.load(x_ptr + row * INPUTS + i, mask=inside, other=0.0)
            if NORM:
                x = x * scale + shift
            found = found + (x,)
    else:
        found = tl.load(x_ptr + places + i[None, :], mask=inside[None, :], other=0.0)
        if NORM:
            found = found * scale[None, :] + shift[None, :]
    return found


@triton.jit
def delta_rows(delta_ptr, o, BATCH: tl.constexpr, OUT_PAD: tl.constexpr):
    """Rows of delta [rows, o] as a tuple of vectors."""
    found = ()
    for r in tl.static_range(BATCH):
        found = found + (tl.load(delta_ptr + r * OUT_PAD + o),)
    return found


@triton.jit
def _halves(x):
    """x as a number of TF32's 11 bits and the rest."""
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """The product a [m, k] b [k, n] on the matrix units; with `tf32x3` it is float32's within 5e-7.

    Triton's own `tf32x3` takes a seventh more instructions, as it keeps infinities; what is not a number freezes a
    head as well.
    """
    if PRECISION == "tf32x3":
        a, a_rest = _halves(a)
        b, b_rest = _halves(b)
        if a.shape[0] >= 64:
            found = tl.dot(a_rest, b, input_precision="tf32")
            found = tl.dot(a, b_rest, found, input_precision="tf32")
            found = tl.dot(a, b, found, input_precision="tf32")
        else:
            # A warp has few sums then, and waits for each; subtracting keeps the compiler from making one sum of three.
            rest = -tl.dot(a_rest, b, input_precision="tf32")
            other = -tl.dot(a, b_rest, input_precision="tf32")
            found = tl.dot(a, b, input_precision="tf32") - (rest + other)
    else:
        found = tl.dot(a, b, input_precision=PRECISION)
    return found


@triton.jit
def gradient_tile(
    x, delta, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr, BATCH: tl.constexpr,
    FEW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Basis k's gradient tile [i, o]: expansion of the minibatch transposed, times delta [rows, o]."""
    if FEW:
        g = value(x[0], k, low, inverse, sharpness, KIND, ORDER)[:, None] * delta[0][None, :]
        for r in tl.static_range(1, BATCH):
            g += value(x[r], k, low, inverse, sharpness, KIND, ORDER)[:, None] * delta[r][None, :]
    else:
        g = dot(tl.trans(value(x, k, low, inverse, sharpness, KIND, ORDER)), delta, PRECISION)
    return g


@triton.jit
def forward_tile(
    sums, gram, w, x, inside, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr,
    BATCH: tl.constexpr, FEW: tl.constexpr, GRAM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add basis k's part of the outputs and of the Gram matrix of the expansion; w is [i, o]."""
    if FEW:
        found = ()
        phis = ()
        for r in tl.static_range(BATCH):
            phi = tl.where(inside, value(x[r], k, low, inverse, sharpness, KIND, ORDER), 0.0)
            found = found + (sums[r] + phi[:, None] * w,)
            phis = phis + (phi,)
        inner = ()
        if GRAM:
            for r in tl.static_range(BATCH):
                for c in tl.static_range(BATCH):
                    inner = inner + (gram[r * BATCH + c] + phis[r] * phis[c],)
    else:
        phi = tl.where(inside[None, :], value(x, k, low, inverse, sharpness, KIND, ORDER), 0.0)
        found = sums + dot(phi, w, PRECISION)
        inner = gram
        if GRAM:
            inner = gram + dot(phi, tl.trans(phi), PRECISION)
    return found, inner


@triton.jit
def backward_tile(
    back, x, w, delta, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr,
    BATCH: tl.constexpr, FEW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what basis k hands down to its input x: [rows, i], or for few rows [i, o] of each, not yet times delta."""
    if FEW:
        found = ()
        for r in tl.static_range(BATCH):
            found = found + (back[r] + slope(x[r], k, low, inverse, sharpness, KIND, ORDER)[:, None] * w,)
    else:
        found = dot(delta, tl.trans(w), PRECISION)
        found = back + found * slope(x, k, low, inverse, sharpness, KIND, ORDER)
    return found
