/* Train one head for an epoch on one core: every step's forward, backward, clipping and AdamW.

   A head's weights and moments (5 MB at 768-64-2) stay in this core's caches from step to step, which is why heads are
   trained one after another for an epoch and not side by side for a step. */
#include <math.h>
#include <string.h>

#include "head.h"

#if defined(__SSE__)
#include <xmmintrin.h>
/* Moments of weights that no row touches decay into denormal numbers, which are a hundred times slower: they count as
   zero while a head trains, and only there. */
static unsigned flush_denormals(void)
{
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    return mode;
}
static void restore(unsigned mode) { _mm_setcsr(mode); }
#else
static unsigned flush_denormals(void) { return 0; }
static void restore(unsigned mode) { (void)mode; }
#endif

/* Up to this many rows, a gradient is cheaper to compute twice (for its norm, by Gram matrices, and for the update) than
   to write and read. */
enum { FEW_ROWS = 8, TILE_FEATURES = 24 };

static const float BETA1 = 0.9f, BETA2 = 0.999f, EPSILON = 1e-8f;

typedef struct {
    float factor;     /* clipping, on the gradient */
    float decay;      /* 1 - rate * weight decay */
    float rate;       /* rate / (1 - beta1^t) */
    float correction; /* 1 / sqrt(1 - beta2^t) */
} Update;

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

static void update_small(const Tensor *t, Update u)
{
    adamw(t->value, t->first, t->second, t->gradient, t->size, u);
}

static double squares(const float *x, int64_t size)
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

/* Weights times the separate scaler, where a layer has one. */
static const float *effective_weight(const Layer *l)
{
    if (!l->scaler)
        return l->weight_.value;
    const int width = l->branch[0].width, columns = l->columns;
    for (int i = 0; i < l->inputs; i++)
        for (int k = 0; k < width; k++) {
            const int64_t at = ((int64_t)i * width + k) * columns;
            for (int c = 0; c < columns; c++)
                l->effective[at + c] = l->weight_.value[at + c] * l->scaler_.value[(int64_t)i * columns + c];
        }
    const int64_t rest = (int64_t)l->inputs * width * columns;
    memcpy(l->effective + rest, l->weight_.value + rest, sizeof(float) * (l->weight_.size - rest));
    return l->effective;
}

/* Turn the gradient by the effective weights into those by weights and scaler. */
static void split_scaler(const Layer *l)
{
    const int width = l->branch[0].width, columns = l->columns;
    memset(l->scaler_.gradient, 0, sizeof(float) * l->scaler_.size);
    for (int i = 0; i < l->inputs; i++)
        for (int k = 0; k < width; k++) {
            const int64_t at = ((int64_t)i * width + k) * columns, s = (int64_t)i * columns;
            for (int c = 0; c < columns; c++) {
                l->scaler_.gradient[s + c] += l->weight_.value[at + c] * l->weight_.gradient[at + c];
                l->weight_.gradient[at + c] *= l->scaler_.value[s + c];
            }
        }
}

static int fused(const Layer *l, int rows) { return rows <= FEW_ROWS && !l->scaler; }

/* Loss of the minibatch and the gradient by the outputs. */
static double output_gradient(const Head *h, const Layer *l, int rows, const int64_t *at, const void *targets)
{
    double loss = 0;
    memset(l->delta, 0, sizeof(float) * rows * l->columns);
    for (int r = 0; r < rows; r++) {
        const float *y = l->output + (int64_t)r * l->columns;
        float *d = l->delta + (int64_t)r * l->columns;
        if (h->regression) {
            const float error = y[0] - ((const float *)targets)[at[r]];
            loss += (double)error * error / rows;
            d[0] = 2 * error / rows;
            continue;
        }
        const int64_t label = ((const int64_t *)targets)[at[r]];
        float largest = y[0], total = 0;
        for (int c = 1; c < h->classes; c++)
            largest = y[c] > largest ? y[c] : largest;
        for (int c = 0; c < h->classes; c++)
            total += d[c] = exponential(y[c] - largest);
        loss += (logf(total) - (y[label] - largest)) / rows;
        for (int c = 0; c < h->classes; c++)
            d[c] = (d[c] / total - (c == label)) / rows;
    }
    return loss;
}

static void forward(Head *h, int rows)
{
    for (int n = 0; n < h->layers; n++) {
        Layer *l = &h->layer[n];
        if (n || !h->ready)
            expand(l, rows);
        const float *own[rows], *const *row = h->row;
        if (n || !h->ready) {
            for (int r = 0; r < rows; r++)
                own[r] = l->expansion + (int64_t)r * l->features;
            row = own;
        }
        product(row, rows, l->features, effective_weight(l), l->columns, l->output);
        for (int r = 0; r < rows && l->bias; r++)
            for (int c = 0; c < l->columns; c++)
                l->output[(int64_t)r * l->columns + c] += l->bias_.value[c];
        if (n + 1 < h->layers)
            for (int r = 0; r < rows; r++)
                memcpy(h->layer[n + 1].input + (int64_t)r * l->outputs, l->output + (int64_t)r * l->columns,
                       sizeof(float) * l->outputs);
    }
}

/* Gradients of every tensor but those whose update is fused; returns the squared norm of all of them. */
static double backward(Head *h, int rows)
{
    double total = 0;
    for (int n = h->layers - 1; n >= 0; n--) {
        Layer *l = &h->layer[n];
        const float *own[rows], *const *row = h->row;
        if (n || !h->ready) {
            for (int r = 0; r < rows; r++)
                own[r] = l->expansion + (int64_t)r * l->features;
            row = own;
        }
        if (n || l->normed) {
            product_backward(l->delta, rows, l->scaler ? l->effective : l->weight_.value, l->features, l->columns,
                             l->expansion_gradient);
            float *below = n ? h->layer[n - 1].expansion_gradient : 0;
            expand_backward(l, rows, below);
            if (n) {
                Layer *under = &h->layer[n - 1];
                memset(under->delta, 0, sizeof(float) * rows * under->columns);
                for (int r = 0; r < rows; r++)
                    memcpy(under->delta + (int64_t)r * under->columns, below + (int64_t)r * l->inputs,
                           sizeof(float) * l->inputs);
            }
            if (l->normed)
                total += squares(l->norm_scale_.gradient, l->inputs) + squares(l->norm_shift_.gradient, l->inputs);
        }
        if (l->bias) {
            memset(l->bias_.gradient, 0, sizeof(float) * l->columns);
            for (int r = 0; r < rows; r++)
                for (int c = 0; c < l->columns; c++)
                    l->bias_.gradient[c] += l->delta[(int64_t)r * l->columns + c];
            total += squares(l->bias_.gradient, l->columns);
        }
        if (fused(l, rows)) {
            total += gram_squares(row, rows, l->features, l->delta, l->columns);
        } else {
            product_gradient(row, rows, 0, l->features, l->delta, l->columns, l->weight_.gradient);
            if (l->scaler) {
                split_scaler(l);
                total += squares(l->scaler_.gradient, l->scaler_.size);
            }
            total += squares(l->weight_.gradient, l->weight_.size);
        }
    }
    return total;
}

static void update(Head *h, int rows, Update u)
{
    for (int n = 0; n < h->layers; n++) {
        Layer *l = &h->layer[n];
        if (l->bias)
            update_small(&l->bias_, u);
        if (l->normed) {
            update_small(&l->norm_scale_, u);
            update_small(&l->norm_shift_, u);
        }
        if (!fused(l, rows)) {
            update_small(&l->weight_, u);
            if (l->scaler)
                update_small(&l->scaler_, u);
            continue;
        }
        const float *own[rows], *const *row = h->row;
        if (n || !h->ready) {
            for (int r = 0; r < rows; r++)
                own[r] = l->expansion + (int64_t)r * l->features;
            row = own;
        }
        float tile[TILE_FEATURES * l->columns];
        for (int f = 0; f < l->features; f += TILE_FEATURES) {
            const int to = l->features - f < TILE_FEATURES ? l->features : f + TILE_FEATURES;
            const int64_t at = (int64_t)f * l->columns;
            product_gradient(row, rows, f, to, l->delta, l->columns, tile);
            adamw(l->weight_.value + at, l->weight_.first + at, l->weight_.second + at, tile,
                  (int64_t)(to - f) * l->columns, u);
        }
    }
}

/* Train on `steps` minibatches of `batch` rows (the last one has `last`). `source` holds the training rows as the first
   layer takes them, `width` numbers each; `order` their numbers, step after step. The learning rate of step t is
   lr * (1 - t / all_steps), t counting from `done`. Adds each row's loss before its step to *loss. Returns the step
   (from `done`) whose loss or gradient was not finite, where it stops, or -1. */
static int64_t train_steps(Head *h, const float *source, int64_t width, const int64_t *order, const void *targets,
                           int64_t batch, int64_t steps, int64_t last, int64_t done, int64_t all_steps, double *loss)
{
    for (int64_t step = 0; step < steps; step++) {
        const int rows = (int)(step == steps - 1 ? last : batch);
        const int64_t *at = order + step * batch, t = done + step;
        for (int r = 0; r < rows; r++) {
            if (h->ready)
                h->row[r] = source + at[r] * width;
            else
                memcpy(h->layer[0].input + (int64_t)r * width, source + at[r] * width, sizeof(float) * width);
        }
        forward(h, rows);
        const double now = output_gradient(h, &h->layer[h->layers - 1], rows, at, targets);
        const double norm = sqrt(backward(h, rows));
        if (!(now < 1e300 && now > -1e300 && norm < 1e300))
            return t;
        *loss += now * rows;
        const double rate = h->lr * (1 - (double)t / all_steps), clipped = h->clip / (norm + 1e-6);
        const Update u = {
            .factor = (float)(clipped < 1 ? clipped : 1),
            .decay = (float)(1 - rate * h->weight_decay),
            .rate = (float)(rate / (1 - pow(0.9, (double)(t + 1)))),
            .correction = (float)(1 / sqrt(1 - pow(0.999, (double)(t + 1)))),
        };
        update(h, rows, u);
    }
    return -1;
}

int64_t train_head(Head *h, const float *source, int64_t width, const int64_t *order, const void *targets,
                   int64_t batch, int64_t steps, int64_t last, int64_t done, int64_t all_steps, double *loss)
{
    const unsigned mode = flush_denormals();
    const int64_t diverged = train_steps(h, source, width, order, targets, batch, steps, last, done, all_steps, loss);
    restore(mode);
    return diverged;
}
