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

/* Whether a layer is taken in tiles from its input: first layers, where their expansion is not at hand. */
static int in_stream(const Head *h, int n, int rows)
{
    return n % h->depth == 0 && (n || !h->ready) && streams(&h->layer[n], rows);
}

static void forward(Head *h, int rows)
{
    int turned = 0, turned_normal = 0;
    for (int n = 0; n < h->layers; n++) {
        Layer *l = &h->layer[n];
        const int streamed = in_stream(h, n, rows);
        if (!streamed && (n || !h->ready))
            expand(l, rows);
        const float *own[rows], *const *row = h->row;
        if (n || !h->ready) {
            for (int r = 0; r < rows; r++)
                own[r] = l->expansion + (int64_t)r * l->stride;
            row = own;
        }
        if (streamed) {
            prepare_inputs(l, rows, &turned, &turned_normal);
            stream(l, rows, l->output);
        } else
            product(l, row, rows, l->output);
        for (int r = 0; r < rows && l->bias; r++)
            for (int c = 0; c < l->columns; c++)
                l->output[(int64_t)r * l->columns + c] += l->bias_.value[c];
        if ((n + 1) % h->depth)
            for (int r = 0; r < rows; r++)
                memcpy(h->layer[n + 1].input + (int64_t)r * spaced(l->outputs), l->output + (int64_t)r * l->columns,
                       sizeof(float) * l->outputs);
    }
}

/* The head's output is the sum of its stacks'; it stands in the last one's. */
static void join_stacks(const Head *h, int rows)
{
    const Layer *last = &h->layer[h->layers - 1];
    for (int n = h->depth - 1; n < h->layers - 1; n += h->depth)
        for (int i = 0; i < rows * last->columns; i++)
            last->output[i] += h->layer[n].output[i];
}

/* Every stack's output has the gradient of the sum. */
static void share_delta(const Head *h, int rows)
{
    const Layer *last = &h->layer[h->layers - 1];
    for (int n = h->depth - 1; n < h->layers - 1; n += h->depth)
        memcpy(h->layer[n].delta, last->delta, sizeof(float) * rows * last->columns);
}

/* Gradients of every tensor (of weights, what weight_gradient keeps); returns the squared norm of all of them. */
static double backward(Head *h, int rows)
{
    double total = 0;
    int turned_normal = 0;
    for (int n = h->layers - 1; n >= 0; n--) {
        Layer *l = &h->layer[n];
        const float *own[rows], *const *row = h->row;
        if (n || !h->ready) {
            for (int r = 0; r < rows; r++)
                own[r] = l->expansion + (int64_t)r * l->stride;
            row = own;
        }
        const int above = n % h->depth != 0; /* another layer lies below */
        const int streamed = in_stream(h, n, rows);
        if (above || l->normed || l->units || streamed) {
            float *below = above ? h->layer[n - 1].expansion_gradient : 0;
            if (above || !stream_backward(l, rows, &turned_normal, &total)) {
                product_backward(l, rows, l->expansion_gradient);
                expand_backward(l, rows, below);
            }
            if (above) {
                Layer *under = &h->layer[n - 1];
                memset(under->delta, 0, sizeof(float) * rows * under->columns);
                for (int r = 0; r < rows; r++)
                    memcpy(under->delta + (int64_t)r * under->columns, below + (int64_t)r * l->inputs,
                           sizeof(float) * l->inputs);
            }
            if (l->normed)
                total += squares(l->norm_scale_.gradient, l->inputs) + squares(l->norm_shift_.gradient, l->inputs);
            if (l->units)
                total += squares(l->unit_.gradient, l->unit_.size);
        }
        if (l->bias) {
            memset(l->bias_.gradient, 0, sizeof(float) * l->columns);
            for (int r = 0; r < rows; r++)
                for (int c = 0; c < l->columns; c++)
                    l->bias_.gradient[c] += l->delta[(int64_t)r * l->columns + c];
            total += squares(l->bias_.gradient, l->columns);
        }
        if (!streamed)
            total += weight_gradient(l, row, rows);
    }
    return total;
}

static void update(Head *h, int rows, Update u)
{
    for (int n = 0; n < h->layers; n++) {
        Layer *l = &h->layer[n];
        if (l->bias)
            update_tensor(&l->bias_, u);
        if (l->normed) {
            update_tensor(&l->norm_scale_, u);
            update_tensor(&l->norm_shift_, u);
        }
        if (l->units) {
            update_tensor(&l->unit_, u);
        }
        const float *own[rows], *const *row = h->row;
        if (n || !h->ready) {
            for (int r = 0; r < rows; r++)
                own[r] = l->expansion + (int64_t)r * l->stride;
            row = own;
        }
        weight_update(l, row, rows, u);
    }
}

/* The rows `at` of `source`, as the first layer takes them. */
static void take(Head *h, const float *source, int64_t width, const int64_t *at, int rows)
{
    for (int r = 0; r < rows; r++)
        if (h->ready)
            h->row[r] = source + at[r] * width;
        else
            memcpy(h->layer[0].input + (int64_t)r * spaced((int)width), source + at[r] * width, sizeof(float) * width);
}

/* Train on `steps` minibatches of `batch` rows (the last one has `last`). `source` holds the training rows as the first
   layer takes them, `width` numbers each; `order` their numbers, step after step. The learning rate of step t is
   lr * (1 - t / all_steps), t counting from `done`. Adds each row's loss before its step to *loss. Returns the step
   (from `done`) whose loss or gradient was not finite, where it stops, or -1. */
static int64_t train_steps(Head *h, const float *source, int64_t width, const int64_t *order, const void *targets,
                           int64_t batch, int64_t steps, int64_t last, int64_t done, int64_t all_steps, double *loss)
{
    for (int64_t step = 0; step < steps && !*h->stop; step++) {
        const int rows = (int)(step == steps - 1 ? last : batch);
        const int64_t *at = order + step * batch, t = done + step;
        take(h, source, width, at, rows);
        forward(h, rows);
        join_stacks(h, rows);
        const double now = output_gradient(h, &h->layer[h->layers - 1], rows, at, targets);
        share_delta(h, rows);
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

/* out[count, classes]: outputs for the rows `at` of `source`, `batch` at a time. */
void head_outputs(Head *h, const float *source, int64_t width, const int64_t *at, int64_t count, int64_t batch,
                  float *out)
{
    const unsigned mode = flush_denormals();
    const Layer *last = &h->layer[h->layers - 1];
    for (int64_t start = 0; start < count && !*h->stop; start += batch) {
        const int rows = (int)(count - start < batch ? count - start : batch);
        take(h, source, width, at + start, rows);
        forward(h, rows);
        join_stacks(h, rows);
        for (int r = 0; r < rows; r++)
            memcpy(out + (start + r) * h->classes, last->output + (int64_t)r * last->columns,
                   sizeof(float) * h->classes);
    }
    restore(mode);
}
