"""Rows of a source, read and tokenised in a background thread while the encoder computes."""

import itertools
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.encode.tokens import Tokeniser, Tokens
from pipeline.errors import SourceError
from pipeline.sources import Row, Source

__all__ = ["TokenStream"]


class TokenStream:
    """Gives blocks of rows with their tokens; the block that will be asked for next is made ready meanwhile.

    Close it, or use it in a `with` block.
    """

    def __init__(self, source: Source, splits: Mapping[str, int], tokeniser: Tokeniser, block_rows: int) -> None:
        """`splits` maps the splits to their rows, in the order in which they will be asked for."""
        self._source, self._splits, self._tokeniser, self._block_rows = source, splits, tokeniser, block_rows
        self._next: tuple[str, int] | None = None
        self._stop = threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._thread: threading.Thread | None = None

    def get(self, split: str, start: int, stop: int) -> tuple[list[Row], Tokens]:
        """Rows [start, stop) of a split; quick where it follows on the last one asked for. Raises `SourceError`."""
        if self._next != (split, start):
            self._restart(split, start)
        found = self._queue.get()
        if isinstance(found, BaseException):
            raise found
        rows, tokens = found
        if len(rows) != stop - start:
            raise SourceError(
                f"{split}: expected rows {start} to {stop}, found {len(rows)} of them: the data changed while it was "
                "read; run the same command again"
            )
        self._next = (split, stop) if stop < self._splits[split] else self._following(split)
        return rows, tokens

    def _following(self, split: str) -> tuple[str, int] | None:
        names = list(self._splits)
        after = names[names.index(split) + 1 :]
        return next(((name, 0) for name in after if self._splits[name]), None)

    def _restart(self, split: str, start: int) -> None:
        self.close()
        self._stop, self._queue, self._next = threading.Event(), queue.Queue(maxsize=1), (split, start)
        self._thread = threading.Thread(
            target=self._work, args=(split, start, self._stop, self._queue), name="tokenise", daemon=True
        )
        self._thread.start()

    def _work(self, split: str, start: int, stop: threading.Event, out: queue.Queue) -> None:
        try:
            for rows in self._pieces(split, start):
                if not _put(out, (rows, self._tokeniser(rows)), stop):
                    return
        except BaseException as error:
            _put(out, error, stop)

    def _pieces(self, split: str, start: int) -> Iterator[list[Row]]:
        names = list(self._splits)
        for name in names[names.index(split) :]:
            rows = itertools.islice(self._source.rows(name), start if name == split else 0, None)
            while piece := list(itertools.islice(rows, self._block_rows)):
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
