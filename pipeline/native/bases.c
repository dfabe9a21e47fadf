/* Basis functions and their derivatives over a row of inputs; the formulas are those of pipeline/heads/bases.py.

   A basis of several functions is evaluated over flat arrays, each input repeated beside the number of its function, so
   that loops are long enough for vectors whatever the width. */
#include <math.h>
#include <string.h>

#include "head.h"

enum { FLAT = 256 };

static int block_of(int width) { return width < FLAT ? FLAT / width : 1; }

/* number[i, j] = j */
static void count_up(int block, int width, float *number)
{
    for (int i = 0; i < block; i++)
        for (int j = 0; j < width; j++)
            number[i * width + j] = j;
}

/* Inlined with a constant width, the loops over functions unroll. */
static inline __attribute__((always_inline)) void repeat_any(const Layer *l, const float *x, int some, int width,
                                                             float shift, float *at)
{
    const float inverse = 1 / l->step;
    for (int i = 0; i < some; i++) {
        const float u = (x[i] - l->low) * inverse + shift;
        for (int j = 0; j < width; j++)
            at[i * width + j] = u;
    }
}

static inline __attribute__((always_inline)) void sums_any(const float *from, int some, int width, float factor, float *dx)
{
    for (int i = 0; i < some; i++) {
        float total = 0;
        for (int j = 0; j < width; j++)
            total += from[i * width + j];
        dx[i] += total * factor;
    }
}

/* at[i, j] = (x[i] - low) / step + shift - j: how far an input is from function j, in steps of the grid. */
static void distances(const Layer *l, const float *x, int some, int width, float shift, const float *number, float *at)
{
    if (width == 8)
        repeat_any(l, x, some, 8, shift, at);
    else
        repeat_any(l, x, some, width, shift, at);
    for (int f = 0; f < some * width; f++)
        at[f] -= number[f];
}

void add_sums(const float *from, int some, int width, float factor, float *dx)
{
    if (width == 8)
        sums_any(from, some, 8, factor, dx);
    else
        sums_any(from, some, width, factor, dx);
}

static float power(float x, int n)
{
    float y = 1;
    for (int i = 0; i < n; i++)
        y *= x;
    return y;
}

/* Coefficients (-1)^i C(k+1, i) / k! of the folded closed form. */
void spline_terms(int order, float *term)
{
    double factorial = 1, choose = 1;
    for (int i = 2; i <= order; i++)
        factorial *= i;
    for (int i = 0; i <= order / 2; i++) {
        term[i] = (float)((i % 2 ? -1 : 1) * choose / factorial);
        choose = choose * (order + 1 - i) / (i + 1);
    }
}

static void spline_values(int order, int size, const float *at, float *to)
{
    if (order == 3) {
        for (int f = 0; f < size; f++) {
            const float t = fabsf(at[f]), a = at_least(2 - t, 0), b = at_least(1 - t, 0);
            to[f] = a * a * a * (1 / 6.0f) - b * b * b * (4 / 6.0f);
        }
        return;
    }
    const float half = (order + 1) * 0.5f;
    float term[4];
    spline_terms(order, term);
    memset(to, 0, sizeof(float) * size);
    for (int n = 0; n <= order / 2; n++)
        for (int f = 0; f < size; f++)
            to[f] += term[n] * power(at_least(half - n - fabsf(at[f]), 0), order);
}

/* Derivatives by the distance; at the very centre the sum has none of its own but zero. */
static void spline_slopes(int order, int size, const float *at, float *to)
{
    if (order == 3) {
        for (int f = 0; f < size; f++) {
            const float t = fabsf(at[f]), a = at_least(2 - t, 0), b = at_least(1 - t, 0);
            const float slope = 2 * b * b - 0.5f * a * a;
            to[f] = at[f] > 0 ? slope : at[f] < 0 ? -slope : 0;
        }
        return;
    }
    const float half = (order + 1) * 0.5f;
    float term[4];
    spline_terms(order, term);
    memset(to, 0, sizeof(float) * size);
    for (int n = 0; n <= order / 2; n++)
        for (int f = 0; f < size; f++) {
            const float left = half - n - fabsf(at[f]);
            const float slope = left > 0 ? term[n] * order * power(left, order - 1) : 0;
            to[f] -= at[f] > 0 ? slope : at[f] < 0 ? -slope : 0;
        }
}

static void gridded(const Layer *l, int basis, const float *x, int count, int width, float *out)
{
    const int block = block_of(width);
    const float shift = basis == B_SPLINE ? (l->order - 1) * 0.5f : 0;
    float number[block * width], at[block * width];
    count_up(block, width, number);
    for (int from = 0; from < count; from += block) {
        const int some = count - from < block ? count - from : block, size = some * width;
        float *to = out + (int64_t)from * width;
        distances(l, x + from, some, width, shift, number, at);
        if (basis == B_SPLINE)
            spline_values(l->order, size, at, to);
        else
            for (int f = 0; f < size; f++)
                to[f] = exponential(-at[f] * at[f]);
    }
}

static void gridded_backward(const Layer *l, int basis, const float *x, int count, int width, const float *value,
                             const float *g, float *dx)
{
    const int block = block_of(width);
    const float shift = basis == B_SPLINE ? (l->order - 1) * 0.5f : 0;
    float number[block * width], at[block * width], slope[block * width];
    count_up(block, width, number);
    for (int from = 0; from < count; from += block) {
        const int some = count - from < block ? count - from : block, size = some * width;
        const float *own = g + (int64_t)from * width, *phi = value + (int64_t)from * width;
        distances(l, x + from, some, width, shift, number, at);
        if (basis == B_SPLINE) {
            spline_slopes(l->order, size, at, slope);
            for (int f = 0; f < size; f++)
                slope[f] *= own[f];
        } else {
            for (int f = 0; f < size; f++)
                slope[f] = own[f] * phi[f] * -2 * at[f];
        }
        add_sums(slope, some, width, 1 / l->step, dx + from);
    }
}

static float sigmoid(float x) { return 1 / (1 + exponential(-x)); }

/* Several functions of one input without a grid: powers, a Fourier series, Chebyshev polynomials. */
static void series(int basis, const float *x, int count, int width, float *out)
{
    for (int i = 0; i < count; i++) {
        float *to = out + (int64_t)i * width;
        if (basis == FOURIER) {
            const int half = width / 2;
            const float c = cosf(x[i]), s = sinf(x[i]);
            to[0] = c;
            to[half] = s;
            for (int n = 1; n < half; n++) {
                to[n] = to[n - 1] * c - to[half + n - 1] * s;
                to[half + n] = to[half + n - 1] * c + to[n - 1] * s;
            }
            continue;
        }
        const float z = basis == CHEBYSHEV ? tanhf(x[i]) : x[i];
        to[0] = 1;
        to[1] = z;
        for (int n = 2; n < width; n++)
            to[n] = basis == CHEBYSHEV ? 2 * z * to[n - 1] - to[n - 2] : z * to[n - 1];
    }
}

static void series_backward(int basis, int count, int width, const float *value, const float *g, float *dx)
{
    for (int i = 0; i < count; i++) {
        const float *from = g + (int64_t)i * width, *phi = value + (int64_t)i * width;
        float total = 0;
        if (basis == FOURIER) {
            const int half = width / 2;
            for (int n = 0; n < half; n++)
                total += (n + 1) * (from[half + n] * phi[n] - from[n] * phi[half + n]);
        } else if (basis == CHEBYSHEV) {
            /* T_n' = n U_{n-1}, with U_0 = 1, U_1 = 2 z and the recursion of T. */
            const float z = phi[1];
            float before = 0, now = 1;
            for (int n = 1; n < width; n++) {
                total += n * from[n] * now;
                const float next = 2 * z * now - before;
                before = now;
                now = next;
            }
            total *= 1 - z * z;
        } else {
            for (int n = 1; n < width; n++)
                total += n * from[n] * phi[n - 1];
        }
        dx[i] += total;
    }
}

static float slope_of(int basis, float x)
{
    float s;
    switch (basis) {
    case IDENTITY: return 1;
    case RELU: return x > 0;
    case SQUARE_RELU: return 2 * at_least(x, 0);
    case GELU: return 0.5f * (1 + erff(x * 0.70710678f)) + x * 0.39894228f * exponential(-0.5f * x * x);
    case SILU: s = sigmoid(x); return s * (1 + x * (1 - s));
    case TANH: s = tanhf(x); return 1 - s * s;
    default: s = sigmoid(x); return s * (1 - s);
    }
}

/* A function of one input: out[count] and, unless it is NULL, slope[count]. */
void pointwise(int basis, const float *x, int count, float *out, float *slope)
{
    for (int i = 0; i < count && slope; i++)
        slope[i] = slope_of(basis, x[i]);
    switch (basis) {
    case IDENTITY: memcpy(out, x, sizeof(float) * count); break;
    case RELU: for (int i = 0; i < count; i++) out[i] = at_least(x[i], 0); break;
    case SQUARE_RELU: for (int i = 0; i < count; i++) out[i] = at_least(x[i], 0) * at_least(x[i], 0); break;
    case GELU: for (int i = 0; i < count; i++) out[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678f)); break;
    case SILU: for (int i = 0; i < count; i++) out[i] = x[i] * sigmoid(x[i]); break;
    case TANH: for (int i = 0; i < count; i++) out[i] = tanhf(x[i]); break;
    case SIGMOID: for (int i = 0; i < count; i++) out[i] = sigmoid(x[i]); break;
    }
}

static void pointwise_backward(int basis, const float *x, int count, const float *g, float *dx)
{
    if (basis == SILU)
        for (int i = 0; i < count; i++)
            dx[i] += g[i] * slope_of(SILU, x[i]);
    else
        for (int i = 0; i < count; i++)
            dx[i] += g[i] * slope_of(basis, x[i]);
}

void basis_values(const Layer *l, const Branch *b, const float *x, int count, float *out)
{
    if (b->basis == SWITCH)
        switch_values(l, x, count, b->width, out);
    else if (b->basis == B_SPLINE || b->basis == RADIAL)
        gridded(l, b->basis, x, count, b->width, out);
    else if (b->width > 1)
        series(b->basis, x, count, b->width, out);
    else
        pointwise(b->basis, x, count, out, 0);
}

void basis_backward(const Layer *l, const Branch *b, const float *x, int count, const float *value, const float *g,
                    float *dx)
{
    if (b->basis == SWITCH)
        switch_backward(l, x, count, b->width, value, g, dx);
    else if (b->basis == B_SPLINE || b->basis == RADIAL)
        gridded_backward(l, b->basis, x, count, b->width, value, g, dx);
    else if (b->width > 1)
        series_backward(b->basis, count, b->width, value, g, dx);
    else
        pointwise_backward(b->basis, x, count, g, dx);
}
