/* What lies between the matrix products of a BERT-shaped encoder, for tokens of many rows end to end, each in one pass.

   The products themselves are the caller's. Their biases are added here, where their results are read anyway. */
#include <math.h>

#include "vectors.h"

#if defined(__AVX512F__)
enum { SUMS = 24, BLOCK = 4 };
#elif defined(__AVX__)
enum { SUMS = 12, BLOCK = 4 };
#else
enum { SUMS = 8, BLOCK = 2 };
#endif
enum { QUERIES = SUMS / 2 }; /* that are taken at once */
enum { MOST_HEAD = 512 };    /* width of an attention head, at most */

/* out[r, c] = sum over k of left[r, k] * right[k, c], for ROWS rows and VECTORS vectors of columns. */
INLINE void block(
    const float *left, int64_t left_stride, const float *right, int64_t right_stride, int depth, float *out,
    int64_t out_stride, const int ROWS, const int VECTORS)
{
    vector sum[SUMS] = {0};
    for (int k = 0; k < depth; k++) {
        vector x[BLOCK];
        for (int v = 0; v < VECTORS; v++)
            x[v] = *(const vector *)(right + k * right_stride + v * LANES);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < VECTORS; v++)
                sum[r * VECTORS + v] += left[r * left_stride + k] * x[v];
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++)
            *(vector *)(out + r * out_stride + v * LANES) = sum[r * VECTORS + v];
}

INLINE void blocks(
    const float *left, int64_t left_stride, int rows, const float *right, int64_t right_stride, int depth, float *out,
    int64_t out_stride, const int VECTORS)
{
    const int MANY = VECTORS == 1 ? SUMS / 2 : SUMS / VECTORS, SOME = (MANY + 2) / 3;
    int r = 0;
    for (; r + MANY <= rows; r += MANY)
        block(left + r * left_stride, left_stride, right, right_stride, depth, out + r * out_stride, out_stride, MANY,
              VECTORS);
    for (; r + SOME <= rows; r += SOME)
        block(left + r * left_stride, left_stride, right, right_stride, depth, out + r * out_stride, out_stride, SOME,
              VECTORS);
    for (; r < rows; r++)
        block(left + r * left_stride, left_stride, right, right_stride, depth, out + r * out_stride, out_stride, 1,
              VECTORS);
}

/* out[rows, columns] = left[rows, depth] right[depth, columns], columns rounded up to whole vectors. */
static void product_of(
    const float *left, int64_t left_stride, int rows, const float *right, int64_t right_stride, int depth, int columns,
    float *out, int64_t out_stride)
{
    for (int c = 0; c < columns; c += BLOCK * LANES) {
        const int vectors = (columns - c + LANES - 1) / LANES;
        if (vectors >= 4 && BLOCK == 4)
            blocks(left, left_stride, rows, right + c, right_stride, depth, out + c, out_stride, BLOCK);
        else if (vectors == 3 && BLOCK == 4)
            blocks(left, left_stride, rows, right + c, right_stride, depth, out + c, out_stride, 3);
        else if (vectors >= 2)
            blocks(left, left_stride, rows, right + c, right_stride, depth, out + c, out_stride, 2);
        else
            blocks(left, left_stride, rows, right + c, right_stride, depth, out + c, out_stride, 1);
    }
}

/* Replaces scores x[count] by exp(x - their maximum) and returns 1 / the sum of these. Writes up to the next whole
   vector. */
static inline float weigh(float *x, int count)
{
    const int end = (count + LANES - 1) / LANES * LANES;
    float most[LANES], total = 0;
    vector sum = {0};
    for (int i = count; i < end; i++)
        x[i] = -1e30f;
    for (int l = 0; l < LANES; l++)
        most[l] = x[l];
    for (int i = LANES; i < end; i += LANES)
        for (int l = 0; l < LANES; l++)
            most[l] = at_least(x[i + l], most[l]);
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            most[l] = at_least(most[l], most[l + half]);
    for (int i = 0; i < end; i += LANES) {
        const vector y = exponentials(*(const vector *)(x + i) - most[0]);
        *(vector *)(x + i) = y;
        sum += y;
    }
    for (int l = 0; l < LANES; l++)
        total += sum[l];
    return 1 / total;
}

/* Asks for `lines` pieces of `count` numbers, `stride` apart. */
static inline void ask_for(const float *x, int64_t stride, int lines, int count)
{
    for (int r = 0; r < lines; r++) {
        for (int i = 0; i < count; i += 16)
            __builtin_prefetch(x + r * stride + i);
        __builtin_prefetch(x + r * stride + count - 1);
    }
}

/* Attention inside each of `rows` rows, of which row i is the tokens [bounds[i], bounds[i + 1]).

   Queries and values of token t are at qv[t * qv_stride], `heads` * `width` each, one behind the other; keys lie turned,
   keys[feature * key_stride + t], so that a product with them needs no shuffling. `bias` is that of queries and values
   (that of the keys adds the same to all scores of a query, which softmax does not see). All three have LANES numbers
   behind what is meant that may be read. `work` has QUERIES * (the longest row + LANES) numbers. Out is [tokens, heads *
   width]. */
void encoder_attend(
    const float *qv, int64_t qv_stride, const float *keys, int64_t key_stride, const float *bias, int heads, int width,
    const int32_t *bounds, int rows, float *out, float *work)
{
    const int64_t all = (int64_t)heads * width;
    const float scale = 1 / sqrtf((float)width);
    const int wide = (width + LANES - 1) / LANES * LANES;
    float query[QUERIES * MOST_HEAD], mixed[QUERIES * MOST_HEAD];
    for (int row = 0; row < rows; row++) {
        const int64_t start = bounds[row];
        const int length = bounds[row + 1] - bounds[row], stride = (length + LANES - 1) / LANES * LANES;
        for (int head = 0; head < heads; head++) {
            const float *q = qv + start * qv_stride + (int64_t)head * width, *v = q + all;
            const float *q_bias = bias + (int64_t)head * width, *v_bias = q_bias + all;
            const float *k = keys + (int64_t)head * width * key_stride + start;
            if (head + 1 < heads) { /* pieces too short and too far apart for the processor to see them coming */
                ask_for(q + width, qv_stride, length, width);
                ask_for(v + width, qv_stride, length, width);
                ask_for(k + width * key_stride, key_stride, width, length);
                for (int r = 0; r < length; r++)
                    for (int i = 0; i < width; i += 16)
                        __builtin_prefetch(out + (start + r) * all + (head + 1) * width + i, 1);
            }
            for (int first = 0; first < length; first += QUERIES) {
                const int some = length - first < QUERIES ? length - first : QUERIES;
                float share[QUERIES];
                for (int r = 0; r < some; r++)
                    for (int i = 0; i < width; i += LANES)
                        *(vector *)(query + r * wide + i) =
                            (*(const vector *)(q + (first + r) * qv_stride + i) + *(const vector *)(q_bias + i)) * scale;
                product_of(query, wide, some, k, key_stride, width, length, work, stride);
                for (int r = 0; r < some; r++)
                    share[r] = weigh(work + (int64_t)r * stride, length);
                product_of(work, stride, some, v, qv_stride, length, width, mixed, wide);
                for (int r = 0; r < some; r++) {
                    float *to = out + (start + first + r) * all + (int64_t)head * width;
                    int i = 0;
                    for (; i + LANES <= width; i += LANES)
                        *(vector *)(to + i) =
                            *(const vector *)(mixed + r * wide + i) * share[r] + *(const vector *)(v_bias + i);
                    for (; i < width; i++)
                        to[i] = mixed[r * wide + i] * share[r] + v_bias[i];
                }
            }
        }
    }
}

/* x = the layer norm of x[width], whose sum is given. */
static inline void norm(float *x, int width, float sum, const float *scale, const float *shift, float epsilon)
{
    const float mean = sum / width;
    float squares = 0;
    for (int i = 0; i < width; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    const float factor = 1 / sqrtf(squares / width + epsilon);
    for (int i = 0; i < width; i++)
        x[i] = (x[i] - mean) * factor * scale[i] + shift[i];
}

/* out = the layer norm of x + bias + residual, each [tokens, width]; out may be any of them. */
void encoder_add_norm(
    const float *x, const float *bias, const float *residual, int64_t tokens, int width, const float *scale,
    const float *shift, float epsilon, float *out)
{
    for (int64_t t = 0; t < tokens; t++) {
        const float *a = x + t * width, *b = residual + t * width;
        float *to = out + t * width, sum = 0;
        for (int i = 0; i < width; i++) {
            const float value = a[i] + bias[i] + b[i];
            to[i] = value;
            sum += value;
        }
        norm(to, width, sum, scale, shift, epsilon);
    }
}

/* out[tokens, width] = the layer norm of a word's, a position's and a type's embedding; `types` may be null. `sizes` are
   the rows of the three tables. Returns 0 where a number is beyond them, else 1. */
int32_t encoder_embed(
    const int64_t *ids, const int64_t *positions, const int64_t *types, const float *words, const float *places,
    const float *kinds, const int64_t *sizes, int64_t tokens, int width, const float *scale, const float *shift,
    float epsilon, float *out)
{
    for (int64_t t = 0; t < tokens; t++) {
        if ((uint64_t)ids[t] >= (uint64_t)sizes[0] || (uint64_t)positions[t] >= (uint64_t)sizes[1] ||
            (types && (uint64_t)types[t] >= (uint64_t)sizes[2]))
            return 0;
        const float *a = words + ids[t] * width, *b = places + positions[t] * width;
        const float *c = types ? kinds + types[t] * width : 0;
        float *to = out + t * width, sum = 0;
        for (int i = 0; i < width; i++) {
            const float value = a[i] + b[i] + (c ? c[i] : 0);
            to[i] = value;
            sum += value;
        }
        norm(to, width, sum, scale, shift, epsilon);
    }
    return 1;
}

/* GELU(x) = x / 2 * (1 + erf(x / sqrt(2))) to 3e-7 times |x|: erf by Abramowitz and Stegun's 7.1.26 (1.5e-7 by itself),
   with which the product by x needs no sign; libm's erf is a call a number. */
INLINE vector gelu(vector x)
{
    const vector size = magnitude(x), t = inverse(1 + 0.231641888f * size);
    const vector p =
        ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    return larger(x, 0) - 0.5f * size * p * exponentials(-0.5f * x * x);
}

/* x[tokens, width] = GELU(x + bias). */
void encoder_gelu(float *x, const float *bias, int64_t tokens, int width)
{
    for (int64_t t = 0; t < tokens; t++) {
        float *to = x + t * width;
        int i = 0;
        for (; i + LANES <= width; i += LANES)
            *(vector *)(to + i) = gelu(*(const vector *)(to + i) + *(const vector *)(bias + i));
        vector rest = {0};
        for (int l = 0; i + l < width; l++)
            rest[l] = to[i + l] + bias[i + l];
        rest = gelu(rest);
        for (int l = 0; i + l < width; l++)
            to[i + l] = rest[l];
    }
}
