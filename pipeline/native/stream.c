/* The first layers of stacks, whose input needs no gradient, a tile of features at a time.

   With many rows an expansion is larger than a core's own caches. Its bases cost less to evaluate twice, forward and
   backward, than to write once and read three times, so that no tile ever leaves the first-level cache. */
#include <string.h>

#include "head.h"

/* Features [from, from + wide), which one branch makes of `some` inputs, the first of them `input`. */
typedef struct {
    const Branch *branch;
    int input, some, from, wide;
} Tile;

static Tile tile_of(const Layer *l, const Branch *branch, int input, int first)
{
    const int most = WIDE / branch->width, left = l->inputs - input, some = left < most ? left : most;
    return (Tile){branch, input, some, first + input * branch->width, some * branch->width};
}

static inline __attribute__((always_inline)) void affine_any(
    const float *from, int stride, int rows, int some, const float *scale, const float *shift, float *z)
{
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < some; k++)
            z[r * some + k] = from[(int64_t)r * stride + k] * scale[k] + shift[k];
}

/* z[rows, some]: what the tile's basis reads, of rows [start, start + rows). */
static void tile_inputs(const Layer *l, Tile t, int start, int rows, float *z)
{
    const float *from = (t.branch->normed ? l->normal : l->input) + (int64_t)start * spaced(l->inputs) + t.input;
    float scale[WIDE], shift[WIDE];
    for (int k = 0; k < t.some; k++) {
        scale[k] = t.branch->normed ? l->norm_scale_.value[t.input + k] : 1;
        shift[k] = t.branch->normed ? l->norm_shift_.value[t.input + k] : 0;
    }
    if (t.some == 8) /* unrolls */
        affine_any(from, spaced(l->inputs), rows, 8, scale, shift, z);
    else
        affine_any(from, spaced(l->inputs), rows, t.some, scale, shift, z);
}

/* Asks for a tile's weights, which arrive while its basis is evaluated. */
static void prefetch(const Layer *l, Tile t)
{
    for (int64_t at = 0; at < (int64_t)t.wide * l->columns; at += 16)
        __builtin_prefetch(l->weight_.value + (int64_t)t.from * l->columns + at);
}

static void point_at_rows(const float *from, int64_t stride, int rows, const float **row)
{
    for (int r = 0; r < rows; r++)
        row[r] = from + r * stride;
}

/* Adds the tile's part of the norm's gradients, from z[rows, some] and value[rows, wide]. */
static void norm_gradients(const Layer *l, Tile t, int start, int rows, const float *z, const float *value)
{
    float gradient[MOST_ROWS * WIDE], dz[MOST_ROWS * WIDE];
    product_backward_tile(l, start, rows, t.from, t.wide, gradient);
    for (int r = 1; r < rows && t.wide < WIDE; r++)
        memmove(gradient + r * t.wide, gradient + r * WIDE, sizeof(float) * t.wide);
    memset(dz, 0, sizeof(float) * rows * t.some);
    basis_backward(l, t.branch, z, rows * t.some, value, gradient, dz);
    for (int r = 0; r < rows; r++) {
        const float *n = l->normal + (int64_t)(start + r) * spaced(l->inputs) + t.input, *d = dz + r * t.some;
        for (int k = 0; k < t.some; k++) {
            l->norm_scale_.gradient[t.input + k] += d[k] * n[k];
            l->norm_shift_.gradient[t.input + k] += d[k];
        }
    }
}

static int tiles_fit(const Layer *l)
{
    for (int b = 0; b < l->branches; b++)
        if (l->branch[b].width > WIDE)
            return 0;
    return !l->units;
}

int streams(const Layer *l, int rows) { return rows > FEW_ROWS && tiles_fit(l); }

void stream(const Layer *l, int rows, float *out)
{
    float z[MOST_ROWS * WIDE], value[MOST_ROWS * WIDE];
    const float *row[MOST_ROWS];
    if (l->normed)
        normalise(l, rows);
    memset(out, 0, sizeof(float) * rows * l->columns);
    for (int b = 0, first = 0; b < l->branches; first += l->inputs * l->branch[b++].width)
        for (int i = 0; i < l->inputs;) {
            const Tile t = tile_of(l, &l->branch[b], i, first);
            prefetch(l, t);
            for (int start = 0; start < rows; start += MOST_ROWS) {
                const int some = rows - start < MOST_ROWS ? rows - start : MOST_ROWS;
                tile_inputs(l, t, start, some, z);
                basis_values(l, t.branch, z, some * t.some, value);
                point_at_rows(value, t.wide, some, row);
                product_tile(l, row, some, t.from, t.wide, out + (int64_t)start * l->columns);
            }
            i += t.some;
        }
}

int stream_backward(const Layer *l, int rows, double *total)
{
    float z[MOST_ROWS * WIDE], value[MOST_ROWS * WIDE];
    const float *row[MOST_ROWS];
    if (!tiles_fit(l))
        return 0;
    if (l->normed) {
        memset(l->norm_scale_.gradient, 0, sizeof(float) * l->inputs);
        memset(l->norm_shift_.gradient, 0, sizeof(float) * l->inputs);
    }
    for (int b = 0, first = 0; b < l->branches; first += l->inputs * l->branch[b++].width)
        for (int i = 0; i < l->inputs && (rows > FEW_ROWS || l->branch[b].normed);) {
            const Tile t = tile_of(l, &l->branch[b], i, first);
            float *gradient = l->weight_.gradient + (int64_t)t.from * l->columns;
            if (rows > FEW_ROWS) {
                prefetch(l, t);
                memset(gradient, 0, sizeof(float) * t.wide * l->columns);
            }
            for (int start = 0; start < rows; start += MOST_ROWS) {
                const int some = rows - start < MOST_ROWS ? rows - start : MOST_ROWS;
                tile_inputs(l, t, start, some, z);
                basis_values(l, t.branch, z, some * t.some, value);
                if (t.branch->normed)
                    norm_gradients(l, t, start, some, z, value);
                point_at_rows(value, t.wide, some, row);
                if (rows > FEW_ROWS)
                    product_gradient(row, some, 0, t.wide, l->delta + (int64_t)start * l->columns, l->columns, gradient);
            }
            if (rows > FEW_ROWS)
                *total += strip_squares(l, t.from, t.from + t.wide, gradient);
            i += t.some;
        }
    if (rows > FEW_ROWS && l->scaler)
        *total += squares(l->scaler_.gradient, l->scaler_.size);
    return 1;
}
