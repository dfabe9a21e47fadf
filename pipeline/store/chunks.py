"""Reading rows from chunks, with every checksum looked at."""

import os
import struct

import numpy as np

from pipeline.errors import CacheError
from pipeline.store.checksum import fletcher32
from pipeline.store.hdf5 import REFERENCE, ChunkedDataset
from pipeline.store.parse import Bytes

__all__ = ["numpy_dtype", "read_rows"]

_IOV_MAX = 256


def numpy_dtype(dtype: str) -> np.dtype:
    """Dtype of rows in the file; of a string, that of the reference to its bytes."""
    return REFERENCE if dtype == "string" else np.dtype(dtype).newbyteorder("<")


def read_rows(file: Bytes, dataset: ChunkedDataset, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a dataset, [stop - start, ...]; raises `CacheError` for a chunk whose checksum is wrong.

    Whole chunks go straight to where they belong; only the first and the last may need a copy.
    """
    start, stop = max(0, start), min(stop, dataset.shape[0])
    row, size = dataset.shape[1:], dataset.chunk_rows
    dtype = numpy_dtype(dataset.dtype)
    out = np.empty((max(0, stop - start), *row), dtype)
    if not len(out):
        return out
    first, last = start // size, (stop - 1) // size
    lands: list[np.ndarray] = []
    for chunk in range(first, last + 1):
        low, high = chunk * size, (chunk + 1) * size
        whole = start <= low and high <= stop
        lands.append(out[low - start : high - start] if whole else np.empty((size, *row), dtype))
    _fill(file, dataset, first, lands)
    for chunk, land in ((first, lands[0]), (last, lands[-1])):
        low = chunk * size
        if not np.shares_memory(land, out):
            begin, end = max(low, start), min(low + size, stop)
            out[begin - start : end - start] = land[begin - low : end - low]
    return out


def _fill(file: Bytes, dataset: ChunkedDataset, first: int, lands: list[np.ndarray]) -> None:
    """Read chunks `first`, `first + 1`, ... into `lands`, neighbours in the file with one call, and check them."""
    stride = dataset.chunk_bytes + (4 if dataset.checked else 0)
    addresses = np.asarray(dataset.chunks[first : first + len(lands)], np.uint64).astype(np.int64)
    sums = bytearray(4 * len(lands))
    position = 0
    while position < len(lands):
        count = 1
        while (
            position + count < len(lands)
            and count < _IOV_MAX
            and addresses[position + count] == addresses[position] + count * stride
        ):
            count += 1
        buffers: list[memoryview] = []
        for i in range(position, position + count):
            buffers.append(lands[i].reshape(-1).view(np.uint8).data)
            if dataset.checked:
                buffers.append(memoryview(sums)[4 * i : 4 * i + 4])
        if os.preadv(file.descriptor, buffers, int(addresses[position])) != count * stride:
            raise CacheError(f"the file ends inside chunk {first + position}")
        position += count
    if dataset.checked:
        for i, land in enumerate(lands):
            if fletcher32(land) != struct.unpack_from("<I", sums, 4 * i)[0]:
                raise CacheError(f"chunk {first + i} (at byte {addresses[i]}) does not have its checksum")
