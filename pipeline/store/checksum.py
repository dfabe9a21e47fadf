"""Checksums: HDF5's Fletcher-32 (chunks of data) and lookup3 (all other structures), and what a `sha256` covers."""

import hashlib
from collections.abc import Iterable

import numpy as np

__all__ = ["fletcher32", "hash_texts", "is_finite", "lookup3", "text_bytes"]

_SIDE = 256
_PIECE = _SIDE * _SIDE  # words summed at a time: as 32-bit numbers they stay in the second-level cache
_INDEX = np.arange(_SIDE, dtype=np.int64)


def fletcher32(data: bytes | memoryview | np.ndarray) -> int:
    """HDF5's Fletcher-32 of `data`, as the 32-bit number that HDF5 stores little-endian behind a chunk.

    HDF5 sums big-endian 16-bit words modulo 65535. As 2^16 = 1 there, a swapped word is 256 times the word, so the sums
    are taken over little-endian words and multiplied once at the end. A last odd byte is the high byte of a word.
    """
    octets = data.reshape(-1).view(np.uint8) if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    if octets.size % 2:
        octets = np.append(octets, np.uint8(0))
    words = octets.view("<u2")
    buffer = np.zeros(min(_PIECE, -(-words.size // _SIDE) * _SIDE), np.uint32)
    total = weighted = 0  # sum of word i; sum of word i times the number of words from it to the end
    for start in range(0, words.size, _PIECE):
        piece = words[start : start + _PIECE]
        if piece.size < buffer.size:
            buffer = np.zeros(-(-piece.size // _SIDE) * _SIDE, np.uint32)
        buffer[: piece.size] = piece
        table = buffer.reshape(-1, _SIDE)
        rows = np.add.reduce(table, axis=1, dtype=np.uint32).astype(np.int64)
        columns = np.add.reduce(table, axis=0, dtype=np.uint32).astype(np.int64)
        here = int(rows.sum())
        total += here
        weighted += (words.size - start) * here - _SIDE * int(rows @ _INDEX[: len(rows)]) - int(columns @ _INDEX)
    return _fold(weighted) << 16 | _fold(total)


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


def text_bytes(texts: Iterable[bytes]) -> bytes:
    """What the `sha256` of a dataset of texts is taken over: each text's UTF-8 with a zero byte behind it."""
    return b"".join(text + b"\0" for text in texts)


def hash_texts(texts: Iterable[bytes]) -> str:
    """The `sha256` of a dataset that holds these texts (UTF-8)."""
    return hashlib.sha256(text_bytes(texts)).hexdigest()
