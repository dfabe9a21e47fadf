"""What the first layer's kernels share: AdamW, rows of a minibatch, and products of a tile of weights [inputs, out].

Few rows (at most 4) are summed over on the ordinary units, row by row, as tuples of vectors that share the layout of a
weight tile; more rows are tensors [rows, inputs] and go to the matrix units.
"""

import triton
import triton.language as tl

from pipeline.fit.gpu.bases import B_SPLINE, on_grid, slope_at, value_at

__all__ = [
    "adamw",
    "deltas_of",
    "dot",
    "forward_terms",
    "gradient_terms",
    "gradient_tile",
    "gram_tile",
    "inputs_of",
    "one_minus_power",
    "outputs_of",
    "slopes",
    "zeros_of",
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
    x_ptr, affine_ptr, rows_ptr, places, i, inside, low, inverse, INPUTS: tl.constexpr, BATCH: tl.constexpr,
    NORM: tl.constexpr, KIND: tl.constexpr, ORDER: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """The inputs i of every row of a minibatch, as basis KIND takes them (`bases.on_grid`).

    With NORM they are times a scale, plus a shift, from `affine` [2, inputs].
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
            found = found + (on_grid(x, low, inverse, KIND, ORDER),)
    else:
        found = tl.load(x_ptr + places + i[None, :], mask=inside[None, :], other=0.0)
        if NORM:
            found = found * scale[None, :] + shift[None, :]
        found = on_grid(found, low, inverse, KIND, ORDER)
    return found


@triton.jit
def outputs_of(BLOCKS: tl.constexpr):
    """The numbers of the outputs, in BLOCKS of these widths: one power of two may be padding by half."""
    found = ()
    at = 0
    for c in tl.static_range(len(BLOCKS)):
        found = found + (at + tl.arange(0, BLOCKS[c]),)
        at += BLOCKS[c]
    return found


@triton.jit
def zeros_of(rows: tl.constexpr, o, COUNT: tl.constexpr):
    """COUNT times zeros [rows, outputs] of every block of outputs."""
    found = ()
    for c in tl.static_range(len(o)):
        for _ in tl.static_range(COUNT):
            found = found + (tl.zeros((rows, o[c].shape[0]), tl.float32),)
    return found


@triton.jit
def deltas_of(delta_ptr, b, o, OUT_PAD: tl.constexpr, BATCH: tl.constexpr, FEW: tl.constexpr, PRECISION: tl.constexpr):
    """Delta of every block of outputs: few rows one by one, more as they are and, where it needs them, their halves."""
    found = ()
    for c in tl.static_range(len(o)):
        if FEW:
            rows = ()
            for r in tl.static_range(BATCH):
                rows = rows + (tl.load(delta_ptr + r * OUT_PAD + o[c]),)
            found = found + (rows,)
        else:
            delta = tl.load(delta_ptr + b[:, None] * OUT_PAD + o[c][None, :])
            halves = scaled_halves(delta) if PRECISION == "tf32x3" else ()
            found = found + ((delta,) + halves,)
    return found


@triton.jit
def _halves(x):
    """x as a number of TF32's 11 bits and the rest."""
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def _three_products(a, a_rest, b, b_rest):
    """The product of a + a_rest and b + b_rest, but for that of the rests."""
    if a.shape[0] >= 64:
        found = tl.dot(a_rest, b, input_precision="tf32")
        found = tl.dot(a, b_rest, found, input_precision="tf32")
        found = tl.dot(a, b, found, input_precision="tf32")
    else:
        # A warp has few sums then, and waits for each; subtracting keeps the compiler from making one sum of three.
        rest = -tl.dot(a_rest, b, input_precision="tf32")
        other = -tl.dot(a, b_rest, input_precision="tf32")
        found = tl.dot(a, b, input_precision="tf32") - (rest + other)
    return found


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """The product a [m, k] b [k, n] on the matrix units; with `tf32x3` it is float32's within 5e-7.

    Triton's own `tf32x3` takes a seventh more instructions, as it keeps infinities; what is not a number freezes a
    head as well.
    """
    if PRECISION == "tf32x3":
        a, a_rest = _halves(a)
        b, b_rest = _halves(b)
        found = _three_products(a, a_rest, b, b_rest)
    else:
        found = tl.dot(a, b, input_precision=PRECISION)
    return found


@triton.jit
def _float16_halves(x):
    """x, at most 65504 in size, as the sum of two numbers of 11 bits."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def scaled_halves(x):
    """Columns of x [rows, columns], scaled to at most 2^15, as float16 halves, and what undoes the scaling [columns].

    Together the halves have the bits of TF32's, in half the space and at half the products: what is read from shared
    memory is what products of narrow tiles cost. Scaling by powers of two rounds nothing. A number's error is at most
    2^-22 of it, or 2^-39 of the largest of its column (where that is between 2^-112 and 2^127).
    """
    # The bits of a number between 2^e and 2^(e + 1), shifted, are 127 + e; here all of a column get e = 14.
    exponent = tl.max(tl.abs(x), axis=0).to(tl.int32, bitcast=True) >> 23
    exponent = tl.minimum(tl.maximum(exponent, 15), 253)
    high, rest = _float16_halves(x * ((268 - exponent) << 23).to(tl.float32, bitcast=True)[None, :])
    return high, rest, ((exponent - 14) << 23).to(tl.float32, bitcast=True)


@triton.jit
def gradient_terms(
    x, k, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr, BATCH: tl.constexpr, FEW: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Basis k of x as `gradient_tile` takes it: of rows, or transposed, halved and with what undoes the scaling."""
    if FEW:
        found = ()
        for r in tl.static_range(BATCH):
            found = found + (value_at(x[r], k, inverse, sharpness, KIND, ORDER),)
    else:
        phi = value_at(x, k, inverse, sharpness, KIND, ORDER)
        if PRECISION != "tf32x3":
            found = (tl.trans(phi),)
        elif KIND >= B_SPLINE:
            # At most 1: no need to look for the largest. Errors are at most 2^-39.
            high, rest = _float16_halves(phi * 16384.0)
            found = tl.trans(high), tl.trans(rest)
        else:
            high, rest, undo = scaled_halves(phi)
            found = tl.trans(high), tl.trans(rest), undo
    return found


@triton.jit
def gradient_tile(terms, delta, FEW: tl.constexpr, PRECISION: tl.constexpr):
    """A basis's gradient tile [i, o]: the `gradient_terms` of the minibatch times a block of `deltas_of`."""
    if FEW:
        g = terms[0][:, None] * delta[0][None, :]
        for r in tl.static_range(1, len(terms)):
            g += terms[r][:, None] * delta[r][None, :]
    elif PRECISION == "tf32x3":
        g = _three_products(terms[0], terms[1], delta[1], delta[2])
        if len(terms) == 2:
            g *= (delta[3] * (1 / 16384))[None, :]
        else:
            g *= terms[2][:, None] * delta[3][None, :]
    else:
        g = tl.dot(terms[0], delta[0], input_precision=PRECISION)
    return g


@triton.jit
def forward_terms(
    x, inside, k, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr, BATCH: tl.constexpr, FEW: tl.constexpr
):  # fmt: skip
    """Basis k of x where there are inputs, nothing elsewhere: [rows, i], or a tuple of few rows' [i]."""
    if FEW:
        phi = ()
        for r in tl.static_range(BATCH):
            phi = phi + (tl.where(inside, value_at(x[r], k, inverse, sharpness, KIND, ORDER), 0.0),)
    else:
        phi = tl.where(inside[None, :], value_at(x, k, inverse, sharpness, KIND, ORDER), 0.0)
    return phi


@triton.jit
def gram_tile(gram, phi, FEW: tl.constexpr, PRECISION: tl.constexpr):
    """Add a basis's part of the Gram matrix of the expansion."""
    if FEW:
        found = ()
        for r in tl.static_range(len(phi)):
            for c in tl.static_range(len(phi)):
                found = found + (gram[r * len(phi) + c] + phi[r] * phi[c],)
    else:
        found = gram + dot(phi, tl.trans(phi), PRECISION)
    return found


@triton.jit
def slopes(
    x, k, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr, BATCH: tl.constexpr, FEW: tl.constexpr
):  # fmt: skip
    """The derivative of basis k by x: [rows, i], or a tuple of few rows' [i]."""
    if FEW:
        found = ()
        for r in tl.static_range(BATCH):
            found = found + (slope_at(x[r], k, inverse, sharpness, KIND, ORDER),)
    else:
        found = slope_at(x, k, inverse, sharpness, KIND, ORDER)
    return found
