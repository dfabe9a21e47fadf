"""Datasets that grow: chunks go to the end of the file, what does not fill a chunk waits in memory.

A stream is one dataset of one split. `pack` takes rows and returns the finished chunks as pieces of memory to be
written at a known address; nothing here reads the file back except `rehash`, after an interruption.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.errors import CacheError
from pipeline.store.checksum import checked_fletcher32, fletcher32, text_bytes
from pipeline.store.chunks import numpy_dtype, read_rows
from pipeline.store.hdf5 import SUPERBLOCK_BYTES, ChunkedDataset, heap_collections
from pipeline.store.inspect import as_cache_error
from pipeline.store.parse import Bytes, heap_texts
from pipeline.store.texts import Texts

__all__ = ["DataFile", "Rows", "Stream", "StreamSpec", "chunk_rows", "disk_errors"]

_IOV_MAX = 512
_PIECE_BYTES = 1 << 24
#: What a stream takes: an array of rows, or texts.
Rows = np.ndarray | Texts
#: Bytes that one call writes before the disk is told to begin with them.
_WRITE_BYTES = 1 << 23


def _sync_file_range() -> Any:
    """Linux' call of that name, where there is one: Python has none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_range_call = _sync_file_range()


def start_writeback(descriptor: int, start: int, size: int) -> None:
    """Have the disk begin with bytes of a file that will be synced soon; a hint, so its errors show in that sync."""
    if _range_call is not None:
        _range_call(descriptor, start, size, 2)  # SYNC_FILE_RANGE_WRITE


@contextlib.contextmanager
def disk_errors(where: os.PathLike[str]) -> Iterator[None]:
    """What the operating system says of a disk (full, too large, not allowed) as a `CacheError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise CacheError(
            f"{where}: cannot write ({error.strerror or error}); {'make room' if full else 'mend that'} and run the "
            "same command again: it goes on from the last block"
        ) from error


def chunk_rows(row_bytes: int, chunk_bytes: int) -> int:
    """Rows of a chunk: the largest power of two that keeps a chunk within `chunk_bytes`, at least 1.

    Powers of two divide the block, so that all datasets but the ragged one end each block at a chunk's end.
    """
    return 1 << max(0, (chunk_bytes // row_bytes).bit_length() - 1)


@dataclass(frozen=True)
class StreamSpec:
    """What a stream is made of: `path` in the file, `dtype` (numpy's name or `string`), shape of a row, rows a chunk.

    `rows` is how many there will be; `None` for the tokens of a ragged dataset, known at the end only.
    """

    path: str
    dtype: str
    row: tuple[int, ...]
    chunk: int
    rows: int | None
    embedding: bool = False

    @property
    def numpy_dtype(self) -> np.dtype:
        """Dtype of a row in memory and in the file (a string is a reference to its bytes)."""
        return numpy_dtype(self.dtype)


@dataclass
class Stream:
    """A stream's state: rows so far, addresses of its chunks, rows that wait, running SHA-256.

    `digest` is the SHA-256 of all rows once there are all; `so_far` what a journal record says of those before it.
    """

    spec: StreamSpec
    done: int = 0
    chunks: array = field(default_factory=lambda: array("Q"))
    tail: np.ndarray = field(init=False)
    digest: str | None = None
    so_far: str | None = None

    def __post_init__(self) -> None:
        self.tail = np.empty((0, *self.spec.row), self.spec.numpy_dtype)
        self._sha = hashlib.sha256()

    def hash(self, values: Rows, *, last: bool) -> str:
        """Add rows to the checksum (C-order bytes, or of texts, UTF-8 with a zero byte behind each); what it is now."""
        self._sha.update(values.data if isinstance(values, Texts) else values.reshape(-1).view(np.uint8).data)
        now = self._sha.copy().hexdigest()
        if last:
            self.digest = now
        return now

    def pack(self, values: Rows, address: int, *, last: bool) -> tuple[list[Any], int]:
        """Pieces of memory to write at `address`, and the address behind them; `last` says that no rows will follow."""
        pieces: list[Any] = []
        if isinstance(values, Texts):
            heap, values = heap_collections(values, address)
            pieces.append(heap)
            address += len(heap)
        self.done += len(values)
        if last and not self.chunks:  # fewer rows than a chunk has: it is made to fit
            self.spec = replace(self.spec, chunk=max(1, min(self.spec.chunk, self.done)))
        size = self.spec.chunk
        if len(self.tail):
            need = size - len(self.tail)
            self.tail = np.concatenate([self.tail, values[:need]])
            values = values[need:]
            if len(self.tail) == size:
                address = self._chunk(self.tail, address, pieces)
                self.tail = self.tail[:0]
        whole = len(values) - len(values) % size
        for start in range(0, whole, size):
            address = self._chunk(values[start : start + size], address, pieces)
        if whole < len(values):
            self.tail = values[whole:].copy()
        if last and len(self.tail):
            padded = np.zeros((size, *self.spec.row), self.spec.numpy_dtype)
            padded[: len(self.tail)] = self.tail
            address = self._chunk(padded, address, pieces)
            self.tail = self.tail[:0]
        return pieces, address

    def _chunk(self, rows: np.ndarray, address: int, pieces: list[Any]) -> int:
        checksum = checked_fletcher32(rows) if self.spec.embedding else None
        if self.spec.embedding and checksum is None:
            raise CacheError(
                f"{self.spec.path}: expected finite numbers, found NaN, infinity, or more than {self.spec.dtype} holds"
                "; give a wider --precision, or mend the model or the file that they come from"
            )
        data = rows.reshape(-1).view(np.uint8).data
        self.chunks.append(address)
        pieces.append(data)
        if self.spec.dtype == "string":
            return address + len(data)
        pieces.append(struct.pack("<I", fletcher32(rows) if checksum is None else checksum))
        return address + len(data) + 4

    def state(self, known_chunks: int) -> dict[str, Any]:
        """What a journal record says of this stream: all of it but the chunks that earlier records have named."""
        return {
            "done": self.done,
            "chunk": self.spec.chunk,
            "chunks": self.chunks[known_chunks:].tolist(),
            "tail": self.tail.nbytes,
        }

    def restore(self, state: dict[str, Any], tail: bytes) -> None:
        """Apply a record that `state` made."""
        self.done, self.so_far = state["done"], state["sha256"]
        if state["last"]:
            self.digest = self.so_far
        self.spec = replace(self.spec, chunk=state["chunk"])
        self.chunks.extend(state["chunks"])
        self.tail = np.frombuffer(tail, self.spec.numpy_dtype).reshape(-1, *self.spec.row)

    def rows(self, file: Bytes) -> Iterator[np.ndarray]:
        """All rows so far, in pieces; of texts, references to their bytes."""
        spec = self.spec
        whole = len(self.chunks) * spec.chunk
        dataset = ChunkedDataset((whole, *spec.row), spec.dtype, spec.chunk, self.chunks, {})
        step = max(1, _PIECE_BYTES // dataset.chunk_bytes) * spec.chunk
        for start in range(0, whole, step):
            yield read_rows(file, dataset, start, start + step)
        yield self.tail

    def rehash(self, file: Bytes) -> None:
        """Bring the running checksum to where the stream is by reading its rows; `CacheError` if they are damaged."""
        if self.digest is not None:
            return
        with as_cache_error(f"{file.path}: {self.spec.path}", "what was committed"):
            for rows in self.rows(file):
                self._rehash_rows(rows, file)
            if self.done and self._sha.hexdigest() != self.so_far:
                raise CacheError("found other rows")

    def _rehash_rows(self, rows: np.ndarray, file: Bytes) -> None:
        if self.spec.dtype == "string":
            self._sha.update(text_bytes(heap_texts(file, rows)))
        else:
            self._sha.update(rows.reshape(-1).view(np.uint8).data)


class DataFile:
    """The growing file: append at `end`, read back, cut off. Disk errors are `CacheError`s."""

    def __init__(self, path: os.PathLike[str], end: int) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.end = max(end, SUPERBLOCK_BYTES)
        if os.fstat(self._descriptor).st_size < end:
            os.close(self._descriptor)
            raise CacheError(f"{path}: expected {end} committed bytes, found fewer; start over with --force")
        #: Everything before this byte is on the disk and may stand in the journal.
        self.committed = self.end
        os.ftruncate(self._descriptor, self.end)

    def append(self, pieces: Sequence[Any]) -> None:
        """Write pieces of memory, one after another, behind what is there, and let the disk begin with them."""
        queue = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        start = 0
        while start < len(queue):
            stop, size = start, 0
            while stop < len(queue) and stop - start < _IOV_MAX and size < _WRITE_BYTES:
                size += len(queue[stop])
                stop += 1
            written = os.pwritev(self._descriptor, queue[start:stop], self.end)
            start_writeback(self._descriptor, self.end, written)
            self.end += written
            while start < len(queue) and written >= len(queue[start]):
                written -= len(queue[start])
                start += 1
            if written:
                queue[start] = queue[start][written:]

    def write_at(self, address: int, data: bytes) -> None:
        """Write over bytes that are there (the superblock, at the very end)."""
        if os.pwrite(self._descriptor, data, address) != len(data):
            raise CacheError(f"{self.path}: could not write {len(data)} bytes")

    def sync(self) -> None:
        """Put on the disk what was appended."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file; what no commit has reached is cut off, to give a full disk its room back."""
        try:
            if self.end != self.committed:
                os.ftruncate(self._descriptor, self.committed)
        finally:
            os.close(self._descriptor)
