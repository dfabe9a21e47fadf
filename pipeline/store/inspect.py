"""The cheap checks that every reader makes before it reads data: is this a cache, whole, and only a cache."""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import CacheError
from pipeline.hashing import hash_json
from pipeline.store.hdf5 import SUPERBLOCK_BYTES, ChunkedDataset, Group
from pipeline.store.parse import Bytes, check_encoding, parse
from pipeline.store.schema import DATASETS, SCHEMA, check_attributes, decode_attributes

__all__ = ["Layout", "SplitLayout", "as_cache_error", "inspect", "own_attributes"]

REMEDY = "embed again with --force"


@dataclass(frozen=True)
class SplitLayout:
    """A split's rows and its HDF5 datasets by their path in the group, in the table's order."""

    rows: int
    datasets: dict[str, ChunkedDataset]


@dataclass(frozen=True)
class Layout:
    """What a checked file holds: decoded root attributes, splits, widths of the axes, and where the data end."""

    attributes: dict[str, Any]
    splits: dict[str, SplitLayout]
    widths: dict[str, int]
    data_end: int


@contextlib.contextmanager
def as_cache_error(where: Path | str, expected: str) -> Iterator[None]:
    """Whatever reading damaged or foreign bytes may raise, as a `CacheError` in one line."""
    try:
        yield
    except (
        CacheError,
        OSError,
        ValueError,
        TypeError,
        struct.error,
        IndexError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise CacheError(f"{where}: expected {expected}, {text}; {REMEDY}") from error


def own_attributes(stored: dict[str, Any]) -> str:
    """`attributes_sha256`: SHA-256 of the canonical JSON of every other root attribute as stored."""
    return hash_json({name: value for name, value in stored.items() if name != "attributes_sha256"})


def inspect(path: Path, *, part: bool = False) -> tuple[Bytes, Layout]:
    """Open a file and check it without reading data; every fault is a `CacheError`, and then the file is closed."""
    if not path.exists():
        raise CacheError(f"{path}: expected a cache, found no such file; run embed.py first")
    if not path.is_file():
        raise CacheError(f"{path}: expected a cache, found something that is not a file")
    with as_cache_error(path, "a readable cache"):
        file = Bytes(path)
    try:
        with as_cache_error(path, "a finished cache"):
            return file, _layout(file, part)
    except BaseException:
        file.close()
        raise


def _layout(file: Bytes, part: bool) -> Layout:
    tree = parse(file)
    stored = dict(tree.attributes)
    if stored.get("schema") != SCHEMA:
        raise CacheError(f"found schema {stored.get('schema')!r} where this version reads {SCHEMA}")
    if "attributes_sha256" not in stored:
        raise CacheError("found no root attribute attributes_sha256")
    if stored["attributes_sha256"] != own_attributes(stored):
        raise CacheError("found attributes that are not those of attributes_sha256")
    attributes = check_attributes(decode_attributes(stored))
    if ("part" in attributes) != part:
        raise CacheError("found one worker's part, to be merged first" if "part" in attributes else "found no part")
    splits: dict[str, SplitLayout] = {}
    widths: dict[str, int] = {}
    for name in sorted(tree.members, key=_split_order):
        splits[name] = _split(name, tree.members[name], attributes["labels"] is None, widths)
    end = check_encoding(file, tree)
    _check_extents([dataset for split in splits.values() for dataset in split.datasets.values()], end)
    return Layout(attributes, splits, widths, end)


def _split_order(name: str) -> tuple[int, str]:
    first = name.split("_")[0]
    return ("train", "validation", "test").index(first) if first in ("train", "validation", "test") else 3, name


def _split(split: str, group: Group | ChunkedDataset, regression: bool, widths: dict[str, int]) -> SplitLayout:
    if not isinstance(group, Group):
        raise CacheError(f"found a dataset {split!r} where splits are")
    rows, complete = group.attributes.get("rows"), group.attributes.get("complete")
    if complete is not True or not isinstance(rows, int) or rows < 0:
        raise CacheError(f"found the split {split} with rows={rows!r}, complete={complete!r}")
    found: dict[str, Group | ChunkedDataset] = {}
    for name, member in group.members.items():
        inner = member.members if isinstance(member, Group) else {}
        found |= {f"{name}/{below}": item for below, item in inner.items()} or {name: member}
    extents = {"N": rows, "N+1": rows + 1}
    for path, dataset in found.items():
        where = f"{split}/{path}"
        if path not in DATASETS or not isinstance(dataset, ChunkedDataset):
            raise CacheError(f"found {where}, which schema {SCHEMA} does not have")
        dtype, axes = DATASETS[path].stored_dtype(regression), DATASETS[path].shape
        if dataset.dtype != dtype:
            raise CacheError(f"found {where} of dtype {dataset.dtype} where {dtype} belongs")
        if len(axes) != len(dataset.shape):
            raise CacheError(f"found {where} of shape {dataset.shape} where {len(axes)} axes belong")
        for axis, extent in zip(axes, dataset.shape, strict=True):
            known = extents if axis in ("N", "T", "N+1") else widths
            if known.setdefault(axis, extent) != extent:
                raise CacheError(f"found {where} of shape {dataset.shape} where {axis} is {known[axis]}")
        digest = dataset.attributes.get("sha256")
        if not isinstance(digest, str) or len(digest) != 64:
            raise CacheError(f"found {where} without a sha256")
        if not len(dataset.chunks) and dataset.shape[0] * (dataset.shape[1:] or (1,))[0]:
            raise CacheError(f"found {where} of shape {dataset.shape} without data")
    if ("last_hidden/values" in found) != ("last_hidden/offsets" in found):
        raise CacheError(f"found half of {split}/last_hidden")
    return SplitLayout(rows, {path: found[path] for path in DATASETS if path in found})


def _check_extents(datasets: list[ChunkedDataset], end: int) -> None:
    """Chunks lie between the superblock and the index, none on another."""
    starts = [np.asarray(dataset.chunks, np.uint64) for dataset in datasets if len(dataset.chunks)]
    sizes = [np.uint64(d.chunk_bytes + 4 * d.checked) for d in datasets if len(d.chunks)]
    if not starts:
        return
    stops = np.concatenate([start + size for start, size in zip(starts, sizes, strict=True)])
    flat = np.concatenate(starts)
    order = np.argsort(flat, kind="stable")
    flat, stops = flat[order], stops[order]
    if flat[0] < SUPERBLOCK_BYTES or stops.max() > end or flat.max() > end or np.any(stops[:-1] > flat[1:]):
        raise CacheError("found chunks that lie outside the data or on one another")
