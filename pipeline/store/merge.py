"""One file out of several workers' parts.

A worker that takes rows [a, b) of a split writes a part: a `CacheWriter` with `ranges={"train": (a, b)}` and a path
from `part_path`. A part is a finished file like any other (resumed, checked and verified the same way), except that
readers refuse it as a cache. `merge_parts` reads the parts in the order of their rows and writes the whole file through
the same writer, so a merge is resumable too and its result is the same as one worker's.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import CacheError, CacheMismatchError
from pipeline.store.blocks import read_block
from pipeline.store.read import Cache, open_cache
from pipeline.store.schema import FINGERPRINT, difference
from pipeline.store.write import Block, CacheWriter

__all__ = ["merge_parts", "part_path"]

#: What describes a part and not the whole.
_OF_PART = ("part", "attributes_sha256")


def part_path(path: Path, number: int) -> Path:
    """Where worker `number` writes its part of `path`: a hidden file beside it."""
    return path.with_name(f".{path.name}.part{number}")


def merge_parts(path: str | os.PathLike[str], parts: Sequence[Path], **options: Any) -> None:
    """Write `path` from parts that hold every row of every split once; the parts stay.

    `options` go to `CacheWriter` (`plan`, `force`, `block_rows`, `chunk_bytes`). Raises `CacheMismatchError` if the
    parts are of different fingerprints or datasets, `CacheError` if rows are missing or there twice.
    """
    if not parts:
        raise CacheError(f"{path}: expected parts to merge, found none")
    with contextlib.ExitStack() as stack:
        caches = [stack.enter_context(open_cache(part, part=True)) for part in parts]
        first = caches[0]
        for cache in caches[1:]:
            if what := difference(first.attributes, cache.attributes, FINGERPRINT):
                raise CacheMismatchError(f"{cache.path}: expected a part of the same file as {first.path}; {what}")
        splits, pieces = _arrange(path, caches)
        names = {name for cache in caches for split in cache for name in cache[split].names}
        for cache in caches:
            for split in cache:
                if missing := names - set(cache[split].names):
                    raise CacheMismatchError(
                        f"{cache.path}: {split}: expected {', '.join(sorted(missing))}, found none"
                    )
        attributes = {name: value for name, value in first.attributes.items() if name not in _OF_PART}
        with CacheWriter(path, attributes, splits, sorted(names), first.widths, **options) as writer:
            for block in writer.todo():
                writer.write(block, _gather(block, pieces[block.split]))
            writer.finish()


def _arrange(
    path: str | os.PathLike[str], caches: Sequence[Cache]
) -> tuple[dict[str, int], dict[str, list[tuple[int, int, Cache]]]]:
    """Rows of each split, and where its rows lie: (first, behind the last, part) in order, without gap or overlap."""
    splits: dict[str, int] = {}
    pieces: dict[str, list[tuple[int, int, Cache]]] = {}
    for cache in caches:
        for split, (start, stop, rows) in cache.attributes["part"].items():
            if splits.setdefault(split, rows) != rows or cache[split].rows != stop - start:
                raise CacheMismatchError(f"{cache.path}: {split}: expected {splits[split]} rows in all, found {rows}")
            pieces.setdefault(split, []).append((start, stop, cache))
    for split, found in pieces.items():
        found.sort(key=lambda piece: piece[:2])
        position = 0
        for start, stop, _ in found:
            if start != position:
                raise CacheError(f"{path}: {split}: expected a part that begins at row {position}, found {start}")
            position = stop
        if position != splits[split]:
            raise CacheError(f"{path}: {split}: expected parts of all {splits[split]} rows, found {position}")
    return splits, pieces


def _gather(block: Block, pieces: Sequence[tuple[int, int, Cache]]) -> Mapping[str, Any]:
    """A block's arrays out of the parts that hold its rows."""
    found = [
        read_block(cache[block.split], block.datasets, max(block.start, start) - start, min(block.stop, stop) - start)
        for start, stop, cache in pieces
        if start < block.stop and stop > block.start
    ]
    return {
        name: [text for piece in found for text in piece[name]]
        if isinstance(found[0][name], list)
        else np.concatenate([piece[name] for piece in found])
        for name in found[0]
    }
