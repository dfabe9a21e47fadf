/* Vectors are the compiler's own, so that the same source serves every instruction set, and the few functions that have
   to be written for them. */
#ifndef KANGLUE_VECTORS_H
#define KANGLUE_VECTORS_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
/* Compilers stop inlining where functions grow large, and a call costs all vector registers. */
#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t numbers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

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

/* The larger number, and `least` for NaN: fmaxf, but in place (compilers call libm for the sake of NaN). */
INLINE float at_least(float x, float least) { return x > least ? x : least; }

/* x where it is larger (smaller) than `bound`, and where it is NaN. */
INLINE vector larger(vector x, float bound)
{
#if defined(__AVX512F__)
    return (vector)_mm512_max_ps(_mm512_set1_ps(bound), (__m512)x);
#else
    const numbers below = x < bound;
    return (vector)((below & (numbers)(bound - (vector){0})) | (~below & (numbers)x));
#endif
}

INLINE vector smaller(vector x, float bound) { return -larger(-x, -bound); }

INLINE vector magnitude(vector x) { return (vector)((numbers)x & 0x7fffffff); }

/* exp(x) in fewer operations: x = n ln 2 + r, and exp(r) from the polynomial of degree five whose largest relative error
   on |r| < ln 2 / 2 is smallest. It is off by two units in the last place up to |x| = 10 and by three beyond. Adding 1.5
   times 2^23 leaves n in the last bits of a float. */
INLINE vector exponentials(vector x)
{
    x = larger(smaller(x, 88), -87);
    const numbers n = (numbers)(x * 1.44269504f + 12582912.0f) - 0x4b400000;
    const vector r = x - __builtin_convertvector(n, vector) * 0.69314718f;
    const vector p = 1 + r * (1 + r * (0.49999231f + r * (0.16667114f + r * (0.041890126f + r * 0.0083125252f))));
    return (vector)((numbers)p + n * (1 << 23));
}

INLINE float sum_of(vector x)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float total = 0;
    for (int k = 0; k < LANES; k++)
        total += x[k];
    return total;
#endif
}

/* Hardware division is slow: a 14-bit approximation and a step of Newton's is as exact to a unit in the last place. */
INLINE vector inverse(vector x)
{
#if defined(__AVX512F__)
    const vector r = (vector)_mm512_rcp14_ps((__m512)x);
    return r * (2 - x * r);
#else
    return 1 / x;
#endif
}

#if defined(__GNUC__) && !defined(__clang__)
#define SHUFFLED(a, b, place) \
    numbers from; \
    _Pragma("GCC unroll 16") for (int k = 0; k < LANES; k++) from[k] = (place); \
    return __builtin_shuffle(a, b, from)
#else
#define SHUFFLED(a, b, place) \
    vector found; \
    for (int k = 0; k < LANES; k++) \
        found[k] = (place) < LANES ? (a)[(place) % LANES] : (b)[(place) % LANES]; \
    return found
#endif

/* Half of a and b, the first or the second, with their elements in turn. */
INLINE vector in_turn(vector a, vector b, const int second)
{
    SHUFFLED(a, b, k / 2 + (k & 1) * LANES + second * (LANES / 2));
}

/* Every other element of a and b, from the first or the second on. */
INLINE vector every_other(vector a, vector b, const int second) { SHUFFLED(a, b, 2 * k + second); }

#endif
