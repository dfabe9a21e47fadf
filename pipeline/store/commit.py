"""The threads behind a writer: hash, pack, append, and commit.

Computing the next block, hashing and packing this one, appending the last one to the file and waiting for the disk to
have those before it go on at the same time. At most three blocks are in memory, so it does not grow with the split.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import CacheError
from pipeline.store.journal import Journal
from pipeline.store.stream import DataFile, Rows, Stream, disk_errors

__all__ = ["Committer"]

_UNDER_WAY = 3
_HASHERS = 2


@dataclass
class _Packed:
    """A block between packing and commit: pieces of memory to append, its journal record, hashes to wait for."""

    pieces: list[Any]
    end: int
    header: dict[str, Any]
    payload: bytes
    hashes: dict[str, Future[str]]


class Committer:
    """Takes blocks in order and makes them last; an error shows at the next call and stops everything after it."""

    def __init__(self, file: DataFile, journal: Journal) -> None:
        self._file, self._journal, self._end = file, journal, file.end
        self._blocks: queue.Queue[Any] = queue.Queue()
        self._packed: queue.Queue[Any] = queue.Queue()
        self._appended: queue.Queue[Any] = queue.Queue()
        self._room = threading.Semaphore(_UNDER_WAY)
        self._error: BaseException | None = None
        # A dataset's rows are hashed in order: each stays with one thread, the largest spread first.
        self._hashers = [ThreadPoolExecutor(1, f"hash{i}") for i in range(_HASHERS)]
        self._hasher_of: dict[int, ThreadPoolExecutor] = {}
        self._load = [0] * _HASHERS
        self._threads = [
            threading.Thread(target=self._run, args=(self._blocks, self._pack), name="pack", daemon=True),
            threading.Thread(target=self._run, args=(self._packed, self._append), name="append", daemon=True),
            threading.Thread(target=self._commit, name="commit", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, block: Mapping[str, tuple[Stream, Rows, bool]], notes: Mapping[str, Any]) -> None:
        """Hand over a block: for each stream its rows and if they are the last; waits while three are under way."""
        self.check()
        self._room.acquire()
        self._blocks.put((block, notes))
        self.check()

    def check(self) -> None:
        """Raise what went wrong in the background, if anything has."""
        if self._error is not None:
            with disk_errors(self._file.path):
                raise self._error

    def close(self) -> None:
        """Wait until everything handed over lasts; errors show in `check`."""
        sources = (self._blocks, self._packed, self._appended)
        for source, thread in zip(sources, self._threads, strict=True):
            source.put(None)
            thread.join()
        for hasher in self._hashers:
            hasher.shutdown()

    def _run(self, source: "queue.Queue[Any]", work: Callable[[Any], None]) -> None:
        """Work on what comes until `None` does; after an error, only take it away."""
        failed = False
        while (item := source.get()) is not None:
            if not failed:
                try:
                    work(item)
                    continue
                except BaseException as error:
                    self._error, failed = self._error or error, True
            self._room.release()

    def _pack(self, item: tuple[Mapping[str, tuple[Stream, Rows, bool]], Mapping[str, Any]]) -> None:
        self.check()  # what the commit of an earlier block met; a block that cannot be packed stops none before it
        block, notes = item
        hashes = {}
        for path, (stream, rows, last) in sorted(block.items(), key=lambda item: -_size(item[1][1])):
            hashes[path] = self._hasher(stream, _size(rows)).submit(stream.hash, rows, last=last)
        pieces: list[Any] = []
        states, tails = {}, []
        for path, (stream, rows, last) in block.items():
            known = len(stream.chunks)
            found, self._end = stream.pack(rows, self._end, last=last)
            pieces += found
            states[path] = stream.state(known) | {"last": last}
            tails.append(stream.tail.tobytes())
        header = {"end": self._end, "streams": states, **notes}
        self._packed.put(_Packed(pieces, self._end, header, b"".join(tails), hashes))

    def _hasher(self, stream: Stream, size: int) -> ThreadPoolExecutor:
        if id(stream) not in self._hasher_of:
            least = self._load.index(min(self._load))
            self._load[least] += size
            self._hasher_of[id(stream)] = self._hashers[least]
        return self._hasher_of[id(stream)]

    def _append(self, packed: _Packed) -> None:
        self._file.append(packed.pieces)
        if self._file.end != packed.end:
            raise CacheError(f"{self._file.path}: expected to end at {packed.end}, found {self._file.end}")
        packed.pieces = []
        self._appended.put(packed)

    def _commit(self) -> None:
        """Make what was appended last: all blocks that wait while the disk is busy are committed together."""
        ended = failed = False
        while not ended:
            waiting = [self._appended.get()]
            while not self._appended.empty():
                waiting.append(self._appended.get())
            if waiting[-1] is None:
                ended = True
                waiting.pop()
            try:
                for packed in waiting:
                    for path, found in packed.hashes.items():
                        packed.header["streams"][path]["sha256"] = found.result()
                    packed.hashes = {}
            except BaseException as error:
                self._error, failed = self._error or error, True
            for _ in waiting:
                self._room.release()
            if failed or not waiting:
                continue
            try:
                self._file.sync()
                # Before the records, not after: one that fails may be whole all the same, and must not name bytes that
                # are cut.
                self._file.committed = waiting[-1].end
                self._journal.append(*((packed.header, packed.payload) for packed in waiting))
            except BaseException as error:
                self._error, failed = self._error or error, True


def _size(rows: Rows) -> int:
    return rows.nbytes if isinstance(rows, np.ndarray) else len(rows.data)
