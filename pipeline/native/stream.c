/* The first layers of stacks, whose input needs no gradient, a tile of features at a time.

   With many rows an expansion is larger than a core's own caches. Its bases cost less to evaluate twice, forward and
   backward, than to write once and read three times, so that no tile ever leaves the first-level cache. Rows are the
   lanes of vectors: inputs are turned on their side once, after which neither the bases nor the products with weights
   care how many functions an input or how many columns a matrix has. */
#include <string.h>

#include "head.h"

/* Features [from, from + wide), which one branch makes of `some` inputs, the first of them `input`. */
typedef struct {
    const Branch *branch;
    int input, some, from, wide;
} Tile;

static Tile tile_of(const Layer *l, const Branch *branch, int input, int first)
{
    const int half = WIDE / 2 / branch->width, most = half ? half : 1; /* all that a tile needs fits the first-level cache */
    const int left = l->inputs - input, some = left < most ? left : most;
    return (Tile){branch, input, some, first + input * branch->width, some * branch->width};
}

/* Rows from `start`, at most MOST_ROWS: their number, rounded up to whole vectors, and where they lie on their side. */
typedef struct {
    int start, rows, lanes;
    float *input, *normal, *out, *delta, *twice;
} Block;

static Block block_at(const Layer *l, int start, int rows)
{
    const int some = rows - start < MOST_ROWS ? rows - start : MOST_ROWS, all = (rows + LANES - 1) / LANES * LANES;
    const int64_t inputs = spaced(l->inputs), columns = l->columns;
    float *input = l->turned_input + start * inputs, *normal = l->turned_normal + start * inputs;
    float *out = l->turned + start * columns, *delta = out + all * columns;
    float *twice = l->turned + 2 * (all + start) * columns;
    return (Block){start, some, (some + LANES - 1) / LANES * LANES, input, normal, out, delta, twice};
}

/* What the tile's basis reads, [some, lanes]: in place, or in z where the norm's scale and shift come before. */
static const float *tile_inputs(const Layer *l, Tile t, Block b, float *z)
{
    if (!t.branch->normed)
        return b.input + (int64_t)t.input * b.lanes;
    const float *from = b.normal + (int64_t)t.input * b.lanes;
    for (int k = 0; k < t.some; k++) {
        const float scale = l->norm_scale_.value[t.input + k], shift = l->norm_shift_.value[t.input + k];
        for (int r = 0; r < b.lanes; r++)
            z[k * b.lanes + r] = from[k * b.lanes + r] * scale + shift;
    }
    return z;
}

/* Asks for a tile's weights, and for the place of their gradient, which arrive while its basis is evaluated. */
static void prefetch(const Layer *l, Tile t, int gradient)
{
    for (int64_t at = (int64_t)t.from * l->columns, end = at + (int64_t)t.wide * l->columns; at < end; at += 16) {
        __builtin_prefetch(l->weight_.value + at);
        if (gradient)
            __builtin_prefetch(l->weight_.gradient + at, 1);
    }
}

static void tile_weights(const Layer *l, Tile t, const float **weight)
{
    const float *from = scaled_weights(l, t.from, t.from + t.wide);
    for (int f = 0; f < t.wide; f++)
        weight[f] = from + (int64_t)f * l->columns;
}

/* Adds the tile's part of the norm's gradients, from the bases' slope[wide, lanes]. */
static void norm_gradients(const Layer *l, Tile t, Block b, const float *const *weight, const float *slope)
{
    const int width = t.branch->width, lanes = b.lanes;
    const float *normal = b.normal + (int64_t)t.input * lanes;
    float gradient[WIDE * MOST_ROWS];
    lanes_backward(weight, t.wide, l->outputs, b.delta, lanes, gradient);
    for (int k = 0; k < t.some; k++) {
        vector along = {0}, total = {0};
        for (int r = 0; r < lanes; r += LANES) {
            vector d = {0};
            for (int at = k * width * lanes + r, j = 0; j < width; j++, at += lanes)
                d += *(const vector *)(gradient + at) * *(const vector *)(slope + at);
            along += d * *(const vector *)(normal + k * lanes + r);
            total += d;
        }
        l->norm_scale_.gradient[t.input + k] += sum_of(along);
        l->norm_shift_.gradient[t.input + k] += sum_of(total);
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

/* Puts the input, or its norm, on its side. */
static void turn_rows(const Layer *l, int rows, int normal)
{
    const int stride = spaced(l->inputs), whole = (l->inputs + LANES - 1) / LANES * LANES;
    for (int start = 0; start < rows; start += MOST_ROWS) {
        const Block b = block_at(l, start, rows);
        turn((normal ? l->normal : l->input) + (int64_t)start * stride, stride, b.rows, whole, normal ? b.normal : b.input,
             b.lanes);
    }
}

void prepare_inputs(const Layer *l, int rows, int *input, int *normal)
{
    if (!*input)
        turn_rows(l, rows, 0);
    *input = 1;
    if (!l->normed || *normal)
        return;
    normalise(l, rows);
    turn_rows(l, rows, 1);
    *normal = 1;
}

void stream(const Layer *l, int rows, float *out)
{
    float z[WIDE * MOST_ROWS], value[WIDE * MOST_ROWS];
    const float *weight[WIDE];
    for (int start = 0; start < rows; start += MOST_ROWS) {
        const Block b = block_at(l, start, rows);
        memset(b.out, 0, sizeof(float) * b.lanes * l->outputs);
    }
    for (int n = 0, first = 0; n < l->branches; first += l->inputs * l->branch[n++].width)
        for (int i = 0; i < l->inputs;) {
            const Tile t = tile_of(l, &l->branch[n], i, first);
            prefetch(l, t, 0);
            for (int start = 0; start < rows; start += MOST_ROWS) {
                const Block b = block_at(l, start, rows);
                basis_lanes(l, t.branch, tile_inputs(l, t, b, z), t.some, b.lanes, value, 0);
                if (!start)
                    tile_weights(l, t, weight);
                lanes_forward(weight, t.wide, l->outputs, value, b.lanes, b.out);
            }
            i += t.some;
        }
    for (int start = 0; start < rows; start += MOST_ROWS) {
        const Block b = block_at(l, start, rows);
        for (int r = 0; r < b.rows; r++)
            for (int c = 0; c < l->outputs; c++)
                out[(int64_t)(start + r) * l->columns + c] = b.out[c * b.lanes + r];
    }
}

/* Puts the gradient by the output on its side, and has each of its numbers twice. */
static void turn_delta(const Layer *l, int rows)
{
    for (int start = 0; start < rows; start += MOST_ROWS) {
        const Block b = block_at(l, start, rows);
        memset(b.delta, 0, sizeof(float) * b.lanes * l->outputs);
        for (int r = 0; r < b.rows; r++)
            for (int c = 0; c < l->outputs; c++)
                b.delta[c * b.lanes + r] = l->delta[(int64_t)(start + r) * l->columns + c];
        for (int at = 0; at < b.rows * l->columns; at++)
            b.twice[2 * at] = b.twice[2 * at + 1] = l->delta[(int64_t)start * l->columns + at];
    }
}

int stream_backward(const Layer *l, int rows, int *turned_normal, double *total)
{
    float z[WIDE * MOST_ROWS], value[WIDE * MOST_ROWS], slope[WIDE * MOST_ROWS];
    const float *weight[WIDE];
    if (!tiles_fit(l))
        return 0;
    if (l->normed) {
        memset(l->norm_scale_.gradient, 0, sizeof(float) * l->inputs);
        memset(l->norm_shift_.gradient, 0, sizeof(float) * l->inputs);
    }
    turn_delta(l, rows);
    const int few = rows <= FEW_ROWS;
    if (few) /* forward, no stack was taken in tiles; only normed branches are looked at here */
        prepare_inputs(l, rows, &(int){1}, turned_normal);
    for (int n = 0, first = 0; n < l->branches; first += l->inputs * l->branch[n++].width)
        for (int i = 0; i < l->inputs && (!few || l->branch[n].normed);) {
            const Tile t = tile_of(l, &l->branch[n], i, first);
            float *gradient = l->weight_.gradient + (int64_t)t.from * l->columns;
            prefetch(l, few ? tile_of(l, t.branch, i + t.some < l->inputs ? i + t.some : i, first) : t, !few);
            if (t.branch->normed)
                tile_weights(l, t, weight);
            for (int start = 0; start < rows; start += MOST_ROWS) {
                const Block b = block_at(l, start, rows);
                basis_lanes(l, t.branch, tile_inputs(l, t, b, z), t.some, b.lanes, value, t.branch->normed ? slope : 0);
                if (t.branch->normed)
                    norm_gradients(l, t, b, weight, slope);
                if (!few)
                    lanes_gradient(value, b.lanes, t.wide, l->delta + (int64_t)start * l->columns, b.twice, b.rows,
                                   l->columns, start, gradient);
            }
            if (!few)
                *total += strip_squares(l, t.from, t.from + t.wide, gradient);
            i += t.some;
        }
    if (!few && l->scaler)
        *total += squares(l->scaler_.gradient, l->scaler_.size);
    return 1;
}
