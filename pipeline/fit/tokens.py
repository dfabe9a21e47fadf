"""Every token's last hidden state of some rows, and the pools that have nothing to train."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import CacheError
from pipeline.heads.config import POOLS

if TYPE_CHECKING:
    from pipeline.store import Ragged

__all__ = ["Tokens", "pooled_tokens"]

#: Rows whose tokens are read and widened together.
CHUNK_ROWS = 512


@dataclass(frozen=True)
class Tokens:
    """Tokens `values` [tokens, inputs], rows end to end: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        start, stop, _ = rows.indices(len(self))
        offsets = self.offsets[start : stop + 1]
        return self.values[offsets[0] : offsets[-1]], offsets - offsets[0]


def pooled_tokens(tokens: "Tokens | Ragged", pool: str | None = None) -> np.ndarray:
    """The mean or the largest value of each row's tokens [rows, inputs], float32; `None` is the default pool.

    A row's result does not depend on the rows beside it. Raises `CacheError` for a row without tokens.
    """
    return np.concatenate([_pooled(*part, pool or POOLS[0]) for part in _parts(tokens)])


def _parts(tokens: "Tokens | Ragged") -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, max(1, len(tokens)), CHUNK_ROWS):
        yield tokens[start : start + CHUNK_ROWS]


def _pooled(values: np.ndarray, offsets: np.ndarray, pool: str) -> np.ndarray:
    lengths = np.diff(offsets)
    if not lengths.all():
        raise CacheError("last_hidden: expected at least one token in every row, found a row without any")
    if not len(lengths):
        return np.zeros((0, values.shape[1]), np.float32)
    wide = values.astype(np.float32)
    if pool == "max":
        return np.maximum.reduceat(wide, offsets[:-1])
    return np.add.reduceat(wide, offsets[:-1]) / lengths[:, None].astype(np.float32)
