"""Rows of a source, read and tokenised in a background thread while the encoder computes."""

import itertools
import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from pipeline.encode.arrays import Columns, columns_of, joined_columns
from pipeline.encode.siamese import Numbering, Pairs
from pipeline.encode.spool import PIECE_ROWS, Reading, tokenise_piece
from pipeline.encode.tokens import Tokeniser, Tokens, joined
from pipeline.encode.workers import Workers
from pipeline.errors import SourceError
from pipeline.sources import Row, Source

__all__ = ["TokenStream"]

#: Blocks that are under way where there are workers.
BLOCKS_AHEAD = 16


class TokenStream:
    """Gives blocks of rows with their tokens; the block that will be asked for next is made ready meanwhile.

    With `workers` and what they have read several blocks are, by these processes. Close it, or use it in a `with`
    block.
    """

    def __init__(
        self, source: Source, splits: Mapping[str, int], tokeniser: Tokeniser, block_rows: int,
        workers: Workers | None = None, reading: Reading | None = None, *, siamese: bool = False,
    ) -> None:  # fmt: skip
        """`splits` maps the splits to their rows, in the order in which they will be asked for.

        With `siamese` a block's tokens are those of the sentences that no row of its split before it has.
        """
        self._source, self._splits, self._tokeniser, self.block_rows = source, splits, tokeniser, block_rows
        # A block is made of whole pieces, and a siamese one is not the sum of its pieces.
        spooled = workers is not None and reading is not None and not siamese and block_rows % PIECE_ROWS == 0
        self._workers, self._reading = (workers, reading) if spooled else (None, None)
        self._siamese = siamese
        self._next: tuple[str, int] | None = None
        self._stop = threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue()
        self._thread: threading.Thread | None = None

    def get(self, split: str, start: int, stop: int) -> tuple[Columns, Tokens]:
        """Rows [start, stop) of a split; quick where it follows on the last one asked for. Raises `SourceError`."""
        if self._next != (split, start):
            self._restart(split, start)
        found = self._queue.get()
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, list):
            parts = [future.result() for future in found]
            columns, tokens = joined_columns([part for part, _ in parts]), joined([part for _, part in parts])
        else:
            columns, tokens = found
        if len(columns) != stop - start:
            raise SourceError(
                f"{split}: expected rows {start} to {stop}, found {len(columns)}: the data changed while they were "
                "read; run the same command again"
            )
        self._next = (split, stop) if stop < self._splits[split] else self._following(split)
        return columns, tokens

    def _following(self, split: str) -> tuple[str, int] | None:
        names = list(self._splits)
        after = names[names.index(split) + 1 :]
        return next(((name, 0) for name in after if self._splits[name]), None)

    def _restart(self, split: str, start: int) -> None:
        self.close()
        ahead = 1 if self._workers is None else BLOCKS_AHEAD
        self._stop, self._queue, self._next = threading.Event(), queue.Queue(maxsize=ahead), (split, start)
        self._thread = threading.Thread(
            target=self._work, args=(split, start, self._stop, self._queue), name="tokenise", daemon=True
        )
        self._thread.start()

    def _work(self, split: str, start: int, stop: threading.Event, out: queue.Queue) -> None:
        try:
            blocks = self._read(split, start) if self._reading is None else self._spooled(split, start)
            for block in blocks:
                if not _put(out, block, stop):
                    return
        except BaseException as error:
            _put(out, error, stop)

    def _spooled(self, split: str, start: int) -> "Iterator[list[Future[Any]]]":
        """Blocks as calls of workers, whole blocks from where the split was cut."""
        step = self.block_rows // PIECE_ROWS
        for name in self._from(split):
            pieces = self._reading.pieces(name)
            for at in range(start // PIECE_ROWS if name == split else 0, len(pieces), step):
                yield [
                    self._workers.submit(tokenise_piece, piece, self._tokeniser.state, self._tokeniser.types)
                    for piece in pieces[at : at + step]
                ]

    def _read(self, split: str, start: int) -> Iterator[tuple[Columns, Tokens]]:
        for name in self._from(split):
            rows, begun = self._source.rows(name), start if name == split else 0
            if self._siamese:
                yield from self._pairs(rows, begun)
                continue
            for piece in self._pieces(itertools.islice(rows, begun, None)):
                yield columns_of(piece), self._tokeniser(piece)

    def _pieces(self, rows: Iterator[Row]) -> Iterator[list[Row]]:
        while not self._stop.is_set() and (piece := list(itertools.islice(rows, self.block_rows))):
            yield piece

    def _pairs(self, rows: Iterator[Row], begun: int) -> Iterator[tuple[Columns, Tokens]]:
        """Blocks of a split from row `begun` on; the rows before it are numbered and measured again."""
        numbering, past = Numbering(), [np.empty((0, 2), np.int64)]

        def number(piece: list[Row]) -> tuple[np.ndarray, Tokens]:
            sentences, places = numbering.add(piece)
            tokens = self._tokeniser(sentences)
            numbering.measure(tokens.lengths)
            return places, tokens

        past += [number(piece)[0] for piece in self._pieces(itertools.islice(rows, begun))]
        for piece in self._pieces(rows):
            first = len(numbering)
            places, tokens = number(piece)
            pairs = Pairs(places, first, numbering.lengths(places), np.concatenate(past))
            past = past[:1]
            yield columns_of(piece, pairs), tokens

    def _from(self, split: str) -> list[str]:
        """This split and those behind it."""
        names = list(self._splits)
        return names[names.index(split) :]

    def begin(self) -> None:
        """Make the first blocks of the first split ready before they are asked for."""
        if self._next is None and self._splits:
            self._restart(next(iter(self._splits)), 0)

    def close(self) -> None:
        """End the background thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> "TokenStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _put(out: queue.Queue, item: Any, stop: threading.Event) -> bool:
    """Put an item unless the stream is closed first."""
    while not stop.is_set():
        try:
            out.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
