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

enum { HEAP_HEAD = 16, OBJECT_HEAD = 16, HEAP_BYTES = 1 << 16, HEAP_LEAST = 4096, HEAP_OBJECTS = 60000 };

static int64_t close_heap(uint8_t *heap, uint64_t size)
{
    if (size < HEAP_LEAST) { /* the library's smallest; the rest is one free object, or too little to be one */
        const uint64_t room = HEAP_LEAST - size;
        memset(heap + size, 0, room);
        if (room >= OBJECT_HEAD)
            memcpy(heap + size + 8, &room, 8);
        size = HEAP_LEAST;
    }
    const uint32_t one = 1;
    memcpy(heap, "GCOL", 4), memcpy(heap + 4, &one, 4), memcpy(heap + 8, &size, 8);
    return (int64_t)size;
}

/* HDF5's heap collections of `count` texts (each with a zero byte behind it in `data`), the first of them at `address` of
   the file: their bytes go to `out`, and 16 bytes a text to `references`. Returns how many bytes. */
int64_t pack_heaps(const uint8_t *data, const int64_t *lengths, int64_t count, uint64_t address, uint8_t *out,
                   uint8_t *references)
{
    int64_t done = 0, size = HEAP_HEAD;
    uint32_t number = 0;
    for (int64_t i = 0; i < count; data += lengths[i++] + 1, references += 16) {
        const uint64_t length = (uint64_t)lengths[i], padded = (length + 7) / 8 * 8, heap = address + (uint64_t)done;
        memset(references, 0, 16);
        if (!length)
            continue;
        uint8_t *object = out + done + size;
        const uint64_t index = ++number;
        const uint32_t bytes = (uint32_t)length;
        memcpy(object, &index, 8), memcpy(object + 8, &length, 8), memcpy(object + OBJECT_HEAD, data, length);
        memset(object + OBJECT_HEAD + length, 0, padded - length);
        memcpy(references, &bytes, 4), memcpy(references + 4, &heap, 8), memcpy(references + 12, &number, 4);
        size += (int64_t)(OBJECT_HEAD + padded);
        if (size >= HEAP_BYTES || number >= HEAP_OBJECTS) {
            done += close_heap(out + done, (uint64_t)size);
            size = HEAP_HEAD, number = 0;
        }
    }
    return number ? done + close_heap(out + done, (uint64_t)size) : done;
}
