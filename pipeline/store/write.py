"""Writing a cache: block by block, resumable after any interruption, whole or not there at all."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import CacheError
from pipeline.store.blocks import block_rows, read_block
from pipeline.store.commit import Committer
from pipeline.store.finish import write_index
from pipeline.store.journal import Journal, Lock, Record, read_journal, remove_work, sync_folder, work_folder
from pipeline.store.parse import Bytes
from pipeline.store.read import Cache, open_cache
from pipeline.store.request import Group, check_same_request, groups_of, missing_datasets, specs_of, with_existing
from pipeline.store.schema import LAST_HIDDEN, SCHEMA, check_datasets, fingerprint
from pipeline.store.stream import DataFile, Stream, disk_errors

__all__ = ["BLOCK_ROWS", "BLOCK_ROWS_RAGGED", "CHUNK_BYTES", "Block", "CacheWriter"]

BLOCK_ROWS = 8192
#: With every token's state stored a row is a hundred times as large; fewer rows a block keep memory small.
BLOCK_ROWS_RAGGED = 2048
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Block:
    """Rows [start, stop) of a split, and the datasets wanted for them; rows count from the split's beginning."""

    split: str
    start: int
    stop: int
    datasets: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.stop - self.start


class CacheWriter:
    """Writes `path` as a cache, going on from where an interrupted run of the same request stopped.

    `attributes` are the root attributes of `schema.ATTRIBUTES` (schema, fingerprint and created are filled in) and any
    further texts and numbers; `splits` maps each split to its rows; `datasets` names what is wanted (`last_hidden` is
    one name); `widths` gives the axes `D` and `m`. `plan` is free JSON that is kept with half-finished work: what a
    resumed run must do as the first one did (a token budget). `ranges` restricts the work to rows [a, b) of splits: the
    result is a part of a file, for `merge_parts`.

    Use it in a `with` block: `for block in writer.todo(): writer.write(block, arrays)`, then `finish()`. Leaving
    without `finish` keeps what was written for the next run. Errors of the disk come out of a later `write` or of
    `finish`.

    A finished file of the same fingerprint keeps what it has and gets what it lacks. A finished file of another
    fingerprint, and half-finished work that was begun for another request, are a `CacheMismatchError` without `force`;
    with it they are replaced (a finished file stays until the new one is whole). A second writer of the same file is a
    `CacheError` that names the first.
    """

    #: What the run that began this file recorded: the same object's content for every run until it is finished.
    plan: dict[str, Any]
    #: Rows of a block; the last block of a split may have fewer.
    block_rows: int
    #: Blocks that earlier runs had committed.
    resumed_blocks: int = 0

    def __init__(
        self,
        path: str | os.PathLike[str],
        attributes: Mapping[str, Any],
        splits: Mapping[str, int],
        datasets: Sequence[str],
        widths: Mapping[str, int],
        *,
        plan: Mapping[str, Any] | None = None,
        force: bool = False,
        block_rows: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        ranges: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.path, self._work = Path(path), work_folder(Path(path))
        asked = check_datasets(datasets)
        if block_rows is None:
            block_rows = BLOCK_ROWS_RAGGED if LAST_HIDDEN in asked else BLOCK_ROWS
        if not 1 <= block_rows <= BLOCK_ROWS:
            raise CacheError(f"block_rows: expected 1 to {BLOCK_ROWS}, found {block_rows}")
        attributes = dict(attributes) | {"schema": SCHEMA}
        attributes["fingerprint"] = fingerprint(attributes)
        attributes.setdefault("created", datetime.now(UTC).isoformat(timespec="seconds"))
        if ranges is not None:
            attributes["part"] = {split: [*ranges[split], splits[split]] for split in ranges}
            splits = {split: stop - start for split, (start, stop) in ranges.items()}
        self._first = {split: ranges[split][0] if ranges else 0 for split in splits}
        request = {
            "fingerprint": attributes["fingerprint"],
            "part": attributes.get("part"),
            "splits": dict(splits),
            "datasets": {split: list(asked) for split in splits},
            "copied": {},
            "widths": dict(widths),
        }
        begin = {
            "request": request,
            "attributes": attributes,
            "plan": dict(plan or {}),
            "block_rows": block_rows,
            "chunk_bytes": chunk_bytes,
        }
        self._committer: Committer | None = None
        self._base: Cache | None = None
        self._open_files: list[DataFile | Journal] = []
        self._groups: list[Group] = []
        with disk_errors(self._work):
            self._lock = Lock(self._work)
        try:
            self._begin(begin, force)
        except BaseException:
            self.close()
            raise

    def _begin(self, begin: dict[str, Any], force: bool) -> None:
        request = begin["request"]
        if self.path.exists() and not force:
            asked = next(iter(request["datasets"].values()), [])
            if not missing_datasets(self.path, begin["attributes"], request["splits"], asked, part=request["part"]):
                self.plan, self.block_rows, self.attributes = begin["plan"], begin["block_rows"], begin["attributes"]
                if not (self._work / "data.h5").exists():  # left behind between renaming the file and clearing up
                    remove_work(self._work)
                return
            begin["request"] = with_existing(self.path, request)
            self._base = open_cache(self.path)
        # Without data a journal is what a run left that was killed between naming the file and clearing up.
        records = read_journal(self._work / "journal") if (self._work / "data.h5").exists() else iter(())
        first = next(records, None)
        try:
            if first:
                check_same_request(self._work, begin, first.header)
            self._resume(begin, first, records)
        except CacheError:
            if not force or not first:
                raise
            self._let_go()
            self._resume(begin, None, iter(()))

    def _resume(self, begin: dict[str, Any], first: Record | None, records: Iterator[Record]) -> None:
        head = first.header if first else begin
        self.plan, self.block_rows, self.attributes = head["plan"], head["block_rows"], head["attributes"]
        self._groups = groups_of(head["request"])
        self._done, self._tokens = [0] * len(self._groups), [0] * len(self._groups)
        self._streams = [{spec.path: Stream(spec) for spec in specs_of(group, head)} for group in self._groups]
        end, length, self.resumed_blocks = 0, first.end if first else 0, 0
        for header, payload, length in records:  # noqa: B007 - the last one's end is the journal's
            number, self._done[number] = header["block"]
            end, position = header["end"], 0
            for path, state in header["streams"].items():
                self._streams[number][path].restore(state, payload[position : position + state["tail"]])
                position += state["tail"]
                if path == "last_hidden/values":
                    self._tokens[number] = state["done"]
            self.resumed_blocks += not self._groups[number].copied
        with disk_errors(self._work):
            self._file = DataFile(self._work / "data.h5", end)
            self._open_files.append(self._file)
            self._journal = Journal(self._work / "journal", length)
            self._open_files.append(self._journal)
            if not first:
                self._journal.append((begin, b""))
            self._rehash()
        self._committer = Committer(self._file, self._journal)

    def _rehash(self) -> None:
        if any(self._done):
            with contextlib.closing(Bytes(self._work / "data.h5")) as file:
                for stream in (stream for streams in self._streams for stream in streams.values()):
                    stream.rehash(file)

    def left(self) -> list[Block]:
        """The blocks that `todo` will give, told beforehand."""
        return [
            Block(group.split, first + start, first + min(start + self.block_rows, group.rows), group.datasets)
            for number, group in enumerate(self._groups)
            for first in (self._first.get(group.split, 0),)
            for start in range(self._done[number], group.rows, self.block_rows)
            if not group.copied
        ]

    def todo(self) -> Iterator[Block]:
        """The blocks that are left, in order: write each before asking for the next."""
        for number, group in enumerate(self._groups):
            first = self._first.get(group.split, 0)
            if group.rows == 0 and any(stream.digest is None for stream in self._streams[number].values()):
                empty = {path: [] if s.spec.dtype == "string" else s.tail for path, s in self._streams[number].items()}
                self._put(number, Block(group.split, first, first, group.datasets), {"length": [], **empty})
            while self._done[number] < group.rows:
                start = self._done[number]
                stop = min(start + self.block_rows, group.rows)
                block = Block(group.split, first + start, first + stop, group.datasets)
                if group.copied:
                    view = self._base[group.split]
                    self._put(number, block, read_block(view, block.datasets, block.start, block.stop))
                    continue
                yield block
                if self._done[number] == start:
                    raise CacheError(f"{self.path}: expected {block} to be written before the next block is asked for")

    def write(self, block: Block, arrays: Mapping[str, Any]) -> None:
        """Hand over a block: for each name of `block.datasets` an array [rows, ...], or `Texts`, or a list of texts.

        `last_hidden` (or `last_hidden/values`) is [tokens, D], rows end to end, and wants `length` [rows] beside it
        even where `length` itself is stored already. Arrays must not be changed afterwards. Returns as soon as the
        block is queued; a block is safe when it has been committed, in the background.
        """
        number, first = self._number(block.split), self._first.get(block.split, 0)
        expected = first + (self._done[number] if number is not None else 0)
        if number is None or block.start != expected or block.stop > first + self._groups[number].rows:
            raise CacheError(
                f"{self.path}: expected the block of {block.split} that begins at row {expected}, found {block}"
            )
        self._put(number, block, arrays)

    def _put(self, number: int, block: Block, arrays: Mapping[str, Any]) -> None:
        group, streams = self._groups[number], self._streams[number]
        before = self._tokens[number] if self._done[number] else None
        rows = block_rows([stream.spec for stream in streams.values()], block.rows, before, arrays)
        self._done[number] += block.rows
        self._tokens[number] += len(rows.get("last_hidden/values", ()))
        last = self._done[number] == group.rows
        handed = {path: (streams[path], values, last) for path, values in rows.items()}
        self._committer.put(handed, {"block": [number, self._done[number]], "split": group.split})

    def _number(self, split: str) -> int | None:
        return next((i for i, g in enumerate(self._groups) if g.split == split and not g.copied), None)

    def committed(self, split: str, path: str) -> Iterator[np.ndarray]:
        """Rows of a dataset that earlier runs wrote and left unfinished, in pieces; before `write` adds to them."""
        with contextlib.closing(Bytes(self._work / "data.h5")) as file:
            yield from self._streams[self._number(split)][path].rows(file)

    def finish(self) -> None:
        """Wait for the last block, write the index, give the file its name; nothing to do where nothing was asked."""
        if self._committer is not None:
            for group, done in zip(self._groups, self._done, strict=True):
                if done != group.rows:
                    raise CacheError(f"{self.path}: expected {group.rows} rows of {group.split}, found {done}")
            self._drain()
            self._check_copies()
            splits: dict[str, tuple[int, dict[str, Stream]]] = {}
            for group, streams in zip(self._groups, self._streams, strict=True):
                splits.setdefault(group.split, (group.rows, {}))[1].update(streams)
            with disk_errors(self._work):
                write_index(self._file, self.attributes, splits)
                os.replace(self._work / "data.h5", self.path)
                sync_folder(self.path.parent)
                remove_work(self._work)
        self.close()

    def _check_copies(self) -> None:
        for group, streams in zip(self._groups, self._streams, strict=True):
            for path, stream in streams.items() if group.copied and self._base is not None else ():
                if self._base[group.split].datasets[path].attributes["sha256"] != stream.digest:
                    raise CacheError(f"{self.path}: {group.split}/{path} is damaged; embed again with --force")

    def _drain(self) -> None:
        if self._committer is not None:
            committer, self._committer = self._committer, None
            committer.close()
            committer.check()

    def close(self) -> None:
        """Let go of file and lock; what was handed over lasts."""
        try:
            self._drain()
        finally:
            self._let_go()
            if self._base is not None:
                self._base.close()
                self._base = None
            self._lock.release()

    def _let_go(self) -> None:
        for file in self._open_files:
            with contextlib.suppress(OSError):  # what an error left behind the last block only takes room
                file.close()
        self._open_files.clear()

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if kind is None:
            self.close()
        else:  # the first error counts, not what it brought down
            with contextlib.suppress(CacheError):
                self.close()
