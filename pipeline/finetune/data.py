"""A cache's texts as token batches, in the order that a seed fixes for heads on the same cache."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pipeline.encode.tokens import Tokens
from pipeline.fit.split import Replicate

__all__ = ["Collator", "EpochOrder", "TokenRows"]


class TokenRows(Dataset):
    """Rows of a split: token ids, token types and targets, nothing padded."""

    def __init__(self, tokens: Tokens, targets: Tensor | None, rows: np.ndarray | None = None) -> None:
        """`targets` [rows of the split]; `rows` picks some, all by default."""
        self.tokens, self.targets = tokens, targets
        self.rows = np.arange(len(tokens.offsets) - 1) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        where = slice(int(self.tokens.offsets[row]), int(self.tokens.offsets[row + 1]))
        item = {"ids": self.tokens.ids[where], "types": self.tokens.types[where]}
        return item if self.targets is None else item | {"label": self.targets[row]}


@dataclass(frozen=True)
class Collator:
    """Rows to a padded batch. `length` pads every batch to it; `None` pads to the batch's longest row."""

    pad_id: int
    takes_types: bool
    length: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, perhaps `token_type_ids` [rows, length], and `labels` [rows]."""
        width = self.length or max(len(row["ids"]) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id, dtype=torch.int64)
        types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for at, row in enumerate(rows):
            count = len(row["ids"])
            ids[at, :count] = torch.from_numpy(row["ids"].astype(np.int64))
            types[at, :count] = torch.from_numpy(row["types"].astype(np.int64))
            mask[at, :count] = 1
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.takes_types:
            batch["token_type_ids"] = types
        if "label" in rows[0]:
            batch["labels"] = torch.stack([row["label"] for row in rows])
        return batch


class EpochOrder(Sampler[int]):
    """The training rows in the order of each epoch that the seed gives to every head on this cache."""

    def __init__(self, split: Replicate) -> None:
        self.split, self.epoch = split, 0

    def __len__(self) -> int:
        return len(self.split.train)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0 (called by Trainer, also when it resumes)."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(self.split.order(self.epoch).tolist())
