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

/* out[r, c] += sum over k of left(r, k) * right[k, c] for r < ROWS and VECTORS vectors of columns, of which the last one
   begins at column `last` and may repeat half of the one before. left(r, k) is pointer[r][k], or pointer[k][r] where
   TURNED. Constants, once inlined, unroll into registers. */
#define COLUMN(v) ((v) == VECTORS - 1 ? last : (v) * LANES)
static inline __attribute__((always_inline)) void block(
    const float *const *left, int count, const float *right, int64_t right_stride, float *out, int64_t out_stride,
    const int ROWS, const int VECTORS, const int TURNED, int64_t at, int last)
{
    vector sum[MOST_SUMS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++)
            sum[r * VECTORS + v] = *(const vector *)(out + r * out_stride + COLUMN(v));
    for (int k = 0; k < count; k++) {
        vector x[MOST_VECTORS];
        for (int v = 0; v < VECTORS; v++)
            x[v] = *(const vector *)(right + k * right_stride + COLUMN(v));
        for (int r = 0; r < ROWS; r++) {
            const float factor = TURNED ? left[k][at + r] : left[r][at + k];
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
    int64_t out_stride, const int VECTORS, const int TURNED, int64_t at, int last)
{
    const int ROWS = VECTORS == 1 ? MOST_SUMS / 2 : MOST_SUMS / VECTORS;
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        block(TURNED ? left : left + r, count, right, right_stride, out + r * out_stride, out_stride, ROWS, VECTORS,
              TURNED, TURNED ? at + r : at, last);
    for (; r + 4 <= rows; r += 4)
        block(TURNED ? left : left + r, count, right, right_stride, out + r * out_stride, out_stride, 4, VECTORS,
              TURNED, TURNED ? at + r : at, last);
    for (; r < rows; r++)
        block(TURNED ? left : left + r, count, right, right_stride, out + r * out_stride, out_stride, 1, VECTORS,
              TURNED, TURNED ? at + r : at, last);
}

/* out[rows, columns] += left[rows, count] right[count, columns]; columns are a multiple of 8, and LANES at least. Element
   (r, k) of left is left[r][at + k], or left[k][at + r] where TURNED. */
static inline __attribute__((always_inline)) void multiply(
    const float *const *left, int rows, int count, const float *right, int columns, float *out, const int TURNED,
    int64_t at)
{
    for (int c = 0; c < columns;) {
        /* Every pass reads all of `left`, so that the last columns go together: 5 vectors as 5, 6 as 3 and 3. Half a
           vector at the end is never alone in a pass: it is taken as a whole one that begins half a vector earlier. */
        const int have = (columns - c + LANES - 1) / LANES;
        const int take = have < BLOCK_VECTORS ? have : BLOCK_VECTORS > 2 && have == 5 ? 5
                         : BLOCK_VECTORS > 2 && have == 6 ? 3 : BLOCK_VECTORS;
        const int rest = columns - c - LANES, last = rest < (take - 1) * LANES ? rest : (take - 1) * LANES;
        if (BLOCK_VECTORS > 2 && take == 5)
            rows_block(left, rows, count, right + c, columns, out + c, columns, 5, TURNED, at, last);
        else if (BLOCK_VECTORS > 2 && take == 4)
            rows_block(left, rows, count, right + c, columns, out + c, columns, 4, TURNED, at, last);
        else if (BLOCK_VECTORS > 2 && take == 3)
            rows_block(left, rows, count, right + c, columns, out + c, columns, 3, TURNED, at, last);
        else if (take == 2)
            rows_block(left, rows, count, right + c, columns, out + c, columns, 2, TURNED, at, last);
        else
            rows_block(left, rows, count, right + c, columns, out + c, columns, 1, TURNED, at, last);
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
static void turn(const float *from, int64_t stride, int wide, int count, float *to, int to_stride)
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

/* out[rows, columns] += values[rows, wide] times the weights of features [from, from + wide), TILE at most. */
void product_tile(const Layer *l, const float *const *row, int rows, int from, int wide, float *out)
{
    multiply(row, rows, wide, scaled_weights(l, from, from + wide), l->columns, out, 0, 0);
}

/* out[rows, columns] = expansion[rows, features] weights[features, columns], a tile of the weights at a time so that it
   stays in the first-level cache for all rows. */
void product(const Layer *l, const float *const *row, int rows, float *out)
{
    memset(out, 0, sizeof(float) * rows * l->columns);
    for (int from = 0; from < l->features; from += TILE) {
        const int count = l->features - from < TILE ? l->features - from : TILE;
        multiply(row, rows, count, scaled_weights(l, from, from + count), l->columns, out, 0, from);
    }
}

/* out[to - from, columns] += expansion[rows, from:to] transposed, times delta[rows, columns]. */
void product_gradient(const float *const *row, int rows, int from, int to, const float *delta, int columns, float *out)
{
    multiply(row, to - from, rows, delta, columns, out, 1, from);
}

/* out[rows, WIDE] = delta[start:start + rows, columns] weights[from:from + wide, columns] transposed, for `wide` up to
   WIDE and `rows` up to MOST_ROWS. */
void product_backward_tile(const Layer *l, int start, int rows, int from, int wide, float *out)
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
        multiply(left, rows, count, turned, WIDE, out, 0, 0);
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
