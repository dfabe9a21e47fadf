/* The three matrix products of a step, blocked for registers.

   A block is as many accumulators as the instruction set has registers for. */
#include <string.h>

#include "head.h"

#if defined(__AVX512F__)
enum { MOST_SUMS = 24, BLOCK_VECTORS = 4, MOST_VECTORS = 5 };
#elif defined(__AVX__)
enum { MOST_SUMS = 12, BLOCK_VECTORS = 2, MOST_VECTORS = 2 };
#else
enum { MOST_SUMS = 8, BLOCK_VECTORS = 2, MOST_VECTORS = 2 };
#endif

/* How element (r, k) of the left factor is found: left[r][at + k]; or TURNED left[k][at + r]; or PAIRED two numbers from
   left[r][2 (at + k)] on, which stand in turn for the columns: even ones take the first, odd ones the second. */
enum { STRAIGHT, TURNED, PAIRED };

static inline vector repeated(const float *from, const int paired)
{
    if (paired) {
        typedef double doubles __attribute__((vector_size(4 * LANES)));
        double both;
        memcpy(&both, from, sizeof both);
        return (vector)(both - (doubles){0});
    }
    return *from - (vector){0};
}

/* out[r, c] += sum over k of left(r, k) * right[k, c] for r < ROWS and VECTORS vectors of columns, of which the last one
   begins at column `last` and may repeat half of the one before; without ADD, out is overwritten. Constants, once inlined,
   unroll into registers. */
#define COLUMN(v) ((v) == VECTORS - 1 ? last : (v) * LANES)
static inline __attribute__((always_inline)) void block(
    const float *const *left, int count, const float *right, int64_t right_stride, float *out, int64_t out_stride,
    const int ROWS, const int VECTORS, const int MODE, const int ADD, int64_t at, int last)
{
    vector sum[MOST_SUMS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++)
            sum[r * VECTORS + v] = ADD ? *(const vector *)(out + r * out_stride + COLUMN(v)) : (vector){0};
    for (int k = 0; k < count; k++) {
        vector x[MOST_VECTORS];
        for (int v = 0; v < VECTORS; v++)
            x[v] = *(const vector *)(right + k * right_stride + COLUMN(v));
        for (int r = 0; r < ROWS; r++) {
            const vector factor = repeated(MODE == TURNED ? left[k] + at + r : left[r] + (at + k) * (MODE == PAIRED ? 2 : 1),
                                           MODE == PAIRED);
            for (int v = 0; v < VECTORS; v++)
                sum[r * VECTORS + v] += factor * x[v];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++)
            *(vector *)(out + r * out_stride + COLUMN(v)) = sum[r * VECTORS + v];
}
#undef COLUMN

static inline __attribute__((always_inline)) void rows_block(
    const float *const *left, int rows, int count, const float *right, int64_t right_stride, float *out,
    int64_t out_stride, const int VECTORS, const int MODE, const int ADD, int64_t at, int last)
{
    const int ROWS = VECTORS == 1 ? MOST_SUMS / 2 : MOST_SUMS / VECTORS;
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        block(MODE == TURNED ? left : left + r, count, right, right_stride, out + r * out_stride, out_stride, ROWS, VECTORS,
              MODE, ADD, MODE == TURNED ? at + r : at, last);
    for (; r + 4 <= rows; r += 4)
        block(MODE == TURNED ? left : left + r, count, right, right_stride, out + r * out_stride, out_stride, 4, VECTORS,
              MODE, ADD, MODE == TURNED ? at + r : at, last);
    for (; r < rows; r++)
        block(MODE == TURNED ? left : left + r, count, right, right_stride, out + r * out_stride, out_stride, 1, VECTORS,
              MODE, ADD, MODE == TURNED ? at + r : at, last);
}

/* out[rows, columns] = (or, with ADD, +=) left[rows, count] right[count, columns]; columns are a multiple of 8, and LANES at
   least. */
static inline __attribute__((always_inline)) void multiply(
    const float *const *left, int rows, int count, const float *right, int columns, float *out, const int MODE,
    const int ADD, int64_t at)
{
    for (int c = 0; c < columns;) {
        /* Every pass reads all of `left`, so that the last columns go together: 5 vectors as 5, 6 as 3 and 3. Half a
           vector at the end is never alone in a pass: it is taken as a whole one that begins half a vector earlier. */
        const int have = (columns - c + LANES - 1) / LANES;
        const int take = have < BLOCK_VECTORS ? have : BLOCK_VECTORS > 2 && have == 5 ? 5
                         : BLOCK_VECTORS > 2 && have == 6 ? 3 : BLOCK_VECTORS;
        const int rest = columns - c - LANES, last = rest < (take - 1) * LANES ? rest : (take - 1) * LANES;
        if (BLOCK_VECTORS > 2 && take == 5)
            rows_block(left, rows, count, right + c, columns, out + c, columns, 5, MODE, ADD, at, last);
        else if (BLOCK_VECTORS > 2 && take == 4)
            rows_block(left, rows, count, right + c, columns, out + c, columns, 4, MODE, ADD, at, last);
        else if (BLOCK_VECTORS > 2 && take == 3)
            rows_block(left, rows, count, right + c, columns, out + c, columns, 3, MODE, ADD, at, last);
        else if (take == 2)
            rows_block(left, rows, count, right + c, columns, out + c, columns, 2, MODE, ADD, at, last);
        else
            rows_block(left, rows, count, right + c, columns, out + c, columns, 1, MODE, ADD, at, last);
        c += take * LANES;
    }
}

#if defined(__GNUC__) && !defined(__clang__)
/* A square of LANES x LANES numbers on its side: at every stage each vector swaps half of its lanes with another's. */
static inline void turn_square(vector *square)
{
    typedef int32_t numbers __attribute__((vector_size(4 * LANES)));
#pragma GCC unroll 4
    for (int s = LANES / 2; s; s /= 2) {
        numbers low, high;
#pragma GCC unroll 16
        for (int j = 0; j < LANES; j++) {
            low[j] = j & s ? LANES + j - s : j;
            high[j] = j & s ? LANES + j : j + s;
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (!(i & s)) {
                const vector one = square[i], two = square[i + s];
                square[i] = __builtin_shuffle(one, two, low);
                square[i + s] = __builtin_shuffle(one, two, high);
            }
    }
}
#else
static inline void turn_square(vector *square)
{
    float *at = (float *)square;
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            const float kept = at[i * LANES + j];
            at[i * LANES + j] = at[j * LANES + i];
            at[j * LANES + i] = kept;
        }
}
#endif

/* to[k, i] = from[i, k] for i < wide and k < count (LANES or more); rows of `to` are filled up with zeros. */
void turn(const float *from, int64_t stride, int wide, int count, float *to, int to_stride)
{
    for (int i = 0; i < to_stride; i += LANES)
        for (int start = 0; start < count; start += LANES) {
            const int k = start < count - LANES ? start : count - LANES; /* the last square may repeat a half */
            vector square[LANES];
            for (int r = 0; r < LANES; r++)
                square[r] = i + r < wide ? *(const vector *)(from + (i + r) * stride + k) : (vector){0};
            turn_square(square);
            for (int r = 0; r < LANES; r++)
                *(vector *)(to + (int64_t)(k + r) * to_stride + i) = square[r];
        }
}

/* out[rows, columns] = expansion[rows, features] weights[features, columns], a tile of the weights at a time so that it
   stays in the first-level cache for all rows. */
void product(const Layer *l, const float *const *row, int rows, float *out)
{
    memset(out, 0, sizeof(float) * rows * l->columns);
    for (int from = 0; from < l->features; from += TILE) {
        const int count = l->features - from < TILE ? l->features - from : TILE;
        multiply(row, rows, count, scaled_weights(l, from, from + count), l->columns, out, STRAIGHT, 1, from);
    }
}

/* out[to - from, columns] = expansion[rows, from:to] transposed, times delta[rows, columns]. */
void product_gradient(const float *const *row, int rows, int from, int to, const float *delta, int columns, float *out)
{
    multiply(row, to - from, rows, delta, columns, out, TURNED, 0, from);
}

/* out[rows, WIDE] = delta[start:start + rows, columns] weights[from:from + wide, columns] transposed, for `wide` up to
   WIDE and `rows` up to MOST_ROWS. */
static void product_backward_tile(const Layer *l, int start, int rows, int from, int wide, float *out)
{
    const int columns = l->columns;
    const float *weight = scaled_weights(l, from, from + wide), *left[MOST_ROWS];
    float turned[WIDE * 256];
    memset(out, 0, sizeof(float) * rows * WIDE);
    for (int c = 0; c < columns; c += 256) {
        const int count = columns - c < 256 ? columns - c : 256;
        turn(weight + c, columns, wide, count, turned, WIDE);
        for (int r = 0; r < rows; r++)
            left[r] = l->delta + (int64_t)(start + r) * columns + c;
        multiply(left, rows, count, turned, WIDE, out, STRAIGHT, 1, 0);
    }
}

/* out[rows, features] = delta[rows, columns] weights[features, columns] transposed. */
void product_backward(const Layer *l, int rows, float *out)
{
    float tile[MOST_ROWS * WIDE];
    for (int f = 0; f < l->features; f += WIDE)
        for (int start = 0; start < rows; start += MOST_ROWS) {
            const int wide = l->features - f < WIDE ? l->features - f : WIDE;
            const int some = rows - start < MOST_ROWS ? rows - start : MOST_ROWS;
            product_backward_tile(l, start, some, f, wide, tile);
            for (int r = 0; r < some; r++)
                memcpy(out + (int64_t)(start + r) * l->stride + f, tile + r * WIDE, sizeof(float) * wide);
        }
}

/* With rows as lanes: out[outputs, rows] += weight[wide, outputs] transposed, times value[wide, rows]. */
void lanes_forward(const float *const *weight, int wide, int outputs, const float *value, int rows, float *out)
{
    multiply(weight, outputs, wide, value, rows, out, TURNED, 1, 0);
}

/* out[wide, rows] = weight[wide, outputs] delta[outputs, rows]. */
void lanes_backward(const float *const *weight, int wide, int outputs, const float *delta, int rows, float *out)
{
    multiply(weight, wide, outputs, delta, rows, out, STRAIGHT, 0, 0);
}

/* to[2 r] = a[r], to[2 r + 1] = b[r] */
static inline void pair_up(const float *a, const float *b, int rows, float *to)
{
    for (int r = 0; r < rows; r += LANES) {
        const vector one = *(const vector *)(a + r), two = *(const vector *)(b + r);
        *(vector *)(to + 2 * r) = in_turn(one, two, 0);
        *(vector *)(to + 2 * r + LANES) = in_turn(one, two, 1);
    }
}

/* Columns that take turns, from[columns, 2], become (or, where `add`, are added to) out[2, columns]; the second row only
   where there are `both`. The columns end with half a vector. */
static inline void unpair(const float *from, int columns, int both, int add, float *out)
{
    for (int c = 0; c < columns; c += LANES, from += 2 * LANES) {
        const int whole = c + LANES <= columns;
        const vector one = *(const vector *)from, two = whole ? *(const vector *)(from + LANES) : one;
        for (int f = 0; f <= both; f++) {
            float *to = out + f * columns + c;
            vector found = f ? every_other(one, two, 1) : every_other(one, two, 0);
            if (whole) {
                if (add)
                    found += *(vector *)to;
                *(vector *)to = found;
                continue;
            }
            float half[LANES] = {0};
            if (add)
                memcpy(half, to, sizeof(float) * LANES / 2);
            found += *(const vector *)half;
            memcpy(to, &found, sizeof(float) * LANES / 2);
        }
    }
}

/* out[wide, columns] = (or, where `add`, +=) value[wide, rows] delta[rows, columns], of value's rows of `stride`.

   Columns that end with half a vector are taken for two features at a time, whose columns take turns: that fills all
   vectors. `twice` [rows, columns, 2] has every element of delta twice. */
void lanes_gradient(const float *value, int stride, int wide, const float *delta, const float *twice, int rows, int columns,
                    int add, float *out)
{
    const float *row[WIDE];
    if (columns % LANES == 0) {
        for (int f = 0; f < wide; f++)
            row[f] = value + f * stride;
        if (add)
            multiply(row, wide, rows, delta, columns, out, STRAIGHT, 1, 0);
        else
            multiply(row, wide, rows, delta, columns, out, STRAIGHT, 0, 0);
        return;
    }
    const int pairs = (wide + 1) / 2;
    float pair[WIDE * MOST_ROWS], found[pairs * columns * 2];
    for (int p = 0; p < pairs; p++) {
        const float *a = value + 2 * p * stride;
        pair_up(a, 2 * p + 1 < wide ? a + stride : a, stride, pair + 2 * p * stride);
        row[p] = pair + 2 * p * stride;
    }
    multiply(row, pairs, rows, twice, 2 * columns, found, PAIRED, 0, 0);
    for (int p = 0; p < pairs; p++)
        if (add)
            unpair(found + 2 * p * columns, columns, 2 * p + 1 < wide, 1, out + 2 * p * columns);
        else
            unpair(found + 2 * p * columns, columns, 2 * p + 1 < wide, 0, out + 2 * p * columns);
}
