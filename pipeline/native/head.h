/* One head in training on one processor core: what Python hands over, and the pieces of a step. */
#ifndef KANGLUE_HEAD_H
#define KANGLUE_HEAD_H

#include <stdint.h>
#include <string.h>

#include "vectors.h"

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
    float *turned_input, *turned_normal, *turned; /* with rows as lanes: stream.c */
} Layer;

/* Stacks of `depth` layers each, one after the other, all on the same input; their outputs are summed. */
typedef struct {
    int32_t layers, depth, classes, ready, regression;
    Layer layer[MAX_LAYERS];
    float lr, weight_decay, clip;
    const float **row; /* the minibatch's rows of the first expansion */
    const volatile int32_t *stop; /* set from outside: leave after this step */
} Head;

/* Rows of `input` and `normal` are an odd number of cache lines apart, for the same reason as those of expansions. */
static inline int spaced(int inputs) { return ((inputs + 15) / 16 | 1) * 16; }

/* bases.c: one basis over x [count] or, backward, what it adds to dx. */
void basis_values(const Layer *layer, const Branch *branch, const float *x, int count, float *out);
void basis_backward(const Layer *layer, const Branch *branch, const float *x, int count, const float *value,
                    const float *gradient, float *dx);

void pointwise(int basis, const float *x, int count, float *out, float *slope);
void spline_terms(int order, float *term);

/* lanes.c: the same with rows side by side. */
void basis_lanes(const Layer *layer, const Branch *branch, const float *z, int some, int rows, float *value, float *slope);

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
void lanes_forward(const float *const *weight, int wide, int outputs, const float *value, int rows, float *out);
void lanes_backward(const float *const *weight, int wide, int outputs, const float *delta, int rows, float *out);
void lanes_gradient(const float *value, int stride, int wide, const float *delta, const float *twice, int rows, int columns,
                    int add, float *out);
void turn(const float *from, int64_t stride, int wide, int count, float *to, int to_stride);

/* stream.c, for the first layer of a stack: whether it is taken in tiles from its input, without `expansion`; its input on
   its side, and its norm's, unless an earlier stack has done that for the minibatch; its product out[rows, columns]; and
   the way back: gradients of its norm, and where it is taken in tiles those of weights and scaler too, whose squared norm
   is added to *total. The last returns 0 where it has done nothing. *turned_normal says whether another stack has put the
   norm on its side, where that had to wait for the way back. */
int streams(const Layer *layer, int rows);
void prepare_inputs(const Layer *layer, int rows, int *input, int *normal);
void stream(const Layer *layer, int rows, float *out);
int stream_backward(const Layer *layer, int rows, int *turned_normal, double *total);

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
