"""Basis functions and their derivatives inside Triton kernels; the formulas are those of `pipeline.heads.bases`."""

import triton
import triton.language as tl

__all__ = ["KINDS", "slope", "value"]

#: Codes of the bases, as kernels compare them.
KINDS = {
    name: code
    for code, name in enumerate(("identity", "relu", "gelu", "silu", "tanh", "sigmoid", "b_spline", "radial", "switch"))
}
IDENTITY, RELU, GELU, SILU, TANH, SIGMOID, B_SPLINE, RADIAL, SWITCH = (tl.constexpr(code) for code in range(9))


@triton.jit
def _power(x, N: tl.constexpr):
    y = x * 0.0 + 1.0
    for _ in tl.static_range(N):
        y *= x
    return y


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def value(x, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr):
    """Basis function number k (a tensor or a number) of x; `inverse` is 1 / the grid's step."""
    if KIND == B_SPLINE:
        half: tl.constexpr = (ORDER + 1) / 2
        t = tl.abs((x - low) * inverse + (ORDER - half) - k)
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
        t = (x - low) * inverse - k
        y = tl.exp(-t * t)
    elif KIND == SWITCH:
        e = tl.exp(-2.0 * tl.abs((x - low - k / inverse) * sharpness))
        y = 4.0 * e / ((1.0 + e) * (1.0 + e))
    elif KIND == RELU:
        y = tl.maximum(x, 0.0)
    elif KIND == GELU:
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == SILU:
        y = x / (1.0 + tl.exp(-x))
    elif KIND == TANH:
        y = _tanh(x)
    elif KIND == SIGMOID:
        y = 1.0 / (1.0 + tl.exp(-x))
    else:
        y = x
    return y


@triton.jit
def slope(x, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr):
    """The derivative of `value` by x."""
    if KIND == B_SPLINE:
        half: tl.constexpr = (ORDER + 1) / 2
        s = (x - low) * inverse + (ORDER - half) - k
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
        t = (x - low) * inverse - k
        y = -2.0 * t * inverse * tl.exp(-t * t)
    elif KIND == SWITCH:
        a = (x - low - k / inverse) * sharpness
        e = tl.exp(-2.0 * tl.abs(a))
        y = -2.0 * sharpness * _tanh(a) * 4.0 * e / ((1.0 + e) * (1.0 + e))
    elif KIND == RELU:
        y = tl.where(x > 0, 1.0, 0.0)
    elif KIND == GELU:
        y = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif KIND == SILU:
        g = 1.0 / (1.0 + tl.exp(-x))
        y = g * (1.0 + x * (1.0 - g))
    elif KIND == TANH:
        g = _tanh(x)
        y = 1.0 - g * g
    elif KIND == SIGMOID:
        g = 1.0 / (1.0 + tl.exp(-x))
        y = g * (1.0 - g)
    else:
        y = x * 0.0 + 1.0
    return y
