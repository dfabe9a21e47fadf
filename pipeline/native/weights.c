/* A layer's weights in training: gradients and their norm, and AdamW.

   Everything goes strip by strip of features, so that a strip's gradient is used while it is in the first-level cache:
   for its squared norm, for the scaler's gradient, for the update. With few rows it is computed again instead of being
   kept. */
#include <math.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "head.h"

enum { STRIP = 24 };

static const float BETA1 = 0.9f, BETA2 = 0.999f, EPSILON = 1e-8f;

#if defined(__AVX512F__)
/* Hardware square roots and divisions take twice as long as everything else here, so both come from the 14-bit
   approximations and a step of Newton's, which leaves an error of a unit or two in the last place. */
static void adamw(float *restrict value, float *restrict first, float *restrict second, const float *restrict gradient,
                  int64_t size, Update u)
{
    const __m512 factor = _mm512_set1_ps(u.factor), decay = _mm512_set1_ps(u.decay), rate = _mm512_set1_ps(u.rate);
    const __m512 correction = _mm512_set1_ps(u.correction), epsilon = _mm512_set1_ps(EPSILON);
    const __m512 one1 = _mm512_set1_ps(1 - BETA1), beta2 = _mm512_set1_ps(BETA2), one2 = _mm512_set1_ps(1 - BETA2);
    const __m512 least = _mm512_set1_ps(1.2e-38f), half = _mm512_set1_ps(0.5f), two = _mm512_set1_ps(2);
    for (int64_t i = 0; i < size; i += 16) {
        const __mmask16 some = size - i < 16 ? (__mmask16)((1u << (size - i)) - 1) : (__mmask16)0xffff;
        const __m512 g = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, gradient + i), factor);
        __m512 m = _mm512_maskz_loadu_ps(some, first + i), v = _mm512_maskz_loadu_ps(some, second + i);
        m = _mm512_fmadd_ps(one1, _mm512_sub_ps(g, m), m);
        v = _mm512_fmadd_ps(v, beta2, _mm512_mul_ps(one2, _mm512_mul_ps(g, g)));
        const __m512 x = _mm512_max_ps(v, least), r = _mm512_rsqrt14_ps(x);
        __m512 root = _mm512_mul_ps(x, r);
        root = _mm512_fmadd_ps(_mm512_mul_ps(half, r), _mm512_fnmadd_ps(root, root, x), root);
        const __m512 below = _mm512_fmadd_ps(root, correction, epsilon);
        __m512 inverse = _mm512_rcp14_ps(below);
        inverse = _mm512_mul_ps(inverse, _mm512_fnmadd_ps(below, inverse, two));
        const __m512 w = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, value + i), decay);
        _mm512_mask_storeu_ps(first + i, some, m);
        _mm512_mask_storeu_ps(second + i, some, v);
        _mm512_mask_storeu_ps(value + i, some, _mm512_fnmadd_ps(_mm512_mul_ps(rate, m), inverse, w));
    }
}
#else
static void adamw(float *restrict value, float *restrict first, float *restrict second, const float *restrict gradient,
                  int64_t size, Update u)
{
    for (int64_t i = 0; i < size; i++) {
        const float g = gradient[i] * u.factor;
        const float m = first[i] + (1 - BETA1) * (g - first[i]);
        const float v = second[i] * BETA2 + (1 - BETA2) * g * g;
        first[i] = m;
        second[i] = v;
        value[i] = value[i] * u.decay - u.rate * m / (sqrtf(v) * u.correction + EPSILON);
    }
}
#endif

void update_tensor(const Tensor *t, Update u)
{
    adamw(t->value, t->first, t->second, t->gradient, t->size, u);
}

double squares(const float *x, int64_t size)
{
    double total = 0;
    for (int64_t from = 0; from < size; from += 4096) {
        const int64_t to = size - from < 4096 ? size : from + 4096;
        float part = 0;
        for (int64_t i = from; i < to; i++)
            part += x[i] * x[i];
        total += part;
    }
    return total;
}

static float dot(const float *restrict a, const float *restrict b, int count)
{
    float total = 0;
    for (int i = 0; i < count; i++)
        total += a[i] * b[i];
    return total;
}

/* Squared norm of expansion^T delta from the two Gram matrices, without the gradient itself. */
static double gram_squares(const float *const *row, int rows, int features, const float *delta, int columns)
{
    double total = 0;
    for (int a = 0; a < rows; a++)
        for (int b = 0; b <= a; b++) {
            const float inner = dot(delta + (int64_t)a * columns, delta + (int64_t)b * columns, columns);
            total += (a == b ? 1.0 : 2.0) * inner * dot(row[a], row[b], features);
        }
    return total > 0 ? total : total == total ? 0 : total;
}

/* Features of one input between `from` and `to`; those behind the scaled branch belong to none. */
static int group_end(const Layer *l, int from, int to)
{
    const int width = l->branch[0].width, scaled = l->scaler ? l->inputs * width : 0;
    const int end = from < scaled ? (from / width + 1) * width : to;
    return end < to ? end : to;
}

const float *scaled_weights(const Layer *l, int from, int to)
{
    const int width = l->branch[0].width, columns = l->columns, scaled = l->inputs * width;
    const float *weight = l->weight_.value + (int64_t)from * columns;
    if (!l->scaler || from >= scaled)
        return weight;
    for (int f = from, end; f < to; f = end) {
        end = group_end(l, f, to);
        const float *s = l->scaler_.value + (int64_t)(f / width) * columns;
        if (f >= scaled) {
            memcpy(l->strip + (int64_t)(f - from) * columns, weight + (int64_t)(f - from) * columns,
                   sizeof(float) * (end - f) * columns);
            continue;
        }
        for (int c = 0; c < columns; c += LANES) {
            const vector factor = *(const vector *)(s + c);
            for (int64_t at = (int64_t)(f - from) * columns + c; at < (int64_t)(end - from) * columns; at += columns)
                *(vector *)(l->strip + at) = *(const vector *)(weight + at) * factor;
        }
    }
    return l->strip;
}

/* Turn a strip's gradient by the scaled weights into that by the weights; where `sum`, add up the scaler's too. */
static void unscale(const Layer *l, int from, int to, float *gradient, int sum)
{
    const int width = l->branch[0].width, columns = l->columns;
    for (int f = from, end; f < to && f < l->inputs * width; f = end) {
        end = group_end(l, f, to);
        const int64_t size = (int64_t)(end - f) * columns, own = (int64_t)(f / width) * columns;
        const float *weight = l->weight_.value + (int64_t)f * columns;
        float *g = gradient + (int64_t)(f - from) * columns;
        for (int c = 0; c < columns; c += LANES) {
            const vector factor = *(const vector *)(l->scaler_.value + own + c);
            vector total = f % width ? *(vector *)(l->scaler_.gradient + own + c) : (vector){0};
            for (int64_t at = c; at < size; at += columns) {
                vector *const to_change = (vector *)(g + at);
                if (sum)
                    total += *(const vector *)(weight + at) * *to_change;
                *to_change *= factor;
            }
            if (sum)
                *(vector *)(l->scaler_.gradient + own + c) = total;
        }
    }
}

/* The squared norm of a strip's gradient, which is turned into that by the weights on the way. */
double strip_squares(const Layer *l, int from, int to, float *gradient)
{
    if (l->scaler)
        unscale(l, from, to, gradient, 1);
    return squares(gradient, (int64_t)(to - from) * l->columns);
}

/* Gradients of weights and scaler (not kept with few rows); returns their squared norm. */
double weight_gradient(const Layer *l, const float *const *row, int rows)
{
    if (rows <= FEW_ROWS && !l->scaler)
        return gram_squares(row, rows, l->features, l->delta, l->columns);
    double total = 0;
    for (int f = 0; f < l->features; f += STRIP) {
        const int to = l->features - f < STRIP ? l->features : f + STRIP;
        float *gradient = rows <= FEW_ROWS ? l->strip : l->weight_.gradient + (int64_t)f * l->columns;
        product_gradient(row, rows, f, to, l->delta, l->columns, gradient);
        total += strip_squares(l, f, to, gradient);
    }
    return total + (l->scaler ? squares(l->scaler_.gradient, l->scaler_.size) : 0);
}

/* AdamW on weights and scaler. */
void weight_update(const Layer *l, const float *const *row, int rows, Update u)
{
    if (rows > FEW_ROWS)
        update_tensor(&l->weight_, u);
    for (int f = 0; f < l->features && rows <= FEW_ROWS; f += STRIP) {
        const int to = l->features - f < STRIP ? l->features : f + STRIP;
        const int64_t at = (int64_t)f * l->columns;
        product_gradient(row, rows, f, to, l->delta, l->columns, l->strip);
        if (l->scaler)
            unscale(l, f, to, l->strip, 0);
        adamw(l->weight_.value + at, l->weight_.first + at, l->weight_.second + at, l->strip,
              (int64_t)(to - f) * l->columns, u);
    }
    if (l->scaler)
        update_tensor(&l->scaler_, u);
}
