"""What a writer is asked for, compared with what is there: finished files, half-finished work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import CacheError, CacheMismatchError
from pipeline.store.read import open_cache
from pipeline.store.schema import DATASETS, FINGERPRINT, SCHEMA, check_datasets, difference, fingerprint, streams_of
from pipeline.store.stream import StreamSpec, chunk_rows

__all__ = ["Group", "check_same_request", "groups_of", "missing_datasets", "specs_of", "with_existing"]


@dataclass(frozen=True)
class Group:
    """Datasets of a split that are written together, `rows` of them; `copied` from the file that is being added to."""

    split: str
    rows: int
    datasets: tuple[str, ...]
    copied: bool

    @property
    def paths(self) -> tuple[str, ...]:
        """The HDF5 datasets behind the names."""
        return tuple(path for name in self.datasets for path in streams_of(name))


def missing_datasets(
    path: Path,
    attributes: Mapping[str, Any],
    splits: Mapping[str, int],
    datasets: Sequence[str],
    *,
    part: Mapping[str, Any] | None = None,
) -> dict[str, tuple[str, ...]]:
    """What a finished file lacks of what is asked, by split: everything where there is no file, `{}` if nothing.

    Raises `CacheMismatchError` for a file of another fingerprint or with other numbers of rows, `CacheError` for a
    damaged one.
    """
    asked = check_datasets(datasets)
    if not path.exists():
        return dict.fromkeys(splits, asked)
    with open_cache(path, part=part is not None) as cache:
        wanted = dict(attributes) | {"schema": SCHEMA}
        if cache.fingerprint != fingerprint(wanted):
            raise CacheMismatchError(
                f"{path}: made from something else ({difference(wanted, cache.attributes)}); "
                "choose another --cache, or replace the file with --force"
            )
        if cache.attributes.get("part") != part:
            raise CacheMismatchError(
                f"{path}: expected the rows {part}, found {cache.attributes.get('part')}; use --force"
            )
        out: dict[str, tuple[str, ...]] = {}
        for split, rows in splits.items():
            if split in cache and cache[split].rows != rows:
                raise CacheMismatchError(
                    f"{path}: split {split}: expected {rows} rows, found {cache[split].rows}; replace it with --force"
                )
            lacking = tuple(name for name in asked if split not in cache or name not in cache[split])
            if lacking:
                out[split] = lacking
        return out


def with_existing(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """A request (splits, datasets of each, widths) widened by what a finished file holds and a new one must keep."""
    with open_cache(path) as cache:
        copied = {split: list(cache[split].names) for split in cache}
        rows = {split: cache[split].rows for split in cache} | request["splits"]
        names = {
            split: list(check_datasets({*request["datasets"].get(split, ()), *copied.get(split, ())})) for split in rows
        }
        for axis, width in cache.widths.items():
            if request["widths"].get(axis, width) != width:
                raise CacheMismatchError(
                    f"{path}: {axis}: expected {request['widths'][axis]}, found {width}; replace it with --force"
                )
        widths = cache.widths | request["widths"]
    return {**request, "splits": rows, "datasets": names, "copied": copied, "widths": widths}


def check_same_request(work: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse half-finished work that was begun for something else than `wanted` (both are journal heads)."""
    if found["request"] == wanted["request"]:
        return
    what = difference(wanted["attributes"], found["attributes"], FINGERPRINT)
    what = what or difference(wanted["request"], found["request"], wanted["request"])
    raise CacheMismatchError(
        f"{work}: half-written for another request ({what}); finish it with the command that began it, "
        "start over with --force, or remove it with embed.py prune"
    )


def groups_of(request: Mapping[str, Any]) -> list[Group]:
    """The groups of a request in the order of writing: of each split first what is copied."""
    groups = []
    for split, names in request["datasets"].items():
        copied = tuple(request["copied"].get(split, ()))
        rest = tuple(name for name in names if name not in copied)
        groups += [Group(split, request["splits"][split], part, part is copied) for part in (copied, rest) if part]
    return groups


def specs_of(group: Group, head: Mapping[str, Any]) -> list[StreamSpec]:
    """The streams of a group: dtype, shape of a row, rows of a chunk; `head` is a journal's first record."""
    widths, specs = head["request"]["widths"], []
    for path in group.paths:
        dataset = DATASETS[path]
        for axis in dataset.shape[1:]:
            if widths.get(axis, 0) < 1:
                raise CacheError(f"{path}: expected a width {axis} of at least 1, found {dict(widths)}")
        row = tuple(widths[axis] for axis in dataset.shape[1:])
        total = {"N": group.rows, "N+1": group.rows + 1, "T": None}[dataset.shape[0]]
        dtype = dataset.stored_dtype(head["attributes"]["labels"] is None)
        item = 16 if dtype == "string" else np.dtype(dtype).itemsize
        size = min(chunk_rows(int(np.prod(row, dtype=np.int64)) * item, head["chunk_bytes"]), head["block_rows"])
        specs.append(StreamSpec(path, dtype, row, size, total, dataset.embedding))
    return specs
