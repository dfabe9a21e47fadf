"""Siamese pairs: every distinct sentence of a split is encoded once, where it comes first, and its vector kept.

Vectors lie in a temporary file beside the cache that is being written, so that memory grows by the numbering alone, a
tenth of a kilobyte a sentence. Which sentences a block brings depends on the rows before it, not on where a run began,
so an interruption changes no bit.
"""

import hashlib
import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.sources.base import Row
from pipeline.store import Block, CacheWriter
from pipeline.store.journal import work_folder
from pipeline.store.stream import disk_errors

__all__ = ["Numbering", "PairVectors", "Pairs", "SentenceVectors", "sentences_of"]


@dataclass(frozen=True)
class Pairs:
    """The pairs of a block, by their sentences' numbers in the split.

    `places` is int64 [N, 2]; `first` is the number of the first sentence that the block brings; `lengths` are tokens of
    both sentences together, int64 [N]; `past` are the places [M, 2] of rows which an earlier run has written, where
    this block is the first after them.
    """

    places: np.ndarray
    first: int
    lengths: np.ndarray
    past: np.ndarray


class Numbering:
    """Numbers the distinct sentences of a split in the order of their first appearance."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._lengths = array("i")

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, rows: Sequence[Row]) -> tuple[list[Row], np.ndarray]:
        """Sentences that were not there before, as rows, and the places of all pairs: int64 [N, 2]."""
        new: list[Row] = []
        found = np.empty((len(rows), 2), np.int64)
        for pair, row in zip(found, rows, strict=True):
            for side, text in enumerate((row.text, row.text_pair or "")):
                key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
                number = self._numbers.setdefault(key, len(self._numbers))
                if number == len(self._lengths) + len(new):
                    new.append(Row(text, None, -1))
                pair[side] = number
        return new, found

    def measure(self, lengths: np.ndarray) -> None:
        """Tokens of the sentences that the last `add` found new."""
        self._lengths.extend(lengths.tolist())

    def lengths(self, places: np.ndarray) -> np.ndarray:
        """Tokens of pairs, both sentences together: int64 [N]."""
        return np.array(self._lengths, np.int64)[places].sum(1) if len(places) else np.zeros(0, np.int64)


class SentenceVectors:
    """The vectors of a split's sentences by number, float32 [numbers, D], in a file without a name in `folder`."""

    def __init__(self, folder: Path, width: int) -> None:
        self._file, self._width = tempfile.TemporaryFile(dir=folder), width  # noqa: SIM115 - closed by `close`

    def put(self, first: int, vectors: np.ndarray) -> None:
        """Vectors [n, D] of the sentences from number `first` on. Raises `OSError` where the disk is full."""
        data = np.ascontiguousarray(vectors, np.float32).reshape(-1).view(np.uint8).data
        at = first * self._width * 4
        # Written through the file: a full disk is then an error, not the end of the process.
        while data:
            written = os.pwrite(self._file.fileno(), data, at)
            at, data = at + written, data[written:]

    def put_rows(self, places: np.ndarray, blocks: Iterable[np.ndarray]) -> None:
        """Vectors that rows [M, D], coming in blocks, have for the sentences at `places` [M]."""
        at = 0
        for block in blocks:
            for number, vector in zip(places[at : at + len(block)].tolist(), block, strict=True):
                self.put(number, vector[None])
            at += len(block)

    def take(self, places: np.ndarray) -> np.ndarray:
        """The vectors of the sentences at `places` [n]: [n, D]."""
        return np.memmap(self._file, np.float32, "r").reshape(-1, self._width)[places]

    def close(self) -> None:
        """Give the file's room back."""
        self._file.close()


class PairVectors:
    """Both sides of the pairs of a file's blocks, which come in order; use it in a `with` block."""

    def __init__(self, writer: CacheWriter) -> None:
        self._writer = writer
        self._split, self._vectors = "", None

    def sides(self, block: Block, pairs: Pairs, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """`u` and `v` [N, D] of a block, given the `vectors` of the sentences that it brings.

        Raises `CacheError` where the disk is full.
        """
        with disk_errors(work_folder(self._writer.path)):
            if self._split != block.split:
                self.close()
                self._split = block.split
                self._vectors = SentenceVectors(work_folder(self._writer.path), vectors.shape[1])
                for side, name in enumerate("uv"):
                    if len(pairs.past):
                        self._vectors.put_rows(pairs.past[:, side], self._writer.committed(block.split, name))
            self._vectors.put(pairs.first, vectors)
            return {name: self._vectors.take(pairs.places[:, side]) for side, name in enumerate("uv")}

    def close(self) -> None:
        """Give the temporary file back."""
        if self._vectors is not None:
            self._vectors.close()

    def __enter__(self) -> "PairVectors":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def sentences_of(rows: Sequence[Row]) -> tuple[list[Row], np.ndarray]:
    """The distinct sentences of some pairs as rows, and where each pair has its two among them: int64 [N, 2]."""
    return Numbering().add(rows)
