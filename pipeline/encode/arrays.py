"""The datasets of a block that need no encoder: position, texts, label, length, and the fold of a feature."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.encode.tokens import LONE_SURROGATE
from pipeline.sources import Row
from pipeline.tasks import Task

__all__ = ["fold", "plain_arrays"]


def plain_arrays(rows: Sequence[Row], lengths: np.ndarray, start: int, task: Task) -> dict[str, Any]:
    """`idx`, `text`, `text_pair` (of pairs), `label` and `length` of rows that begin at `start` of their split.

    `lengths` are the rows' tokens.
    """
    arrays: dict[str, Any] = {
        "idx": np.arange(start, start + len(rows), dtype=np.int64),
        "text": [_storable(row.text) for row in rows],
        "label": np.array([row.label for row in rows], np.float32 if task.labels is None else np.int64),
        "length": lengths.astype(np.int32),
    }
    if task.pair:
        arrays["text_pair"] = [_storable(row.text_pair or "") for row in rows]
    return arrays


def fold(x: Any, size: int) -> Any:
    """Fold features [n, D] to [n, size]: `out[:, j] = sum_k x[:, k * size + j]`, D padded with zeros.

    `x` is a float32 array of numpy or a tensor, and so is what comes back; sums are taken in the order of k.
    """
    out = x[:, :size].copy() if isinstance(x, np.ndarray) else x[:, :size].clone()
    if out.shape[1] < size:
        wide = np.zeros((len(x), size), np.float32) if isinstance(x, np.ndarray) else x.new_zeros(len(x), size)
        wide[:, : out.shape[1]] = out
        return wide
    for start in range(size, x.shape[1], size):
        part = x[:, start : start + size]
        out[:, : part.shape[1]] += part
    return out


def _storable(text: str) -> str:
    """The text as a string of HDF5 can hold it: lone surrogates and zero characters become U+FFFD."""
    text = text.replace("\0", "\ufffd")
    return text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)
