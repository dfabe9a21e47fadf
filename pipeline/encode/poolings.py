"""From tokens to one vector a row: the registry `POOLINGS`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["POOLINGS", "Hidden", "bounds_of", "groups"]


def groups(lengths: list[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of equal lengths as (first token, rows, length): rows of one run make a dense array without padding."""
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
    # Pinned: a copy from pageable memory would wait for all that the device has to do.
    return bounds.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else bounds.to(device)


@dataclass(frozen=True)
class Hidden:
    """What an encoder computed for a batch of n rows with T tokens in all, end to end.

    `last` is [T, D], the last hidden state or the mean of the layers asked for; `words` gives the word embeddings of
    token ids; `ids` is int32 or int64 [T]; `lengths` has n entries; `pooler` gives [n, D] from the first tokens' last
    hidden states, already applied where the model does so itself.
    """

    last: Tensor
    ids: Tensor
    lengths: list[int]
    words: Callable[[Tensor], Tensor]
    pooler: Callable[[], Tensor]
    #: Where rows begin and end, int32 [n + 1].
    bounds: Tensor

    @cached_property
    def first(self) -> Tensor:
        """Index of each row's first token, int64 [n]."""
        return self.bounds[:-1].long()

    def sums(self, tokens: Tensor) -> Tensor:
        """Sum each row's tokens in float32: [T, D] to [n, D]."""
        if tokens.is_cuda:
            if find_spec("triton") is None:
                return torch.segment_reduce(tokens.float(), "sum", lengths=self.bounds.diff().long(), unsafe=True)
            from pipeline.encode.kernels import row_sums

            return row_sums(tokens.contiguous(), self.bounds)
        parts = [
            tokens[start : start + rows * length].view(rows, length, -1).sum(1, dtype=torch.float32)
            for start, rows, length in groups(self.lengths)
        ]
        return torch.cat(parts)


def _cls(hidden: Hidden) -> Tensor:
    return hidden.last[hidden.first].float()


def _mean(hidden: Hidden) -> Tensor:
    return hidden.sums(hidden.last).div_(hidden.bounds.diff()[:, None])


def _weight(hidden: Hidden) -> Tensor:
    return hidden.sums(hidden.words(hidden.ids))


def _pooled(hidden: Hidden) -> Tensor:
    return hidden.pooler().float()


POOLINGS: dict[str, Callable[[Hidden], Tensor]] = {"pooled": _pooled, "cls": _cls, "mean": _mean, "weight": _weight}
