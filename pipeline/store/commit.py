"""The two threads behind a writer: one packs and writes blocks, one puts them on the disk and into the journal.

Computing the next block, hashing and writing this one, and waiting for the disk to have the last one go on at the same
time. The queues are short, so memory does not grow with the split.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pipeline.errors import CacheError
from pipeline.store.journal import Journal
from pipeline.store.stream import DataFile, Stream, disk_errors

__all__ = ["Committer", "commit_record"]

Rows = np.ndarray | list[bytes]


def commit_record(
    streams: Mapping[str, Stream], known: Mapping[str, int], end: int, notes: Mapping[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """A journal record (header, payload) of `streams`, of which `known` chunks each stand in earlier records."""
    states = {path: stream.state(known[path]) for path, stream in streams.items()}
    tails = b"".join(stream.tail.tobytes() for stream in streams.values())
    return {"end": end, "streams": states, **notes}, tails


class Committer:
    """Takes blocks in order and makes them last; an error shows at the next call and stops everything after it."""

    def __init__(self, file: DataFile, journal: Journal) -> None:
        self._file, self._journal = file, journal
        self._blocks: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._records: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._hashers = ThreadPoolExecutor(2, "hash")
        self._threads = [
            threading.Thread(target=self._guard, args=(self._write_all,), name="write", daemon=True),
            threading.Thread(target=self._guard, args=(self._commit_all,), name="commit", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, block: Mapping[str, tuple[Stream, Rows, bool]], notes: Mapping[str, Any]) -> None:
        """Hand over a block: for each stream its rows and whether they are the last; waits while two are under way."""
        self.check()
        self._blocks.put((block, notes))
        self.check()

    def check(self) -> None:
        """Raise what went wrong in the background, if anything has."""
        if self._error is None:
            return
        with disk_errors(self._file.path):
            raise self._error

    def close(self) -> None:
        """Wait until everything handed over lasts; errors show in `check`."""
        self._blocks.put(None)
        for thread in self._threads:
            thread.join()
        self._hashers.shutdown()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = self._error or error
            source = self._blocks if work == self._write_all else self._records
            if work == self._write_all:
                self._records.put(None)
            while source.get() is not None:  # never leave the thread before waiting on a full queue
                pass

    def _write_all(self) -> None:
        while (item := self._blocks.get()) is not None:
            if self._error is not None:
                continue
            block, notes = item
            known = {path: len(stream.chunks) for path, (stream, _, _) in block.items()}
            hashes = [self._hashers.submit(stream.hash, rows, last=last) for stream, rows, last in block.values()]
            try:
                for stream, rows, last in block.values():
                    pieces, end = stream.pack(rows, self._file.end, last=last)
                    self._file.append(pieces)
                    if self._file.end != end:
                        raise CacheError(f"{self._file.path}: expected to end at {end}, found {self._file.end}")
            finally:
                for found in hashes:
                    found.result()
            self._records.put(commit_record({p: s for p, (s, _, _) in block.items()}, known, self._file.end, notes))
        self._records.put(None)

    def _commit_all(self) -> None:
        while (item := self._records.get()) is not None:
            self._file.sync()
            self._journal.append(*item)
            self._file.committed = item[0]["end"]
