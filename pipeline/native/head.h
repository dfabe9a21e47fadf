/* One head in training on one processor core: what Python hands over, and the pieces of a step. */
#ifndef KANGLUE_HEAD_H
#define KANGLUE_HEAD_H

#include <stdint.h>
#include <string.h>

enum {
    IDENTITY, RELU, GELU, SILU, TANH, SIGMOID, B_SPLINE, RADIAL, SWITCH, SQUARE_RELU, POLYNOMIAL2, POLYNOMIAL3, POLYNOMIAL5,
    FOURIER, CHEBYSHEV
};
enum { MAX_BRANCHES = 4, MAX_LAYERS = 24 };
enum { TILE = 128, WIDE = 64 }; /* features that are taken at once, at most: forward, and backward */
enum { MOST_ROWS = 64 };        /* rows that are taken at once backward, at most */
/* Up to this many rows, a gradient is cheaper to compute twice (for its norm and for the update) than to write and
   read. */
enum { FEW_ROWS = 8 };

/* A tensor with its AdamW moments; all three have the same layout. */
typedef struct {
    float *value, *first, *second, *gradient;
    int64_t size;
} Tensor;

typedef struct {
    int32_t basis, width, normed;
} Branch;

/* One (basis, linear) pair. `weight_` is [features, columns]: `columns` is `outputs` rounded up to whole vectors, or to
   half a one (a multiple of 8, and 16 at least), the surplus columns are zero and stay zero. With `units` (1: shared by all inputs, or one for each), `unit_` [units, widths]
   sums each input's values to one feature. Rows of expansions are `stride` apart, an odd number of cache lines: rows that
   lie a multiple of 4 KiB apart would share their places in the cache. */
typedef struct {
    int32_t inputs, outputs, columns, features, stride;
    int32_t branches, bias, scaler, normed, units;
    Branch branch[MAX_BRANCHES];
    float low, step, sharpness;
    int32_t order;
    Tensor weight_, scaler_, bias_, norm_scale_, norm_shift_, unit_;
    /* Work space: [rows, ...] of the current minibatch, and `strip` [TILE, columns]. */
    float *input, *normal, *deviation, *expansion, *expansion_gradient, *output, *delta, *strip, *values;
} Layer;

/* Stacks of `depth` layers each, one after the other, all on the same input; their outputs are summed. */
typedef struct {
    int32_t layers, depth, classes, ready, regression;
    Layer layer[MAX_LAYERS];
    float lr, weight_decay, clip;
    const float **row; /* the minibatch's rows of the first expansion */
    const volatile int32_t *stop; /* set from outside: leave after this step */
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

/* Rows of `input` and `normal` are an odd number of cache lines apart, for the same reason as those of expansions. */
static inline int spaced(int inputs) { return ((inputs + 15) / 16 | 1) * 16; }

/* The larger number, and `least` for NaN: fmaxf, but in place (compilers call libm for the sake of NaN). */
static inline float at_least(float x, float least) { return x > least ? x : least; }

/* Vectors are the compiler's own, so that the same source serves every instruction set. */
#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* bases.c: one basis over x [count] or, backward, what it adds to dx. */
void basis_values(const Layer *layer, const Branch *branch, const float *x, int count, float *out);
void basis_backward(const Layer *layer, const Branch *branch, const float *x, int count, const float *value,
                    const float *gradient, float *dx);

/* dx[i] += factor * the sum of from[i, width]. */
void add_sums(const float *from, int some, int width, float factor, float *dx);

/* switch.c */
void switch_values(const Layer *layer, const float *x, int count, int width, float *out);
void switch_backward(const Layer *layer, const float *x, int count, int width, const float *value,
                     const float *gradient, float *dx);

/* expand.c */
void expand(const Layer *layer, int rows);
void expand_backward(const Layer *layer, int rows, float *input_gradient);
void normalise(const Layer *layer, int rows);

/* products.c */
void product_tile(const Layer *layer, const float *const *row, int rows, int from, int wide, float *out);
void product(const Layer *layer, const float *const *row, int rows, float *out);
void product_gradient(const float *const *row, int rows, int from, int to, const float *delta, int columns, float *out);
void product_backward(const Layer *layer, int rows, float *out);
void product_backward_tile(const Layer *layer, int start, int rows, int from, int wide, float *out);

/* stream.c, for the first layer of a stack: whether it is taken in tiles from its input, without `expansion`; its product
   out[rows, columns]; and the way back: gradients of its norm, and where it is taken in tiles those of weights and scaler
   too, whose squared norm is added to *total. The last returns 0 where it has done nothing. */
int streams(const Layer *layer, int rows);
void stream(const Layer *layer, int rows, float *out);
int stream_backward(const Layer *layer, int rows, double *total);

/* weights.c */
typedef struct {
    float factor;     /* clipping, on the gradient */
    float decay;      /* 1 - rate * weight decay */
    float rate;       /* rate / (1 - beta1^t) */
    float correction; /* 1 / sqrt(1 - beta2^t) */
} Update;

/* Weights of features [from, to) (TILE at most) as products take them: times the scaler where there is one, in strip. */
const float *scaled_weights(const Layer *layer, int from, int to);
double strip_squares(const Layer *layer, int from, int to, float *gradient);
double weight_gradient(const Layer *layer, const float *const *row, int rows);
void weight_update(const Layer *layer, const float *const *row, int rows, Update u);
void update_tensor(const Tensor *tensor, Update u);
double squares(const float *x, int64_t size);

#endif
