"""One block of rows through the encoder: sorted by length, cut by a token budget, put back in row order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.encode.arrays import fold
from pipeline.encode.cores import side_by_side
from pipeline.encode.load import Loaded
from pipeline.encode.tokens import Tokens
from pipeline.errors import DeviceError
from pipeline.poolings import POOLINGS

__all__ = [
    "Pending",
    "SortedTokens",
    "batches",
    "default_batch_tokens",
    "encode_block",
    "sort_tokens",
    "start_block",
]

#: Tokens of a batch on a CPU: measured in `benchmarks/`, large enough for full speed, small enough for the cache.
CPU_BATCH_TOKENS = 4096
#: Batches of a block on a CPU, where these have so many tokens each: cores take them in turn.
CPU_BATCHES, LEAST_TOKENS = 16, 1024
GPU_BATCH_TOKENS = 131072


def default_batch_tokens(device: torch.device, width: int) -> int:
    """The token budget of a batch: fixed on a CPU, on a GPU as many as a quarter of its free memory surely holds."""
    if device.type != "cuda":
        return CPU_BATCH_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    # About 16 arrays of the width in four bytes live at once, the feed-forward's fourfold one included.
    return int(min(GPU_BATCH_TOKENS, max(CPU_BATCH_TOKENS, free // 4 // (16 * 4 * width))))


def batches(lengths: np.ndarray, budget: int, *, padded: bool) -> Iterator[tuple[int, int]]:
    """Cut rows that are sorted by falling length into ranges of at most `budget` tokens, and at least one row.

    With `padded` every row counts as long as the longest of its batch.
    """
    start = 0
    while start < len(lengths):
        if padded:
            count = budget // int(lengths[start])
        else:
            count = int(np.searchsorted(np.cumsum(lengths[start : start + budget]), budget, "right"))
        stop = min(start + max(1, count), len(lengths))
        yield start, stop
        start = stop


def even_budget(lengths: np.ndarray, budget: int, device: torch.device) -> int:
    """A budget of at most `budget` tokens that cuts unpadded rows into batches of about one size.

    A small last one would leave a GPU half idle, or one core of a CPU, where batches are also as many as a power of
    two, so that cores have equally many. It depends on the rows alone, as the vectors' last bits depend on it.
    """
    total = int(lengths.sum())
    count = -(-total // budget)
    if device.type == "cpu":
        count = 1 << (count - 1).bit_length()
        while count < CPU_BATCHES and total >= 2 * count * LEAST_TOKENS:
            count *= 2
    return min(budget, -(-total // count) + int(lengths.max()))


class Pending:
    """A block that is being encoded: `arrays` waits for it. On a GPU the caller's thread is free meanwhile."""

    def __init__(self, arrays: dict[str, Tensor | np.ndarray], done: torch.cuda.Event | None) -> None:
        self._arrays, self._done = arrays, done

    def arrays(self) -> dict[str, np.ndarray]:
        """The encoder's datasets, in row order: float32 [N, D] or [N, m], `last_hidden` float16 [T, D]."""
        if self._done is not None:
            self._done.synchronize()
        return {name: a.numpy() if isinstance(a, Tensor) else a for name, a in self._arrays.items()}


@dataclass(frozen=True)
class SortedTokens:
    """Tokens of a block by falling length; `order` says which row is where, `ids` and `types` may be pinned memory."""

    tokens: Tokens
    order: np.ndarray
    ids: Tensor
    types: Tensor
    given: Tokens


def sort_tokens(tokens: Tokens, device: torch.device) -> SortedTokens:
    """What `start_block` wants: everything that can be done before the device has its turn."""
    order = np.argsort(-tokens.lengths, kind="stable")
    ordered = tokens.take(order)
    ids, types = (torch.from_numpy(array) for array in (ordered.ids, ordered.types))
    if device.type == "cuda" and len(ids):
        ids, types = ids.pin_memory(), types.pin_memory()
    return SortedTokens(ordered, order, ids, types, tokens)


def start_block(
    loaded: Loaded, block: SortedTokens, datasets: Sequence[str], *, default_feature: str, reduce_size: int,
    batch_tokens: int, advance: Callable[[int], None] | None = None,
) -> Pending:  # fmt: skip
    """Encode a block: on a CPU now, on a GPU in the background of the calling thread.

    `advance` is told of every batch's rows. Raises `DeviceError` where the device's memory does not hold a batch.
    """
    poolings = [name for name in POOLINGS if name in datasets or (name == default_feature and "reduced" in datasets)]
    tokens, order = block.given, block.order
    if not len(order):
        widths = {"D": loaded.width, "S": loaded.sentence_width}
        empty = {name: np.empty((0, widths[POOLINGS[name].width]), np.float32) for name in poolings}
        return Pending({name: values for name, values in empty.items() if name in datasets}, None)
    parts: dict[str, list[Tensor]] = {name: [] for name in poolings}
    states = np.empty((len(tokens.ids), loaded.width), np.float16) if "last_hidden" in datasets else None
    try:
        with torch.inference_mode():
            for rows, pooled in _pooled(loaded, block, poolings, states, batch_tokens):
                for name, part in pooled.items():
                    parts[name].append(part)
                if advance:
                    advance(rows)
            back = _to(loaded.device, np.argsort(order))
            whole = {name: torch.cat(part)[back] for name, part in parts.items()}
            if "reduced" in datasets:
                whole["reduced"] = fold(whole[default_feature], reduce_size)
            found = {name: _from(values) for name, values in whole.items() if name in datasets}
            # Blocking: who waits leaves the processor to the others.
            done = torch.cuda.Event(blocking=True) if loaded.device.type == "cuda" else None
            if done is not None:
                done.record()
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceError(
            f"{loaded.device}: expected memory for {batch_tokens} tokens a batch, found too little; "
            "give a smaller --batch-tokens, with --force if work was begun"
        ) from error
    return Pending(found if states is None else found | {"last_hidden": states}, done)


def encode_block(
    loaded: Loaded, tokens: Tokens, datasets: Sequence[str], *, default_feature: str, reduce_size: int,
    batch_tokens: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """`sort_tokens`, `start_block` and its arrays."""
    block = sort_tokens(tokens, loaded.device)
    return start_block(
        loaded, block, datasets, default_feature=default_feature, reduce_size=reduce_size, batch_tokens=batch_tokens
    ).arrays()


def _pooled(
    loaded: Loaded, block: SortedTokens, poolings: Sequence[str], states: np.ndarray | None, batch_tokens: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Rows and poolings of each batch in turn; tokens' last hidden states go to their places in `states`."""
    ids, types = (part.to(loaded.device, non_blocking=True) for part in (block.ids, block.types))
    lengths, offsets = block.tokens.lengths, block.tokens.offsets

    def encode(batch: tuple[int, int]) -> tuple[int, dict[str, Tensor]]:
        start, stop = batch
        part = slice(int(offsets[start]), int(offsets[stop]))
        with torch.inference_mode():
            hidden = loaded.hidden(ids[part], types[part], lengths[start:stop].tolist())
            if states is not None:
                states[block.given.places(block.order[start:stop])] = hidden.last.half().cpu().numpy()
            return stop - start, {name: POOLINGS[name].compute(hidden) for name in poolings}

    padded = loaded.forward.path == "padded"
    if not padded and len(lengths):
        batch_tokens = even_budget(lengths, batch_tokens, loaded.device)
    cut = list(batches(lengths, batch_tokens, padded=padded))
    yield from side_by_side(encode, cut) if loaded.device.type == "cpu" and not padded else map(encode, cut)


def _to(device: torch.device, array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _from(values: Tensor) -> Tensor:
    """A tensor on the CPU; from a GPU it arrives in pinned memory once the device has come so far."""
    if not values.is_cuda:
        return values
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
