/* Basis functions and their derivatives for many rows at once, which are the lanes of vectors: every function of an
   input is then a few operations on whole vectors, whatever the basis' width. The formulas are those of bases.c. */
#include <math.h>
#include <string.h>

#include "head.h"

/* One input's x in LANES rows gives value[width] and, where SLOPES, slope[width]; the same rows of the next function
   stand `rows` further on. */

INLINE vector load(const float *from) { return *(const vector *)from; }
static inline void store(float *to, vector x) { *(vector *)to = x; }

/* SIGN where x < 0. */
INLINE vector signed_as(vector y, vector x)
{
    return (vector)((numbers)y ^ ((numbers)x & INT32_MIN));
}

INLINE void cubic_spline(const Layer *l, vector x, int width, int rows, float *value, float *slope, const int SLOPES)
{
    const float inverse_step = 1 / l->step;
    const vector at = (x - l->low) * inverse_step + 1;
    for (int j = 0; j < width; j++) {
        const vector d = at - (float)j, t = magnitude(d), a = larger(2 - t, 0), b = larger(1 - t, 0);
        const vector aa = a * a, bb = b * b;
        store(value + j * rows, aa * (a * (1 / 6.0f)) - bb * (b * (4 / 6.0f)));
        if (SLOPES)
            store(slope + j * rows, signed_as(bb * (2 * inverse_step) - aa * (0.5f * inverse_step), d));
    }
}

/* Derivatives by the distance; at the very centre the sum has none of its own but zero. */
INLINE void spline(const Layer *l, vector x, int width, int rows, float *value, float *slope, const int SLOPES)
{
    const float inverse_step = 1 / l->step;
    const int order = l->order;
    const vector at = (x - l->low) * inverse_step + (order - 1) * 0.5f;
    float term[4];
    spline_terms(order, term);
    for (int j = 0; j < width; j++) {
        const vector d = at - (float)j;
        vector found = {0}, change = {0};
        for (int n = 0; n <= order / 2; n++) {
            const vector left = (order + 1) * 0.5f - n - magnitude(d), some = larger(left, 0);
            vector before = (vector)((numbers)(1 + (vector){0}) & (left > 0)); /* some ^ (order - 1) */
            for (int i = 1; i < order; i++)
                before *= some;
            found += before * some * term[n];
            change -= before * (term[n] * order * inverse_step);
        }
        store(value + j * rows, found);
        if (SLOPES)
            store(slope + j * rows, (vector)((numbers)signed_as(change, d) & (d != 0)));
    }
}

/* Functions at distances m = 0, 1, ... on one side of the middle, where d is that of x: `now` is the first one's product
   without its constant, and `ratio` that of one to the next. */
INLINE void radial_side(vector d, vector now, vector ratio, int from, int to, int side, int rows, float factor, float *value,
                     float *slope, const int SLOPES)
{
    static const float OWN[5] = {1, 0.36787944f, 0.018315639f, 1.2340980e-4f, 1.1253517e-7f}; /* exp(-m^2) */
    for (int m = from; m < to; m++) {
        const vector found = now * OWN[m];
        now *= ratio;
        store(value + side * m * rows, found);
        if (SLOPES)
            store(slope + side * m * rows, found * (d * factor - side * m * factor));
    }
}

/* exp(-(u - j)^2), eight functions at a time from two exponentials: with d = u - c it is
   exp(-d^2) exp(2 d)^(j - c) exp(-(j - c)^2). More than 9 steps from c nothing is left of any of them. */
INLINE void radial(const Layer *l, vector x, int width, int rows, float *value, float *slope, const int SLOPES)
{
    const float inverse_step = 1 / l->step, factor = -2 * inverse_step;
    for (int first = 0; first < width; first += 8) {
        const int some = width - first < 8 ? width - first : 8, c = some / 2, place = (first + c) * rows;
        const vector d = larger(smaller((x - l->low) * inverse_step - (float)(first + c), 9), -9);
        const vector middle = exponentials(-d * d), up = exponentials(2 * d), down = inverse(up);
        float *const own = SLOPES ? slope + place : 0;
        if (some == 8) { /* unrolls */
            radial_side(d, middle, up, 0, 4, 1, rows, factor, value + place, own, SLOPES);
            radial_side(d, middle * down, down, 1, 5, -1, rows, factor, value + place, own, SLOPES);
        } else {
            radial_side(d, middle, up, 0, some - c, 1, rows, factor, value + place, own, SLOPES);
            radial_side(d, middle * down, down, 1, c + 1, -1, rows, factor, value + place, own, SLOPES);
        }
    }
}

/* As in switch.c. */
INLINE void switches(const Layer *l, vector x, int width, int rows, const float *factor, float *value, float *slope,
                  const int SLOPES)
{
    const float twice = 2 * l->sharpness, middle = l->low + (width - 1) * 0.5f * l->step;
    const vector base = exponentials(larger(smaller((x - middle) * twice, 60), -60));
    for (int j = 0; j < width; j++) {
        vector q = base * (factor ? factor[j] : 1);
        if (!factor) /* a product of base and factor could leave float's range */
            q = exponentials(larger(smaller((x - (l->low + j * l->step)) * twice, 60), -60));
        const vector part = inverse(1 + q), found = 4 * q * part * part;
        store(value + j * rows, found);
        if (SLOPES)
            store(slope + j * rows, found * (part * (2 * twice) - twice));
    }
}

static const float *switch_factors(const Layer *l, int width, float *factor)
{
    const float apart = 2 * l->sharpness * l->step;
    for (int j = 0; j < width; j++)
        factor[j] = exponential(apart * ((width - 1) * 0.5f - j));
    return apart * (width - 1) * 0.5f < 27 ? factor : 0;
}

/* Functions without a grid, of which an input has several: powers, a Fourier series, Chebyshev polynomials. */
static void series(int basis, const float *x, int width, int rows, float *value, float *slope)
{
    const int half = width / 2;
    for (int r = 0; r < rows; r++, value++, slope += slope != 0) {
        if (basis == FOURIER) {
            float c = cosf(x[r]), s = sinf(x[r]);
            const float c1 = c, s1 = s;
            for (int n = 0; n < half; n++) {
                value[n * rows] = c;
                value[(half + n) * rows] = s;
                if (slope) {
                    slope[n * rows] = -(n + 1) * s;
                    slope[(half + n) * rows] = (n + 1) * c;
                }
                const float next = c * c1 - s * s1;
                s = s * c1 + c * s1;
                c = next;
            }
            continue;
        }
        /* T_n' = n U_{n-1}, with U_0 = 1, U_1 = 2 z and the recursion of T. */
        const float z = basis == CHEBYSHEV ? tanhf(x[r]) : x[r];
        float t = 1, t1 = basis == CHEBYSHEV ? z : 0, u = 0, u1 = basis == CHEBYSHEV ? -1 : 0;
        for (int n = 0; n < width; n++) {
            value[n * rows] = t;
            if (slope)
                slope[n * rows] = basis == CHEBYSHEV ? n * u * (1 - z * z) : n * u;
            const float next = basis == CHEBYSHEV ? 2 * z * t - t1 : z * t;
            const float next_u = basis == CHEBYSHEV ? 2 * z * u - u1 : t;
            t1 = t, t = next;
            u1 = u, u = next_u;
        }
    }
}

/* sigmoid(x), times x where SILU. */
INLINE void sigmoids(int silu, vector x, float *value, float *slope, const int SLOPES)
{
    const vector s = inverse(1 + exponentials(-x)), change = s * (1 - s);
    store(value, s);
    if (silu)
        store(value, s * x);
    if (SLOPES)
        store(slope, change);
    if (SLOPES && silu)
        store(slope, s + x * change);
}

/* Every vector of rows of every input; loops stand inside of the choice of a basis. */
#define EACH(width) \
    for (int i = 0; i < some; i++) \
        for (int r = 0, from = i * rows, to = from * (width); r < rows; r += LANES, from += LANES, to += LANES)
#define SLOPE(to) (SLOPES ? slope + (to) : 0)

INLINE void any(const Layer *l, const Branch *b, const float *z, int some, int rows, float *value, float *slope,
                const int SLOPES)
{
    const int width = b->width;
    float factors[b->basis == SWITCH ? width : 1];
    if (b->basis == B_SPLINE && l->order == 3 && width == 8)
        EACH(8) cubic_spline(l, load(z + from), 8, rows, value + to, SLOPE(to), SLOPES);
    else if (b->basis == B_SPLINE && l->order == 3)
        EACH(width) cubic_spline(l, load(z + from), width, rows, value + to, SLOPE(to), SLOPES);
    else if (b->basis == B_SPLINE)
        EACH(width) spline(l, load(z + from), width, rows, value + to, SLOPE(to), SLOPES);
    else if (b->basis == RADIAL && width == 8)
        EACH(8) radial(l, load(z + from), 8, rows, value + to, SLOPE(to), SLOPES);
    else if (b->basis == RADIAL)
        EACH(width) radial(l, load(z + from), width, rows, value + to, SLOPE(to), SLOPES);
    else if (b->basis == SWITCH) {
        const float *factor = switch_factors(l, width, factors);
        if (width == 8 && factor)
            EACH(8) switches(l, load(z + from), 8, rows, factor, value + to, SLOPE(to), SLOPES);
        else
            EACH(width) switches(l, load(z + from), width, rows, factor, value + to, SLOPE(to), SLOPES);
    } else if (width > 1)
        for (int i = 0; i < some; i++)
            series(b->basis, z + i * rows, width, rows, value + i * width * rows, SLOPE(i * width * rows));
    else if (b->basis == SILU)
        EACH(1) sigmoids(1, load(z + from), value + to, SLOPE(to), SLOPES);
    else if (b->basis == SIGMOID)
        EACH(1) sigmoids(0, load(z + from), value + to, SLOPE(to), SLOPES);
    else
        pointwise(b->basis, z, some * rows, value, slope);
}

/* z[some, rows] gives value[some * width, rows] and, unless it is NULL, slope likewise; rows are whole vectors, MOST_ROWS
   at most. */
void basis_lanes(const Layer *l, const Branch *b, const float *z, int some, int rows, float *value, float *slope)
{
    if (rows == MOST_ROWS && slope)
        any(l, b, z, some, MOST_ROWS, value, slope, 1);
    else if (rows == MOST_ROWS)
        any(l, b, z, some, MOST_ROWS, value, 0, 0);
    else if (slope)
        any(l, b, z, some, rows, value, slope, 1);
    else
        any(l, b, z, some, rows, value, 0, 0);
}
