/* The switch basis: 1 - tanh(a)^2 with a = (x - centre) * sharpness. With q = exp(2 a) it is 4 q / (1 + q)^2, and the q
   of one input's functions differ by constant factors, so that an input takes one exponential. */
#include <math.h>

#include "head.h"

enum { FLAT = 256 };

/* 2 a within the numbers from where on it is as good as infinite. */
static inline float bounded(float x) { return x < -60 ? -60 : x > 60 ? 60 : x; }

static inline __attribute__((always_inline)) void spread(const float *base, int some, int width, const float *factor, float *q)
{
    for (int i = 0; i < some; i++)
        for (int j = 0; j < width; j++)
            q[i * width + j] = base[i] * factor[j];
}

/* q[some, width] and inverse[some, width], 1 / (1 + q); both have room for whole vectors. */
static void parts(const Layer *l, const float *x, int some, int width, const float *factor, float *q, float *inverses)
{
    const float twice = 2 * l->sharpness, step = l->step, middle = l->low + (width - 1) * 0.5f * step;
    const int size = some * width, near = twice * step * (width - 1) * 0.5f < 27;
    float base[FLAT];
    if (near) { /* no product of base and factor leaves float's range */
        for (int i = 0; i < some; i++)
            base[i] = exponential(bounded((x[i] - middle) * twice));
        if (width == 8)
            spread(base, some, 8, factor, q);
        else
            spread(base, some, width, factor, q);
    } else
        for (int i = 0; i < some; i++)
            for (int j = 0; j < width; j++)
                q[i * width + j] = exponential(bounded((x[i] - l->low - j * step) * twice));
    for (int f = 0; f < size; f += LANES)
        *(vector *)(inverses + f) = inverse(1 + *(const vector *)(q + f));
}

static int prepare(const Layer *l, int width, float *factor)
{
    for (int j = 0; j < width; j++)
        factor[j] = expf(-2 * l->sharpness * l->step * (j - (width - 1) * 0.5f));
    return width < FLAT ? FLAT / width : 1;
}

void switch_values(const Layer *l, const float *x, int count, int width, float *out)
{
    float factor[width], q[FLAT + width + LANES], r[FLAT + width + LANES];
    const int block = prepare(l, width, factor);
    memset(q, 0, sizeof q);
    for (int from = 0; from < count; from += block) {
        const int some = count - from < block ? count - from : block;
        float *to = out + (int64_t)from * width;
        parts(l, x + from, some, width, factor, q, r);
        for (int f = 0; f < some * width; f++)
            to[f] = 4 * (q[f] * r[f]) * r[f];
    }
}

void switch_backward(const Layer *l, const float *x, int count, int width, const float *value, const float *g, float *dx)
{
    float factor[width], q[FLAT + width + LANES], r[FLAT + width + LANES];
    const int block = prepare(l, width, factor);
    memset(q, 0, sizeof q);
    for (int from = 0; from < count; from += block) {
        const int some = count - from < block ? count - from : block;
        const float *own = g + (int64_t)from * width, *phi = value + (int64_t)from * width;
        parts(l, x + from, some, width, factor, q, r);
        for (int f = 0; f < some * width; f++)
            q[f] = own[f] * phi[f] * ((1 - q[f]) * r[f]);
        add_sums(q, some, width, 2 * l->sharpness, dx + from);
    }
}
