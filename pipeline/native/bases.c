/* Expansions and their derivatives; the formulas are those of pipeline/heads/bases.py. */
#include <math.h>
#include <string.h>

#include "head.h"

static const float NORM_EPSILON = 1e-5f;

static float power(float x, int n)
{
    float y = 1;
    for (int i = 0; i < n; i++)
        y *= x;
    return y;
}

/* Coefficients (-1)^i C(k+1, i) / k! of the folded closed form. */
static void spline_terms(int order, float *term)
{
    double factorial = 1, choose = 1;
    for (int i = 2; i <= order; i++)
        factorial *= i;
    for (int i = 0; i <= order / 2; i++) {
        term[i] = (float)((i % 2 ? -1 : 1) * choose / factorial);
        choose = choose * (order + 1 - i) / (i + 1);
    }
}

static void splines(const Layer *l, const float *x, int count, int width, float *out)
{
    const int order = l->order;
    const float half = (order + 1) * 0.5f;
    float term[4];
    spline_terms(order, term);
    for (int i = 0; i < count; i++) {
        const float u = (x[i] - l->low) / l->step + order - half;
        float *to = out + (int64_t)i * width;
        if (order == 3) {
#pragma omp simd
            for (int j = 0; j < width; j++) {
                const float t = fabsf(u - j), a = at_least(2 - t, 0), b = at_least(1 - t, 0);
                to[j] = a * a * a * (1 / 6.0f) - b * b * b * (4 / 6.0f);
            }
            continue;
        }
        for (int j = 0; j < width; j++) {
            const float t = fabsf(u - j);
            float sum = 0;
            for (int n = 0; n <= order / 2; n++)
                sum += term[n] * power(at_least(half - n - t, 0), order);
            to[j] = sum;
        }
    }
}

static void splines_backward(const Layer *l, const float *x, int count, int width, const float *g, float *dx)
{
    const int order = l->order;
    const float half = (order + 1) * 0.5f, inverse = 1 / l->step;
    float term[4];
    spline_terms(order, term);
    for (int i = 0; i < count; i++) {
        const float u = (x[i] - l->low) / l->step + order - half;
        const float *from = g + (int64_t)i * width;
        float total = 0;
        if (order == 3) {
#pragma omp simd reduction(+ : total)
            for (int j = 0; j < width; j++) {
                const float s = u - j, t = fabsf(s), a = at_least(2 - t, 0), b = at_least(1 - t, 0);
                const float slope = 2 * b * b - 0.5f * a * a;
                total += from[j] * (s > 0 ? slope : s < 0 ? -slope : 0);
            }
        } else {
            for (int j = 0; j < width; j++) {
                const float s = u - j, t = fabsf(s);
                float sum = 0;
                for (int n = 0; n <= order / 2; n++)
                    if (half - n - t > 0)
                        sum -= term[n] * order * power(half - n - t, order - 1);
                total += from[j] * (s > 0 ? sum : s < 0 ? -sum : 0);
            }
        }
        dx[i] += total * inverse;
    }
}

static void bumps(const Layer *l, const float *x, int count, int width, int radial, float *out)
{
    for (int i = 0; i < count; i++) {
        float *to = out + (int64_t)i * width;
        if (radial) {
#pragma omp simd
            for (int j = 0; j < width; j++) {
                const float t = (x[i] - l->low) / l->step - j;
                to[j] = exponential(-t * t);
            }
        } else {
            /* 1 - tanh(a)^2 = 4 e / (1 + e)^2 with e = exp(-2 |a|): no overflow, no cancellation. */
#pragma omp simd
            for (int j = 0; j < width; j++) {
                const float e = exponential(-2 * fabsf((x[i] - l->low - j * l->step) * l->sharpness));
                to[j] = 4 * e / ((1 + e) * (1 + e));
            }
        }
    }
}

static void bumps_backward(const Layer *l, const float *x, int count, int width, int radial, const float *value,
                           const float *g, float *dx)
{
    for (int i = 0; i < count; i++) {
        const float *from = g + (int64_t)i * width, *phi = value + (int64_t)i * width;
        float total = 0;
        if (radial) {
#pragma omp simd reduction(+ : total)
            for (int j = 0; j < width; j++) {
                const float t = (x[i] - l->low) / l->step - j;
                total += from[j] * phi[j] * -2 * t;
            }
            total /= l->step;
        } else {
#pragma omp simd reduction(+ : total)
            for (int j = 0; j < width; j++) {
                const float a = (x[i] - l->low - j * l->step) * l->sharpness;
                const float e = exponential(-2 * fabsf(a)), tangent = (1 - e) / (1 + e);
                total += from[j] * phi[j] * (a > 0 ? -tangent : tangent);
            }
            total *= 2 * l->sharpness;
        }
        dx[i] += total;
    }
}

static float sigmoid(float x) { return 1 / (1 + exponential(-x)); }

static void pointwise(int basis, const float *x, int count, float *out)
{
    switch (basis) {
    case IDENTITY: memcpy(out, x, sizeof(float) * count); break;
    case RELU: for (int i = 0; i < count; i++) out[i] = at_least(x[i], 0); break;
    case GELU: for (int i = 0; i < count; i++) out[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678f)); break;
    case SILU: for (int i = 0; i < count; i++) out[i] = x[i] * sigmoid(x[i]); break;
    case TANH: for (int i = 0; i < count; i++) out[i] = tanhf(x[i]); break;
    case SIGMOID: for (int i = 0; i < count; i++) out[i] = sigmoid(x[i]); break;
    }
}

static void pointwise_backward(int basis, const float *x, int count, const float *g, float *dx)
{
    for (int i = 0; i < count; i++) {
        float s;
        switch (basis) {
        case IDENTITY: s = 1; break;
        case RELU: s = x[i] > 0; break;
        case GELU:
            s = 0.5f * (1 + erff(x[i] * 0.70710678f)) + x[i] * 0.39894228f * exponential(-0.5f * x[i] * x[i]);
            break;
        case SILU: s = sigmoid(x[i]); s = s * (1 + x[i] * (1 - s)); break;
        case TANH: s = tanhf(x[i]); s = 1 - s * s; break;
        default: s = sigmoid(x[i]); s = s * (1 - s);
        }
        dx[i] += s * g[i];
    }
}

/* Layer norm of each row into `normal` (before the trained scale and shift); `deviation` keeps 1 / its root. */
static void normalise(const Layer *l, int rows)
{
    for (int r = 0; r < rows; r++) {
        const float *x = l->input + (int64_t)r * l->inputs;
        float *n = l->normal + (int64_t)r * l->inputs, mean = 0, square = 0;
        for (int i = 0; i < l->inputs; i++)
            mean += x[i];
        mean /= l->inputs;
        for (int i = 0; i < l->inputs; i++)
            square += (x[i] - mean) * (x[i] - mean);
        const float inverse = 1 / sqrtf(square / l->inputs + NORM_EPSILON);
        for (int i = 0; i < l->inputs; i++)
            n[i] = (x[i] - mean) * inverse;
        l->deviation[r] = inverse;
    }
}

static void affine(const Layer *l, int row, float *z)
{
    const float *n = l->normal + (int64_t)row * l->inputs;
    for (int i = 0; i < l->inputs; i++)
        z[i] = n[i] * l->norm_scale_.value[i] + l->norm_shift_.value[i];
}

/* expansion[rows, features] of input[rows, inputs]. */
void expand(const Layer *l, int rows)
{
    if (l->normed)
        normalise(l, rows);
    float *z = l->deviation + rows;
    for (int r = 0; r < rows; r++) {
        const float *x = l->input + (int64_t)r * l->inputs;
        float *out = l->expansion + (int64_t)r * l->features;
        if (l->normed)
            affine(l, r, z);
        for (int b = 0; b < l->branches; b++) {
            const Branch *branch = &l->branch[b];
            const float *from = branch->normed ? z : x;
            if (branch->basis == B_SPLINE)
                splines(l, from, l->inputs, branch->width, out);
            else if (branch->basis == RADIAL || branch->basis == SWITCH)
                bumps(l, from, l->inputs, branch->width, branch->basis == RADIAL, out);
            else
                pointwise(branch->basis, from, l->inputs, out);
            out += (int64_t)l->inputs * branch->width;
        }
    }
}

/* From expansion_gradient: the norm's gradients, and the gradient by the input where it is wanted (not NULL). */
void expand_backward(const Layer *l, int rows, float *input_gradient)
{
    float *z = l->deviation + rows, *dz = z + l->inputs, *dx = dz + l->inputs;
    if (l->normed) {
        memset(l->norm_scale_.gradient, 0, sizeof(float) * l->inputs);
        memset(l->norm_shift_.gradient, 0, sizeof(float) * l->inputs);
    }
    for (int r = 0; r < rows; r++) {
        const float *x = l->input + (int64_t)r * l->inputs;
        const float *value = l->expansion + (int64_t)r * l->features;
        const float *g = l->expansion_gradient + (int64_t)r * l->features;
        memset(dz, 0, sizeof(float) * 2 * l->inputs);
        if (l->normed)
            affine(l, r, z);
        for (int b = 0; b < l->branches; b++) {
            const Branch *branch = &l->branch[b];
            const float *from = branch->normed ? z : x;
            float *to = branch->normed ? dz : dx;
            if (branch->normed || input_gradient) {
                if (branch->basis == B_SPLINE)
                    splines_backward(l, from, l->inputs, branch->width, g, to);
                else if (branch->basis == RADIAL || branch->basis == SWITCH)
                    bumps_backward(l, from, l->inputs, branch->width, branch->basis == RADIAL, value, g, to);
                else
                    pointwise_backward(branch->basis, from, l->inputs, g, to);
            }
            g += (int64_t)l->inputs * branch->width;
            value += (int64_t)l->inputs * branch->width;
        }
        if (l->normed) {
            const float *n = l->normal + (int64_t)r * l->inputs;
            float mean = 0, along = 0;
            for (int i = 0; i < l->inputs; i++) {
                l->norm_scale_.gradient[i] += dz[i] * n[i];
                l->norm_shift_.gradient[i] += dz[i];
                dz[i] *= l->norm_scale_.value[i];
                mean += dz[i];
                along += dz[i] * n[i];
            }
            mean /= l->inputs;
            along /= l->inputs;
            for (int i = 0; i < l->inputs; i++)
                dx[i] += (dz[i] - mean - n[i] * along) * l->deviation[r];
        }
        if (input_gradient)
            memcpy(input_gradient + (int64_t)r * l->inputs, dx, sizeof(float) * l->inputs);
    }
}
