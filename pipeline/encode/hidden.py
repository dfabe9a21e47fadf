"""What an encoder computes for a batch of rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.encode.sentence import SentenceHead

__all__ = ["Hidden", "bounds_of", "equal_lengths"]


def equal_lengths(lengths: list[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of equal lengths as (first token, rows, length): the rows of a run are a dense array without padding."""
    token = row = 0
    while row < len(lengths):
        length, first = lengths[row], row
        while row < len(lengths) and lengths[row] == length:
            row += 1
        yield token, row - first, length
        token += (row - first) * length


def bounds_of(lengths: list[int], device: torch.device) -> Tensor:
    """Where rows begin and end in a batch: int32 [n + 1] on a device, row i being `bounds[i]:bounds[i + 1]`."""
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    # Pinned: a copy from pageable memory would wait for the device's queue.
    return bounds.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else bounds.to(device)


@dataclass(frozen=True)
class Hidden:
    """What an encoder computed for a batch of n rows with T tokens in all, end to end.

    `last` is [T, D], the last hidden state or the mean of the requested layers; `words` gives the word embeddings of
    token ids; `ids` is int32 or int64 [T]; `lengths` has n entries; `pooler` gives [n, D] from the first tokens' last
    hidden states; `head` makes the sentence embedding of a declared pooling.
    """

    last: Tensor
    ids: Tensor
    lengths: list[int]
    words: Callable[[Tensor], Tensor]
    pooler: Callable[[], Tensor]
    #: Where rows begin and end, int32 [n + 1].
    bounds: Tensor
    head: "SentenceHead | None" = None

    @cached_property
    def first(self) -> Tensor:
        """Index of each row's first token, int64 [n]."""
        return self.bounds[:-1].long()

    def sums(self, tokens: Tensor) -> Tensor:
        """Sum each row's tokens in float32: [T, D] to [n, D]."""
        if tokens.is_cuda:
            if find_spec("triton") is None:
                return self._reduced(tokens, "sum")
            from pipeline.encode.kernels import row_sums

            return row_sums(tokens.contiguous(), self.bounds)
        return torch.cat([
            tokens[start : start + rows * length].view(rows, length, -1).sum(1, dtype=torch.float32)
            for start, rows, length in equal_lengths(self.lengths)
        ])  # fmt: skip

    def maxima(self, tokens: Tensor) -> Tensor:
        """The largest of each row's tokens in float32: [T, D] to [n, D]."""
        return self._reduced(tokens, "max")

    def _reduced(self, tokens: Tensor, how: str) -> Tensor:
        return torch.segment_reduce(tokens.float(), how, lengths=self.bounds.diff().long(), unsafe=True)
