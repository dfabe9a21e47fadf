"""Rows of a source, read and tokenised in a background thread while the encoder computes."""

import itertools
import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from pipeline.encode.tokens import Tokeniser, Tokens, inputs_of, joined, sentences_of
from pipeline.encode.workers import Workers, tokenise
from pipeline.errors import SourceError
from pipeline.sources import Row, Source

__all__ = ["TokenStream"]

#: Rows that one call of a worker tokenises, and blocks that are under way where there are workers.
PIECE_ROWS = 2048
BLOCKS_AHEAD = 6


class TokenStream:
    """Gives blocks of rows with their tokens; the block that will be asked for next is made ready meanwhile.

    With `workers` several blocks are, by these processes. Close it, or use it in a `with` block.
    """

    def __init__(
        self, source: Source, splits: Mapping[str, int], tokeniser: Tokeniser, block_rows: int,
        workers: Workers | None = None, *, siamese: bool = False,
    ) -> None:  # fmt: skip
        """`splits` maps the splits to their rows, in the order in which they will be asked for.

        With `siamese` a block's tokens are those of its distinct sentences, as `sentences_of` gives them.
        """
        self._source, self._splits, self._tokeniser, self.block_rows = source, splits, tokeniser, block_rows
        self._workers, self._siamese = workers, siamese
        self._next: tuple[str, int] | None = None
        self._stop = threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue()
        self._thread: threading.Thread | None = None

    def get(self, split: str, start: int, stop: int) -> tuple[list[Row], Tokens]:
        """Rows [start, stop) of a split; quick where it follows on the last one asked for. Raises `SourceError`."""
        if self._next != (split, start):
            self._restart(split, start)
        found = self._queue.get()
        if isinstance(found, BaseException):
            raise found
        rows, parts = found
        if len(rows) != stop - start:
            raise SourceError(
                f"{split}: expected rows {start} to {stop}, found {len(rows)} of them: the data changed while it was "
                "read; run the same command again"
            )
        tokens = joined([part.result() for part in parts]) if isinstance(parts, list) else parts
        self._next = (split, stop) if stop < self._splits[split] else self._following(split)
        return rows, tokens

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
            for rows in self._pieces(split, start):
                if not _put(out, (rows, self._tokens(rows)), stop):
                    return
        except BaseException as error:
            _put(out, error, stop)

    def _tokens(self, rows: list[Row]) -> Tokens | list[Future[Tokens]]:
        if self._siamese:
            rows, _ = sentences_of(rows)
        if self._workers is None:
            return self._tokeniser(rows)
        inputs = inputs_of(rows)
        return [
            self._workers.submit(tokenise, self._tokeniser.state, self._tokeniser.types, inputs[at : at + PIECE_ROWS])
            for at in range(0, len(inputs), PIECE_ROWS)
        ]

    def begin(self) -> None:
        """Make the first blocks of the first split ready before they are asked for."""
        if self._next is None and self._splits:
            self._restart(next(iter(self._splits)), 0)

    def _pieces(self, split: str, start: int) -> Iterator[list[Row]]:
        names = list(self._splits)
        for name in names[names.index(split) :]:
            rows = itertools.islice(self._source.rows(name), start if name == split else 0, None)
            while piece := list(itertools.islice(rows, self.block_rows)):
                yield piece

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
