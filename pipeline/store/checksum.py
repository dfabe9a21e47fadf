"""Checksums: HDF5's Fletcher-32 (chunks of data) and lookup3 (all other structures), and what a `sha256` covers."""

import ctypes
import hashlib
import threading
from collections.abc import Iterable

import numpy as np

from pipeline.native import library

__all__ = ["checked_fletcher32", "fletcher32", "hash_texts", "is_finite", "lookup3", "text_bytes"]

_COLUMNS = 2048
_PIECE = 64 * _COLUMNS  # words summed at a time: as 32-bit numbers they stay in the second-level cache
_INDEX = np.arange(_COLUMNS, dtype=np.int64)
_local = threading.local()
#: Exponent bits of the 16-bit words of a number, at even and odd places, by bytes a number; no word has bit 16 set.
_NEVER = (0x10000, 0x10000)
_EXPONENT = {2: (0x7C00, 0x7C00), 4: (0x10000, 0x7F80)}


def fletcher32(data: bytes | memoryview | np.ndarray) -> int:
    """HDF5's Fletcher-32 of `data`, as the 32-bit number that HDF5 stores little-endian behind a chunk.

    HDF5 sums big-endian 16-bit words modulo 65535. As 2^16 = 1 there, a swapped word is 256 times the word, so the sums
    are taken over little-endian words and multiplied once at the end. A last odd byte is the high byte of a word.
    """
    octets = data.reshape(-1).view(np.uint8) if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    if octets.size % 2:
        octets = np.append(octets, np.uint8(0))
    if (native := library()) is not None:
        return _native(native, np.ascontiguousarray(octets), _NEVER)[0]
    return _fletcher32(octets.view("<u2"))


def checked_fletcher32(values: np.ndarray) -> int | None:
    """Fletcher-32 of half- or single-precision numbers, `None` where one of them is NaN or infinite."""
    masks = _EXPONENT.get(values.dtype.itemsize)
    if (native := library()) is not None and masks and values.flags.c_contiguous:
        checksum, found = _native(native, values, masks)
        return None if found else checksum
    return fletcher32(values) if is_finite(values) else None


def _native(native: ctypes.CDLL, values: np.ndarray, masks: tuple[int, int]) -> tuple[int, bool]:
    """Checksum, and whether any 16-bit word at an even or odd place has all bits of its mask set."""
    function, found = native.fletcher32, ctypes.c_int32()
    function.restype = ctypes.c_uint32
    even, odd = map(ctypes.c_uint32, masks)
    words = ctypes.c_int64(values.nbytes // 2)
    return function(ctypes.c_void_p(values.ctypes.data), words, even, odd, ctypes.byref(found)), bool(found.value)


def _fletcher32(words: np.ndarray) -> int:
    """The same in numpy, where there is no C compiler."""
    if not hasattr(_local, "buffer"):  # fresh memory for every chunk would cost as much as the sums
        _local.buffer = np.empty(_PIECE, np.uint32)
    total = weighted = 0  # sum of word i; sum of word i times the number of words from it to the end
    for start in range(0, words.size, _PIECE):
        piece = words[start : start + _PIECE]
        table = _local.buffer[: -(-piece.size // _COLUMNS) * _COLUMNS]
        table[piece.size :] = 0
        table[: piece.size] = piece
        table = table.reshape(-1, _COLUMNS)
        rows = np.add.reduce(table, axis=1, dtype=np.uint32).astype(np.int64)
        columns = np.add.reduce(table, axis=0, dtype=np.uint32).astype(np.int64)
        here = int(rows.sum())
        total += here
        weighted += (words.size - start) * here - _COLUMNS * int(rows @ _INDEX[: len(rows)]) - int(columns @ _INDEX)
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
    """Whether no value is NaN or infinite. Looks at bit patterns, several times faster than `numpy.isfinite`.

    Read as whole numbers, floats with all exponent bits set are the largest of their sign: signed, those above zero;
    unsigned, those below.
    """
    kinds = {2: (np.int16, np.uint16, 0x7C00), 4: (np.int32, np.uint32, 0x7F800000)}
    if values.dtype.itemsize not in kinds or not values.flags.c_contiguous or not values.size:
        return bool(np.isfinite(values).all())
    signed, unsigned, least = kinds[values.dtype.itemsize]
    flat = values.reshape(-1)
    sign = np.iinfo(signed).max + 1
    for start in range(0, flat.size, _PIECE // 2):
        piece = flat[start : start + _PIECE // 2]
        if piece.view(signed).max() >= least or piece.view(unsigned).max() >= sign + least:
            return False
    return True


def text_bytes(texts: Iterable[bytes]) -> bytes:
    """What the `sha256` of a dataset of texts is taken over: each text's UTF-8 with a zero byte behind it."""
    return b"".join(text + b"\0" for text in texts)


def hash_texts(texts: Iterable[bytes]) -> str:
    """The `sha256` of a dataset that holds these texts (UTF-8)."""
    return hashlib.sha256(text_bytes(texts)).hexdigest()
