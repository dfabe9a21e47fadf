/* A layer's expansion of a minibatch, and the way back: its norm, its bases, its units. */
#include <math.h>
#include <string.h>

#include "head.h"

static const float NORM_EPSILON = 1e-5f;

/* Layer norm of each row into `normal` (before the trained scale and shift); `deviation` keeps 1 / its root. */
void normalise(const Layer *l, int rows)
{
    for (int r = 0; r < rows; r++) {
        const float *x = l->input + (int64_t)r * spaced(l->inputs);
        float *n = l->normal + (int64_t)r * spaced(l->inputs), mean = 0, square = 0;
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
    const float *n = l->normal + (int64_t)row * spaced(l->inputs);
    for (int i = 0; i < l->inputs; i++)
        z[i] = n[i] * l->norm_scale_.value[i] + l->norm_shift_.value[i];
}

/* From the gradient dz by the norm's output: its tensors' gradients are added to, and so is dx. */
static void normalise_backward(const Layer *l, int row, float *dz, float *dx)
{
    const float *n = l->normal + (int64_t)row * spaced(l->inputs);
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
        dx[i] += (dz[i] - mean - n[i] * along) * l->deviation[row];
}

static int widths(const Layer *l)
{
    int total = 0;
    for (int b = 0; b < l->branches; b++)
        total += l->branch[b].width;
    return total;
}

/* Sum each input's values of one basis (`values` [inputs, width]) with its coefficients, which begin at `at`. */
static void units(const Layer *l, const float *values, int width, int at, int stride, float *out)
{
    for (int i = 0; i < l->inputs; i++) {
        const float *c = l->unit_.value + (int64_t)i * stride + at;
        float total = 0;
        for (int k = 0; k < width; k++)
            total += c[k] * values[(int64_t)i * width + k];
        out[i] += total;
    }
}

static void units_backward(const Layer *l, const float *values, int width, int at, int stride, const float *g,
                           float *gradient)
{
    for (int i = 0; i < l->inputs; i++) {
        const float *c = l->unit_.value + (int64_t)i * stride + at;
        float *own = l->unit_.gradient + (int64_t)i * stride + at;
        for (int k = 0; k < width; k++) {
            own[k] += g[i] * values[(int64_t)i * width + k];
            gradient[(int64_t)i * width + k] = g[i] * c[k];
        }
    }
}

/* expansion[rows, features] of input[rows, inputs]; behind units, the bases' values are kept in `values`. */
void expand(const Layer *l, int rows)
{
    if (l->normed)
        normalise(l, rows);
    const int total = widths(l), stride = l->units > 1 || l->inputs == 1 ? total : 0;
    float *z = l->deviation + rows;
    for (int r = 0; r < rows; r++) {
        const float *x = l->input + (int64_t)r * spaced(l->inputs);
        float *feature = l->expansion + (int64_t)r * l->stride;
        float *out = l->units ? l->values + (int64_t)r * l->inputs * total : feature;
        if (l->normed)
            affine(l, r, z);
        if (l->units)
            memset(feature, 0, sizeof(float) * l->inputs);
        for (int b = 0, at = 0; b < l->branches; at += l->branch[b++].width) {
            const Branch *branch = &l->branch[b];
            basis_values(l, branch, branch->normed ? z : x, l->inputs, out);
            if (l->units)
                units(l, out, branch->width, at, stride, feature);
            out += (int64_t)l->inputs * branch->width;
        }
    }
}

/* From expansion_gradient: gradients of norm and units, and the gradient by the input where it is wanted (not NULL). */
void expand_backward(const Layer *l, int rows, float *input_gradient)
{
    const int total = widths(l), stride = l->units > 1 || l->inputs == 1 ? total : 0;
    float *z = l->deviation + rows, *dz = z + l->inputs, *dx = dz + l->inputs;
    float *scratch = l->units ? l->values + (int64_t)rows * l->inputs * total : 0;
    if (l->normed) {
        memset(l->norm_scale_.gradient, 0, sizeof(float) * l->inputs);
        memset(l->norm_shift_.gradient, 0, sizeof(float) * l->inputs);
    }
    if (l->units)
        memset(l->unit_.gradient, 0, sizeof(float) * l->unit_.size);
    for (int r = 0; r < rows; r++) {
        const float *x = l->input + (int64_t)r * spaced(l->inputs);
        const float *g = l->expansion_gradient + (int64_t)r * l->stride;
        const float *value = l->units ? l->values + (int64_t)r * l->inputs * total
                                      : l->expansion + (int64_t)r * l->stride;
        memset(dz, 0, sizeof(float) * 2 * l->inputs);
        if (l->normed)
            affine(l, r, z);
        for (int b = 0, at = 0; b < l->branches; at += l->branch[b++].width) {
            const Branch *branch = &l->branch[b];
            const float *own = g;
            if (l->units)
                units_backward(l, value, branch->width, at, stride, g, scratch), own = scratch;
            if (branch->normed || input_gradient)
                basis_backward(l, branch, branch->normed ? z : x, l->inputs, value, own, branch->normed ? dz : dx);
            if (!l->units)
                g += (int64_t)l->inputs * branch->width;
            value += (int64_t)l->inputs * branch->width;
        }
        if (l->normed)
            normalise_backward(l, r, dz, dx);
        if (input_gradient)
            memcpy(input_gradient + (int64_t)r * l->inputs, dx, sizeof(float) * l->inputs);
    }
}
