/* HDF5's Fletcher-32, and a check for NaN and infinity on the way, in one pass over memory. */
#include <stdint.h>
#include <string.h>

enum { LANES = 16, STEPS = 256 }; /* STEPS words in a lane: their sum of prefixes still fits 32 bits */

typedef uint16_t narrow __attribute__((vector_size(2 * LANES)));
typedef uint32_t wide __attribute__((vector_size(4 * LANES)));

/* Fletcher-32 of `words` 16-bit words, as HDF5 takes it over big-endian words: 2^16 = 1 modulo 65535, so a swapped word is
   256 times the word, and the sums are taken over little-endian words. A word at an even (odd) place whose bits `even`
   (`odd`) are all set makes *found nonzero; a mask beyond 16 bits never does. */
uint32_t fletcher32(const uint8_t *data, int64_t words, uint32_t even, uint32_t odd, int32_t *found)
{
    uint64_t total = 0, weighted = 0; /* sum of word i; sum of word i times the words from it to the end, modulo 65535 */
    uint32_t bad = 0;
    wide mask;
    for (int l = 0; l < LANES; l++)
        mask[l] = l % 2 ? odd : even;
    for (int64_t start = 0; start < words;) {
        const int64_t left = words - start;
        const int steps = left >= LANES * STEPS ? STEPS : (int)(left / LANES);
        uint64_t sum = 0, ramp = 0; /* of word i; of i times word i, within this piece */
        if (steps) {
            wide sums = {0}, prefixes = {0}, hits = {0};
            for (int s = 0; s < steps; s++) {
                narrow word;
                memcpy(&word, data + 2 * (start + (int64_t)s * LANES), sizeof word);
                const wide w = __builtin_convertvector(word, wide);
                prefixes += sums;
                sums += w;
                hits |= (wide)((w & mask) == mask);
            }
            for (int l = 0; l < LANES; l++) {
                sum += sums[l];
                ramp += LANES * ((uint64_t)(steps - 1) * sums[l] - prefixes[l]) + (uint64_t)l * sums[l];
                bad |= hits[l];
            }
        } else {
            for (int i = 0; i < left; i++) {
                uint16_t word;
                memcpy(&word, data + 2 * (start + i), 2);
                const uint32_t own = i % 2 ? odd : even;
                sum += word;
                ramp += (uint64_t)i * word;
                bad |= (word & own) == own;
            }
        }
        weighted = (weighted + ((uint64_t)left % 65535) * (sum % 65535) + 65535 - ramp % 65535) % 65535;
        total += sum;
        start += steps ? (int64_t)steps * LANES : left;
    }
    *found = (int32_t)bad;
    /* Only words that are all zero sum to zero; any other sum that folds to zero stands as 65535. */
    const uint32_t folded = (uint32_t)(total % 65535 * 256 % 65535), behind = (uint32_t)(weighted * 256 % 65535);
    return total ? (behind ? behind : 0xFFFF) << 16 | (folded ? folded : 0xFFFF) : 0;
}
