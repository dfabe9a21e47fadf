"""The blocks of one file, from rows to the writer."""

import contextlib
import queue
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.encode.arrays import Columns, plain_arrays
from pipeline.encode.blocks import Pending, SortedTokens, sort_tokens, start_block
from pipeline.encode.load import Loaded
from pipeline.encode.request import TaskRequest
from pipeline.encode.siamese import PairVectors
from pipeline.encode.stream import TokenStream
from pipeline.errors import CacheError
from pipeline.progress import bar, say
from pipeline.store import Block, CacheWriter

__all__ = ["encode_blocks"]


@dataclass(frozen=True)
class _Ready:
    """A block's rows and tokens, before the encoder has its turn."""

    columns: Columns
    tokens: SortedTokens


@dataclass(frozen=True)
class _Begun:
    """A block that the device works on: what needs no encoder is there already."""

    block: Block
    arrays: dict[str, Any]
    columns: Columns
    pending: Pending


def encode_blocks(
    request: TaskRequest, loaded: Loaded, writer: CacheWriter, stream: TokenStream, reduce_size: int,
    batch_tokens: int | None, behind: Executor,
) -> tuple[dict[str, int], Future[None]]:  # fmt: skip
    """Encode the blocks that are left; rows, tokens and truncated rows of these, and when the file is finished.

    A block is made ready while the one before it is encoded, and a thread of `behind` waits for those before that,
    hands them to the writer and finishes the file. So the device goes on with the next file's blocks meanwhile.
    """
    budget = int(writer.plan["batch_tokens"])
    if writer.resumed_blocks:
        say(f"{request.path}: going on after {writer.resumed_blocks} finished blocks")
        if batch_tokens not in (None, budget):
            say(f"{request.path}: keeping the {budget} tokens a batch with which it was begun")
    counts = {"rows": 0, "tokens": 0, "truncated": 0}
    blocks, total = writer.left(), sum(request.splits.values())
    begun: queue.Queue[_Begun | None] = queue.Queue(maxsize=1)
    finished = behind.submit(_collect, writer, begun, request.default_feature)

    def ready(block: Block) -> _Ready:
        columns, tokens = stream.get(block.split, block.start, block.stop)
        return _Ready(columns, sort_tokens(tokens, loaded.device))

    try:
        with (
            bar(f"{request.attributes['task']} ({loaded.forward.path})", total, "rows") as progress,
            ThreadPoolExecutor(1, "ready") as ahead,
        ):
            coming = ahead.submit(ready, blocks[0]) if blocks else None
            for number, block in enumerate(blocks, start=1):
                one = coming.result()
                coming = ahead.submit(ready, blocks[number]) if number < len(blocks) else None
                tokens, pairs = one.tokens.given, one.columns.pairs
                pending = start_block(
                    loaded,
                    one.tokens,
                    block.datasets if pairs is None else (request.default_feature,),
                    default_feature=request.default_feature,
                    reduce_size=reduce_size,
                    batch_tokens=budget,
                    advance=progress.advance,
                )
                lengths = tokens.lengths if pairs is None else pairs.lengths
                arrays = plain_arrays(one.columns, lengths, block.start, request.source.task)
                _hand(begun, _Begun(block, arrays, one.columns, pending), finished)
                counts["rows"] += block.rows
                counts["tokens"] += len(tokens.ids)
                counts["truncated"] += tokens.truncated
    except BaseException:
        while not finished.done():
            with contextlib.suppress(queue.Full):
                begun.put(None, timeout=0.2)
                break
        finished.exception()
        raise
    return counts, finished


def _hand(begun: "queue.Queue[_Begun | None]", one: _Begun, finished: Future[None]) -> None:
    """Put a block into the queue, unless who takes from it has failed: that error is raised then."""
    while True:
        if finished.done():
            finished.result()
        try:
            return begun.put(one, timeout=0.2)
        except queue.Full:
            continue


def _collect(writer: CacheWriter, begun: "queue.Queue[_Begun | None]", sentence_feature: str) -> None:
    """Write the blocks that come, and finish the file; `None` comes instead of a block where there will be no more."""
    try:
        with PairVectors(writer) as vectors:
            for block in writer.todo():
                one = begun.get()
                if one is None:
                    break
                if one.block != block:
                    raise CacheError(f"{writer.path}: expected {block} to be encoded next, found {one.block}")
                arrays = one.arrays | one.pending.arrays()
                if one.columns.pairs is not None:
                    arrays |= vectors.sides(block, one.columns.pairs, arrays[sentence_feature])
                # `length` goes with `last_hidden` even where it is stored already.
                writer.write(block, {name: arrays[name] for name in (*block.datasets, "length")})
            else:
                writer.finish()
    except BaseException:
        writer.__exit__(RuntimeError, None, None)
        raise
    writer.close()
