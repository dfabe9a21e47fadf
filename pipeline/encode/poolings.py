"""From tokens to one vector a row: the registry `POOLINGS`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["POOLINGS", "Hidden", "groups"]


def groups(lengths: list[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of equal lengths as (first token, rows, length): rows of one run make a dense array without padding."""
    token = row = 0
    while row < len(lengths):
        length, first = lengths[row], row
        while row < len(lengths) and lengths[row] == length:
            row += 1
        yield token, row - first, length
        token += (row - first) * length


@dataclass(frozen=True)
class Hidden:
    """What an encoder computed for a batch of n rows with T tokens in all, end to end.

    `last` is [T, D], the last hidden state or the mean of the layers asked for; `words` gives the word embeddings of
    token ids; `ids` is int64 [T]; `lengths` has n entries; `pooler` gives [n, D] from the first tokens' last hidden
    states, already applied where the model does so itself.
    """

    last: Tensor
    ids: Tensor
    lengths: list[int]
    words: Callable[[Tensor], Tensor]
    pooler: Callable[[], Tensor]

    @cached_property
    def first(self) -> Tensor:
        """Index of each row's first token, int64 [n]."""
        lengths = torch.tensor(self.lengths)
        return (lengths.cumsum(0) - lengths).to(self.last.device)

    def sums(self, tokens: Tensor) -> Tensor:
        """Sum each row's tokens in float32: [T, D] to [n, D]."""
        if tokens.is_cuda:
            lengths = torch.tensor(self.lengths, device=tokens.device)
            return torch.segment_reduce(tokens.float(), "sum", lengths=lengths, unsafe=True)
        parts = [
            tokens[start : start + rows * length].view(rows, length, -1).sum(1, dtype=torch.float32)
            for start, rows, length in groups(self.lengths)
        ]
        return torch.cat(parts)


def _cls(hidden: Hidden) -> Tensor:
    return hidden.last[hidden.first].float()


def _mean(hidden: Hidden) -> Tensor:
    lengths = torch.tensor(hidden.lengths, dtype=torch.float32, device=hidden.last.device)
    return hidden.sums(hidden.last).div_(lengths[:, None])


def _weight(hidden: Hidden) -> Tensor:
    return hidden.sums(hidden.words(hidden.ids))


def _pooled(hidden: Hidden) -> Tensor:
    return hidden.pooler().float()


POOLINGS: dict[str, Callable[[Hidden], Tensor]] = {"pooled": _pooled, "cls": _cls, "mean": _mean, "weight": _weight}
