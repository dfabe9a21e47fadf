"""Every token's last hidden state of some rows, and the pools that have nothing to train."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import numpy as np

from pipeline.errors import CacheError
from pipeline.heads.config import POOLS, TRAINED_POOLS

if TYPE_CHECKING:
    from pipeline.fit.data import Scaling
    from pipeline.store import Ragged

__all__ = ["Tokens", "parts_of", "pooled_tokens"]

#: Rows whose tokens are read and widened together.
CHUNK_ROWS = 512


@dataclass(frozen=True)
class Tokens:
    """Tokens `values` [tokens, inputs], rows end to end: row i is `values[offsets[i]:offsets[i + 1]]`.

    Values stay as they are stored; `scaling` is applied where they are widened.
    """

    values: np.ndarray
    offsets: np.ndarray
    scaling: "Scaling | None" = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and the width of their tokens, as of features."""
        return len(self), self.values.shape[1]

    def __getitem__(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        start, stop, _ = rows.indices(len(self))
        offsets = self.offsets[start : stop + 1]
        return self.values[offsets[0] : offsets[-1]], offsets - offsets[0]

    def select(self, chosen: np.ndarray) -> "Tokens":
        """The rows where `chosen` [rows] holds."""
        if chosen.all():
            return self
        lengths = np.diff(self.offsets)
        offsets = np.concatenate([[0], lengths[chosen].cumsum()])
        return Tokens(self.values[np.repeat(chosen, lengths)], offsets, self.scaling)


def pooled_tokens(tokens: Union[Tokens, "Ragged"], pool: str | None = None) -> np.ndarray | Tokens:
    """The mean or the largest value of each row's tokens [rows, inputs], float32; `None` is the default pool.

    The tokens themselves for a pool that trains. A row's result does not depend on the rows beside it. Raises
    `CacheError` for a row without tokens.
    """
    if pool in TRAINED_POOLS:
        found = Tokens(*tokens[0 : len(tokens)])
        _check(found.offsets)
        return found
    return np.concatenate([_pooled(*part, pool or POOLS[0]) for part in parts_of(tokens)])


def parts_of(tokens: Union[Tokens, "Ragged"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Values and offsets of some rows after others; once, of no rows, where there are none."""
    for start in range(0, max(1, len(tokens)), CHUNK_ROWS):
        yield tokens[start : start + CHUNK_ROWS]


def _check(offsets: np.ndarray) -> np.ndarray:
    lengths = np.diff(offsets)
    if not lengths.all():
        raise CacheError("last_hidden: expected at least one token in every row, found a row without any")
    return lengths


def _pooled(values: np.ndarray, offsets: np.ndarray, pool: str) -> np.ndarray:
    lengths = _check(offsets)
    if not len(lengths):
        return np.zeros((0, values.shape[1]), np.float32)
    wide = values.astype(np.float32)
    if pool == "max":
        return np.maximum.reduceat(wide, offsets[:-1])
    return np.add.reduceat(wide, offsets[:-1]) / lengths[:, None].astype(np.float32)
