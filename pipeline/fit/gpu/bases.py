"""Basis functions and their derivatives inside Triton kernels; the formulas are those of `pipeline.heads.bases`."""

import triton
import triton.language as tl

__all__ = ["B_SPLINE", "IDENTITY", "KINDS", "on_grid", "slope", "slope_at", "value", "value_at"]

#: Codes of the bases, as kernels compare them. From `b_spline` on they are at most 1 in size, as gradients rely on.
KINDS = {
    name: code
    for code, name in enumerate((
        "identity", "relu", "gelu", "silu", "tanh", "sigmoid", "square_relu", "b_spline", "radial", "switch", "fourier",
        "chebyshev",
    ))
}  # fmt: skip
IDENTITY, RELU, GELU, SILU, TANH, SIGMOID, SQUARE_RELU = (tl.constexpr(code) for code in range(7))
B_SPLINE, RADIAL, SWITCH, FOURIER, CHEBYSHEV = (tl.constexpr(code) for code in range(7, 12))
HALF_PI, LOG2_E = tl.constexpr(1.5707963267948966), tl.constexpr(1.4426950408889634)


@triton.jit
def _power(x, N: tl.constexpr):
    """x to a power of at least 1."""
    y = x
    for _ in tl.static_range(N - 1):
        y *= x
    return y


@triton.jit
def _exp(x):
    """The exponential; `tl.exp` would guard denormal results, which are nothing here, with four more instructions."""
    return tl.exp2(x * LOG2_E)


@triton.jit
def _inverse(x):
    """1 / x for x of at least 1, in two instructions where a division takes eight."""
    r = tl.rsqrt(x)
    return r * r


@triton.jit
def _tanh(x):
    e = _exp(-2.0 * tl.abs(x))
    t = (1.0 - e) * _inverse(1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def on_grid(x, low, inverse, KIND: tl.constexpr, ORDER: tl.constexpr):
    """x in steps of the grid, so that basis function number k is centred at k; for bases without a grid x as it is.

    The same for all k, it is done once, where the compiler would do it for every k to spare registers.
    """
    y = x
    if KIND == B_SPLINE:
        y = (x - low) * inverse + (ORDER - 1) / 2
    elif KIND == RADIAL or KIND == SWITCH:  # noqa: SIM109 - Triton knows no `in`
        y = (x - low) * inverse
    return y


@triton.jit
def value_at(x, k, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr):
    """Basis function number k of x as `on_grid` gives it; `inverse` is 1 / the grid's step, ORDER a series' highest."""
    if KIND == B_SPLINE:
        half: tl.constexpr = (ORDER + 1) / 2
        t = tl.abs(x - k)
        y = _power(tl.maximum(half - t, 0.0), ORDER)
        # (-1)^i C(k+1, i), written out: Triton has no compile-time binomials.
        if ORDER >= 2:
            y -= (ORDER + 1) * _power(tl.maximum(half - 1 - t, 0.0), ORDER)
        if ORDER >= 4:
            y += ((ORDER + 1) * ORDER / 2) * _power(tl.maximum(half - 2 - t, 0.0), ORDER)
        if ORDER == 2:
            y *= 1 / 2
        elif ORDER == 3:
            y *= 1 / 6
        elif ORDER == 4:
            y *= 1 / 24
        elif ORDER == 5:
            y *= 1 / 120
    elif KIND == RADIAL:
        t = x - k
        y = tl.exp2(t * (t * -LOG2_E))
    elif KIND == SWITCH:
        # 4 e / (1 + e)^2 with e = exp(-2 |a|), four times which takes two operations less.
        e4 = tl.exp2(tl.abs(x - k) * (-2.0 * LOG2_E * sharpness / inverse) + 2.0)
        r = _inverse(e4 * 0.25 + 1.0)
        y = e4 * (r * r)
    elif KIND == FOURIER:
        # Cosines come first.
        y = tl.sin(x * (k % ORDER + 1) + tl.where(k < ORDER, HALF_PI, 0.0))
    elif KIND == CHEBYSHEV:
        z = _tanh(x)
        before = z * 0.0 + 1.0
        last = z
        y = tl.where(k == 0, 1.0, z)
        for n in tl.static_range(2, ORDER + 1):
            following = 2.0 * z * last - before
            y = tl.where(k == n, following, y)
            before = last
            last = following
    elif KIND == SQUARE_RELU:
        y = tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    elif KIND == RELU:
        y = tl.maximum(x, 0.0)
    elif KIND == GELU:
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == SILU:
        y = x * _inverse(1.0 + _exp(-x))
    elif KIND == TANH:
        y = _tanh(x)
    elif KIND == SIGMOID:
        y = _inverse(1.0 + _exp(-x))
    else:
        y = x
    return y


@triton.jit
def slope_at(x, k, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr):
    """The derivative of basis function number k by what `on_grid` was given for x."""
    if KIND == B_SPLINE:
        half: tl.constexpr = (ORDER + 1) / 2
        s = x - k
        t = tl.abs(s)
        if ORDER == 1:
            y = tl.where(t < half, 1.0, 0.0)
        else:
            y = _power(tl.maximum(half - t, 0.0), ORDER - 1)
            y -= (ORDER + 1) * _power(tl.maximum(half - 1 - t, 0.0), ORDER - 1)
            if ORDER >= 4:
                y += ((ORDER + 1) * ORDER / 2) * _power(tl.maximum(half - 2 - t, 0.0), ORDER - 1)
        if ORDER == 3:
            y *= 1 / 2
        elif ORDER == 4:
            y *= 1 / 6
        elif ORDER == 5:
            y *= 1 / 24
        y *= tl.where(s > 0, -inverse, tl.where(s < 0, inverse, 0.0))
    elif KIND == RADIAL:
        t = x - k
        y = -2.0 * inverse * t * tl.exp2(t * (t * -LOG2_E))
    elif KIND == SWITCH:
        a = x - k
        e4 = tl.exp2(tl.abs(a) * (-2.0 * LOG2_E * sharpness / inverse) + 2.0)
        r = _inverse(e4 * 0.25 + 1.0)
        y = e4 * (r * r) * ((1.0 - e4 * 0.25) * r) * (-2.0 * sharpness)
        # With the sign of a, by its bit.
        y = (y.to(tl.int32, bitcast=True) ^ (a.to(tl.int32, bitcast=True) & -2147483648)).to(tl.float32, bitcast=True)
    elif KIND == FOURIER:
        frequency = (k % ORDER + 1) * 1.0
        y = frequency * tl.sin(x * frequency + tl.where(k < ORDER, 2 * HALF_PI, HALF_PI))
    elif KIND == CHEBYSHEV:
        z = _tanh(x)
        before = z * 0.0 + 1.0
        last = z
        before_slope = z * 0.0
        last_slope = before
        y = tl.where(k == 0, 0.0, 1.0 + before_slope)
        for n in tl.static_range(2, ORDER + 1):
            following_slope = 2.0 * last + 2.0 * z * last_slope - before_slope
            following = 2.0 * z * last - before
            y = tl.where(k == n, following_slope, y)
            before = last
            last = following
            before_slope = last_slope
            last_slope = following_slope
        y *= 1.0 - z * z
    elif KIND == SQUARE_RELU:
        y = 2.0 * tl.maximum(x, 0.0)
    elif KIND == RELU:
        y = tl.where(x > 0, 1.0, 0.0)
    elif KIND == GELU:
        y = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * _exp(-0.5 * x * x)
    elif KIND == SILU:
        g = _inverse(1.0 + _exp(-x))
        y = g * (1.0 + x * (1.0 - g))
    elif KIND == TANH:
        g = _tanh(x)
        y = 1.0 - g * g
    elif KIND == SIGMOID:
        g = _inverse(1.0 + _exp(-x))
        y = g * (1.0 - g)
    else:
        y = x * 0.0 + 1.0
    return y


@triton.jit
def value(x, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr):
    """Basis function number k of x."""
    return value_at(on_grid(x, low, inverse, KIND, ORDER), k, inverse, sharpness, KIND, ORDER)


@triton.jit
def slope(x, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr):
    """The derivative of `value` by x."""
    return slope_at(on_grid(x, low, inverse, KIND, ORDER), k, inverse, sharpness, KIND, ORDER)
