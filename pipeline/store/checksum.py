"""The two checksums of the HDF5 format: Fletcher-32 for chunks of data, Jenkins' lookup3 for everything else."""

import numpy as np

__all__ = ["fletcher32", "is_finite", "lookup3"]

_MASK = np.uint64(0x0000FFFF0000FFFF)
_SHIFT = np.uint64(16)
_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)
_PIECE = 1 << 17  # bytes worked on at a time: they stay in the second-level cache


def fletcher32(data: bytes | memoryview | np.ndarray) -> int:
    """HDF5's Fletcher-32 of `data`, as the 32-bit number that HDF5 stores little-endian behind a chunk.

    HDF5 sums big-endian 16-bit words modulo 65535. As 2^16 = 1 there, a swapped word is 256 times the word, so the sums
    are taken over little-endian words, four to a 64-bit number, and multiplied once at the end. A last odd byte counts
    as the high byte of a word.
    """
    octets = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data.reshape(-1).view(np.uint8)
    if octets.size % 8:
        octets = np.concatenate([octets, np.zeros(-octets.size % 8, np.uint8)])
        words = (len(memoryview(data).cast("B")) + 1) // 2
    else:
        words = octets.size // 2
    total = weighted = 0  # sum of w_i; sum of (number of words after word i, itself included) * w_i
    for start in range(0, octets.size, _PIECE):
        piece = octets[start : start + _PIECE].view(np.uint64)
        lanes, first, position = _word_sums(piece)
        after = words - start // 2
        total += lanes
        # sum over the piece of (after - i) * w_i, i counted from the piece's start
        weighted += after * lanes - (4 * position + first)
    return _fold(weighted) << 16 | _fold(total)


def _word_sums(piece: np.ndarray) -> tuple[int, int, int]:
    """Sums over the 16-bit words of `piece` [n] uint64: of w; of (i mod 4) * w; of (i div 4) * w, i the word's index."""
    columns = 64
    if piece.size % columns:
        piece = np.concatenate([piece, np.zeros(-piece.size % columns, np.uint64)])
    table = piece.reshape(-1, columns)
    even = table & _MASK  # words 0 and 2 of each four, 32 bits apart
    odd = (table >> _SHIFT) & _MASK  # words 1 and 3
    even_columns, odd_columns = even.sum(axis=0), odd.sum(axis=0)
    even += odd
    rows = even.sum(axis=1)
    row_sums = (rows & _LOW) + (rows >> _HIGH)
    w0, w2 = even_columns & _LOW, even_columns >> _HIGH
    w1, w3 = odd_columns & _LOW, odd_columns >> _HIGH
    column_sums = w0 + w1 + w2 + w3
    lanes = int(column_sums.sum())
    first = int((w1 + 2 * w2 + 3 * w3).sum())
    by_column = int((column_sums * np.arange(columns, dtype=np.uint64)).sum())
    by_row = int((row_sums * np.arange(len(row_sums), dtype=np.uint64)).sum())
    return lanes, first, by_row * columns + by_column


def _fold(total: int) -> int:
    """A sum of little-endian words as HDF5's 16-bit sum of big-endian ones: only a sum of zeros folds to zero."""
    return (total * 256) % 65535 or (0xFFFF if total else 0)


def lookup3(data: bytes) -> int:
    """Bob Jenkins' lookup3 (hashlittle, initial value 0) of `data`: the checksum of HDF5's own structures."""
    mask = 0xFFFFFFFF
    length = len(data)
    a = b = c = (0xDEADBEEF + length) & mask
    if not length:
        return c
    padded = data + bytes(-length % 12)
    words = np.frombuffer(padded, "<u4").tolist()
    for i in range(0, len(words) - 3, 3):
        a = (a + words[i]) & mask
        b = (b + words[i + 1]) & mask
        c = (c + words[i + 2]) & mask
        a = ((a - c) ^ (c << 4 | c >> 28)) & mask
        c = (c + b) & mask
        b = ((b - a) ^ (a << 6 | a >> 26)) & mask
        a = (a + c) & mask
        c = ((c - b) ^ (b << 8 | b >> 24)) & mask
        b = (b + a) & mask
        a = ((a - c) ^ (c << 16 | c >> 16)) & mask
        c = (c + b) & mask
        b = ((b - a) ^ (a << 19 | a >> 13)) & mask
        a = (a + c) & mask
        c = ((c - b) ^ (b << 4 | b >> 28)) & mask
        b = (b + a) & mask
    a, b, c = (a + words[-3]) & mask, (b + words[-2]) & mask, (c + words[-1]) & mask
    c = ((c ^ b) - (b << 14 | b >> 18)) & mask
    a = ((a ^ c) - (c << 11 | c >> 21)) & mask
    b = ((b ^ a) - (a << 25 | a >> 7)) & mask
    c = ((c ^ b) - (b << 16 | b >> 16)) & mask
    a = ((a ^ c) - (c << 4 | c >> 28)) & mask
    b = ((b ^ a) - (a << 14 | a >> 18)) & mask
    return ((c ^ b) - (b << 24 | b >> 8)) & mask


def is_finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite; looks at exponents alone, several times faster than `numpy.isfinite`."""
    bits, exponent = {2: (np.uint16, 0x7C00), 4: (np.uint32, 0x7F800000)}.get(values.dtype.itemsize, (None, 0))
    if bits is None or not values.flags.c_contiguous:
        return bool(np.isfinite(values).all())
    flat = values.reshape(-1).view(bits)
    sign_free = bits(exponent | (exponent & -exponent) - 1)
    return all(int((flat[i : i + 65536] & sign_free).max()) < exponent for i in range(0, flat.size, 65536))
