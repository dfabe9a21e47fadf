"""The datasets of a block that need no encoder: position, texts, label, length, and the fold of a feature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.encode.siamese import Pairs
from pipeline.encode.tokens import LONE_SURROGATE
from pipeline.errors import CacheError
from pipeline.sources import Row
from pipeline.store import Texts
from pipeline.tasks import Task

__all__ = ["Columns", "columns_of", "fold", "joined_columns", "plain_arrays"]


@dataclass(frozen=True)
class Columns:
    """The columns of some rows as they are stored; `text_pair` is `None` where rows are single texts.

    `label` is float64 [n]: a class, or a number. `pairs` says of siamese pairs which sentences they are made of.
    """

    text: Texts
    text_pair: Texts | None
    label: np.ndarray
    pairs: Pairs | None = None

    def __len__(self) -> int:
        return len(self.label)


def columns_of(rows: Sequence[Row], pairs: Pairs | None = None) -> Columns:
    """Rows as columns, texts as HDF5 can hold them: lone surrogates and zero characters become U+FFFD."""
    seconds = [row.text_pair for row in rows]
    return Columns(
        _storable([row.text for row in rows]),
        None if all(text is None for text in seconds) else _storable([text or "" for text in seconds]),
        np.array([row.label for row in rows], np.float64),
        pairs,
    )


def joined_columns(parts: Sequence[Columns]) -> Columns:
    """Columns of consecutive rows as one."""
    paired = any(part.text_pair is not None for part in parts)
    return Columns(
        Texts.joined([part.text for part in parts]),
        Texts.joined([part.text_pair or Texts.of([""] * len(part)) for part in parts]) if paired else None,
        np.concatenate([part.label for part in parts]),
    )


def plain_arrays(columns: Columns, lengths: np.ndarray, start: int, task: Task) -> dict[str, Any]:
    """`idx`, `text`, `text_pair` (of pairs), `label` and `length` of rows that begin at `start` of their split.

    `lengths` are the rows' tokens.
    """
    arrays: dict[str, Any] = {
        "idx": np.arange(start, start + len(columns), dtype=np.int64),
        "text": columns.text,
        "label": columns.label.astype(np.float32 if task.labels is None else np.int64),
        "length": lengths.astype(np.int32),
    }
    if task.pair:
        arrays["text_pair"] = columns.text_pair or Texts.of([""] * len(columns))
    return arrays


def fold(x: Any, size: int) -> Any:
    """Fold features [n, D] to [n, size]: `out[:, j] = sum_k x[:, k * size + j]`, D padded with zeros.

    `x` is a float32 array of numpy or a tensor, and so is what comes back. Sums are taken in the order of k, but for a
    GPU's, which are one call.
    """
    if getattr(x, "is_cuda", False) and x.shape[1] % size == 0:
        return x.view(len(x), -1, size).sum(1)
    out = x[:, :size].copy() if isinstance(x, np.ndarray) else x[:, :size].clone()
    if out.shape[1] < size:
        wide = np.zeros((len(x), size), np.float32) if isinstance(x, np.ndarray) else x.new_zeros(len(x), size)
        wide[:, : out.shape[1]] = out
        return wide
    for start in range(size, x.shape[1], size):
        part = x[:, start : start + size]
        out[:, : part.shape[1]] += part
    return out


def _storable(texts: list[str]) -> Texts:
    try:
        return Texts.of(texts)
    except CacheError:
        return Texts.of([LONE_SURROGATE.sub("\ufffd", text.replace("\0", "\ufffd")) for text in texts])
