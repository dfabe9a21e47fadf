/* One head in training on one processor core: what Python hands over, and the pieces of a step. */
#ifndef KANGLUE_HEAD_H
#define KANGLUE_HEAD_H

#include <stdint.h>
#include <string.h>

enum { IDENTITY, RELU, GELU, SILU, TANH, SIGMOID, B_SPLINE, RADIAL, SWITCH };
enum { MAX_BRANCHES = 4, MAX_LAYERS = 8 };

/* A tensor with its AdamW moments; all three have the same layout. */
typedef struct {
    float *value, *first, *second, *gradient;
    int64_t size;
} Tensor;

typedef struct {
    int32_t basis, width, normed;
} Branch;

/* One (basis, linear) pair. `weight_` is [features, columns]: `columns` is `outputs` rounded up to whole vectors, the
   surplus columns are zero and stay zero. */
typedef struct {
    int32_t inputs, outputs, columns, features;
    int32_t branches, bias, scaler, normed;
    Branch branch[MAX_BRANCHES];
    float low, step, sharpness;
    int32_t order;
    Tensor weight_, scaler_, bias_, norm_scale_, norm_shift_;
    /* Work space: [rows, ...] of the current minibatch. */
    float *input, *normal, *deviation, *expansion, *expansion_gradient, *output, *delta, *effective;
} Layer;

typedef struct {
    int32_t layers, classes, ready, regression;
    Layer layer[MAX_LAYERS];
    float lr, weight_decay, clip;
    const float **row; /* the minibatch's rows of the first expansion */
} Head;

/* exp(x) to about one unit in the last place, in operations that every compiler turns into vectors (Cody and Waite's
   reduction, then a polynomial); libm's is a call a number. Beyond the range of float it gives 0 or a huge number. */
static inline float exponential(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float n = __builtin_rintf(x * 1.44269504f);
    const float r = x - n * 0.693145752f - n * 1.42860677e-6f;
    const float p = 1 + r * (1 + r * (0.5f + r * (0.166666672f + r * (0.0416664667f + r * (0.00833374766f + r * 0.00138888648f)))));
    const int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* bases.c */
void expand(const Layer *layer, int rows);
void expand_backward(const Layer *layer, int rows, float *input_gradient);

/* products.c */
void product(const float *const *row, int rows, int features, const float *weight, int columns, float *out);
void product_gradient(const float *const *row, int rows, int from, int to, const float *delta, int columns, float *out);
void product_backward(const float *delta, int rows, const float *weight, int features, int columns, float *out);

#endif
