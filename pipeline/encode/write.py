"""The blocks of one file, from rows to the writer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.encode.arrays import plain_arrays
from pipeline.encode.blocks import Pending, start_block
from pipeline.encode.load import Loaded
from pipeline.encode.request import TaskRequest
from pipeline.encode.stream import TokenStream
from pipeline.encode.tokens import Tokens
from pipeline.progress import bar, say
from pipeline.store import Block, CacheWriter

__all__ = ["encode_blocks"]


def encode_blocks(
    request: TaskRequest, loaded: Loaded, writer: CacheWriter, stream: TokenStream, reduce_size: int,
    batch_tokens: int | None,
) -> dict[str, int]:  # fmt: skip
    """Encode and write the blocks that are left; rows, tokens and truncated rows of these."""
    budget = int(writer.plan["batch_tokens"])
    if writer.resumed_blocks:
        say(f"{request.path}: going on after {writer.resumed_blocks} finished blocks")
        if batch_tokens not in (None, budget):
            say(f"{request.path}: keeping the {budget} tokens a batch with which it was begun")
    counts = {"rows": 0, "tokens": 0, "truncated": 0}
    ahead = loaded.device.type == "cuda"
    begun: dict[Block, _Begun] = {}
    with bar(f"{request.attributes['task']} ({loaded.forward.path})", sum(request.splits.values()), "rows") as progress:

        def begin(block: Block) -> None:
            columns, tokens = stream.get(block.split, block.start, block.stop)
            lengths, places, datasets = tokens.lengths, columns.places, block.datasets
            if places is not None:
                lengths, datasets = lengths[places].sum(1), (request.default_feature,)
            pending = start_block(
                loaded,
                tokens,
                datasets,
                default_feature=request.default_feature,
                reduce_size=reduce_size,
                batch_tokens=budget,
                advance=progress.advance,
            )
            arrays = plain_arrays(columns, lengths, block.start, request.source.task)
            begun[block] = _Begun(arrays, tokens, pending, places)

        for block in writer.todo():
            if block not in begun:
                begun.clear()
                begin(block)
            following = _following(block, request.splits, writer.block_rows) if ahead else None
            if following is not None:
                begin(following)
            done = begun.pop(block)
            arrays = done.arrays | done.pending.arrays()
            if done.places is not None:
                arrays["u"], arrays["v"] = (arrays[request.default_feature][done.places[:, i]] for i in range(2))
            # `length` goes with `last_hidden` even where it is stored already.
            writer.write(block, {name: arrays[name] for name in (*block.datasets, "length")})
            counts["rows"] += block.rows
            counts["tokens"] += len(done.tokens.ids)
            counts["truncated"] += done.tokens.truncated
    return counts


@dataclass(frozen=True)
class _Begun:
    """A block that the device has to work on: what needs no encoder is there already.

    `places` is where the two sentences of each pair are among the tokens' rows, for siamese pairs.
    """

    arrays: dict[str, Any]
    tokens: Tokens
    pending: Pending
    places: np.ndarray | None


def _following(block: Block, splits: Mapping[str, int], block_rows: int) -> Block | None:
    """The block that the writer will most likely ask for next; where it asks for another, this one is dropped."""
    split, start = block.split, block.stop
    if start >= splits[split]:
        names = list(splits)
        later = [name for name in names[names.index(split) + 1 :] if splits[name]]
        if not later:
            return None
        split, start = later[0], 0
    return Block(split, start, min(start + block_rows, splits[split]), block.datasets)
