/* HDF5's Fletcher-32 and the check for NaN and infinity, in one pass each over memory. */
#include <stdint.h>
#include <string.h>

/* Sums over `words` little-endian 16-bit words, as HDF5 takes them over big-endian ones: 2^16 = 1 modulo 65535, so a
   swapped word is 256 times the word. Returns (weighted sum << 16 | sum), each folded to 16 bits. */
uint32_t fletcher32(const uint8_t *data, int64_t words)
{
    uint64_t total = 0, weighted = 0; /* sum of word i; sum of word i times the words from it to the end, modulo 65535 */
    for (int64_t start = 0; start < words; start += 256) {
        const int count = words - start < 256 ? (int)(words - start) : 256;
        uint32_t sum = 0, ramp = 0; /* at most 2^24 and 2^32 - 2^16 */
        for (int i = 0; i < count; i++) {
            uint16_t word;
            memcpy(&word, data + 2 * (start + i), 2);
            sum += word;
            ramp += (uint32_t)word * (uint32_t)i;
        }
        const uint64_t behind = (uint64_t)(words - start) % 65535;
        weighted += behind * (sum % 65535) + 65535ull * 65535ull - ramp;
        weighted %= 65535;
        total += sum;
    }
    uint32_t folded = (uint32_t)(total * 256 % 65535), folded_weighted = (uint32_t)(weighted * 256 % 65535);
    /* Only a sum of zeros folds to zero; all words zero is the one way to it. */
    int any = 0;
    for (int64_t i = 0; i < words && !any; i++)
        any = data[2 * i] | data[2 * i + 1];
    if (any && !folded)
        folded = 0xFFFF;
    if (any && !folded_weighted)
        folded_weighted = 0xFFFF;
    return folded_weighted << 16 | folded;
}

/* Whether no half- or single-precision number has all exponent bits set. */
int finite16(const uint16_t *x, int64_t count)
{
    for (int64_t start = 0; start < count; start += 4096) {
        const int64_t end = count - start < 4096 ? count : start + 4096;
        int bad = 0;
        for (int64_t i = start; i < end; i++)
            bad |= (x[i] & 0x7C00) == 0x7C00;
        if (bad)
            return 0;
    }
    return 1;
}

int finite32(const uint32_t *x, int64_t count)
{
    for (int64_t start = 0; start < count; start += 4096) {
        const int64_t end = count - start < 4096 ? count : start + 4096;
        int bad = 0;
        for (int64_t i = start; i < end; i++)
            bad |= (x[i] & 0x7F800000) == 0x7F800000;
        if (bad)
            return 0;
    }
    return 1;
}
