"""The cheap checks that every reader makes before it reads data: is this a cache, whole, and only a cache."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.errors import CacheError
from pipeline.hashing import hash_json
from pipeline.store.schema import ATTRIBUTES, DATASETS, SCHEMA, decode_attributes, fingerprint

__all__ = ["Layout", "SplitLayout", "inspect", "own_attributes"]

REMEDY = "embed again with --force"


@dataclass(frozen=True)
class SplitLayout:
    """A split's rows and its HDF5 datasets: path in the group to dtype (numpy's name or `string`)."""

    rows: int
    datasets: dict[str, str]


@dataclass(frozen=True)
class Layout:
    """What a checked file holds: decoded root attributes, and its splits."""

    attributes: dict[str, Any]
    splits: dict[str, SplitLayout]
    widths: dict[str, int]


@contextlib.contextmanager
def _as_cache_error(path: Path) -> Iterator[None]:
    try:
        yield
    except CacheError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
        text = " ".join(str(error).split())[:200]
        raise CacheError(
            f"{path}: expected a finished cache, found a damaged or foreign file ({text}); {REMEDY}"
        ) from error


def own_attributes(stored: dict[str, Any]) -> str:
    """`attributes_sha256`: SHA-256 of the canonical JSON of every other root attribute as stored."""
    return hash_json({name: value for name, value in stored.items() if name != "attributes_sha256"})


def inspect(path: Path, *, part: bool = False) -> tuple[h5py.File, Layout]:
    """Open a file and check its layout; every fault is a `CacheError`, and then the file is closed."""
    if not path.exists():
        raise CacheError(f"{path}: expected a cache, found no such file; run embed.py first")
    if not path.is_file() or not h5py.is_hdf5(path):
        raise CacheError(f"{path}: expected a cache (an HDF5 file), found something else; {REMEDY}")
    with _as_cache_error(path):
        file = h5py.File(path, "r", locking="best-effort")
    try:
        with _as_cache_error(path):
            return file, _layout(path, file, part)
    except BaseException:
        file.close()
        raise


def _layout(path: Path, file: h5py.File, part: bool) -> Layout:
    stored = {name: _plain(path, name, value) for name, value in _attributes(file).items()}
    if stored.get("schema") != SCHEMA:
        raise CacheError(f"{path}: expected schema {SCHEMA}, found {stored.get('schema')!r}; {REMEDY}")
    if missing := [name for name in (*ATTRIBUTES, "attributes_sha256") if name not in stored]:
        raise CacheError(f"{path}: expected the root attributes of a cache, {', '.join(missing)} missing; {REMEDY}")
    if stored["attributes_sha256"] != own_attributes(stored):
        raise CacheError(f"{path}: expected attributes as they were written, found them changed; {REMEDY}")
    attributes = decode_attributes(stored)
    if attributes["fingerprint"] != fingerprint(attributes):
        raise CacheError(f"{path}: expected the fingerprint of its attributes, found another; {REMEDY}")
    if ("part" in attributes) != part:
        found = "one worker's part" if "part" in attributes else "a whole file"
        raise CacheError(f"{path}: expected {'a part' if part else 'a whole cache'}, found {found}; merge parts first")
    size = path.stat().st_size
    splits: dict[str, SplitLayout] = {}
    widths: dict[str, int] = {}
    for name, group in _members(path, file).items():
        if not isinstance(group, h5py.Group):
            raise CacheError(f"{path}: expected splits, found the dataset {name!r}; {REMEDY}")
        splits[name] = _split(f"{path}/{name}", group, attributes["labels"] is None, size, widths)
    return Layout(attributes, splits, widths)


def _attributes(owner: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    for name in owner.attrs:
        found = owner.attrs.get_id(name)
        if found.shape != () or found.get_type().get_class() not in (
            h5py.h5t.STRING, h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM,
        ):  # fmt: skip
            raise CacheError(
                f"attribute {name!r} of {owner.name}: expected a text or a number, found something else; {REMEDY}"
            )
    return dict(owner.attrs)


def _plain(path: Path, name: str, value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    value = value.decode() if isinstance(value, bytes) else value
    expected = {"text": str, "json": str, "number": int}.get(ATTRIBUTES.get(name, ""), (str, int, float, bool))
    if not isinstance(value, expected):
        raise CacheError(f"{path}: attribute {name!r} is {value!r}, of the wrong type; {REMEDY}")
    return value


def _members(where: Path | str, group: h5py.Group) -> dict[str, Any]:
    """Members of a group through hard links alone."""
    out = {}
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise CacheError(f"{where}: expected data in the file itself, found {name!r} to be a link; {REMEDY}")
        out[name] = group[name]
    return out


def _split(where: str, group: h5py.Group, regression: bool, size: int, widths: dict[str, int]) -> SplitLayout:
    attributes = _attributes(group)
    rows, complete = attributes.get("rows"), attributes.get("complete")
    if complete is None or rows is None or not complete or int(rows) < 0:
        raise CacheError(f"{where}: expected a complete split, found rows={rows!r}, complete={complete!r}; {REMEDY}")
    found: dict[str, h5py.Dataset] = {}
    for name, member in _members(where, group).items():
        if isinstance(member, h5py.Group) and name == "last_hidden":
            found |= {f"{name}/{inner}": item for inner, item in _members(f"{where}/{name}", member).items()}
        else:
            found[name] = member
    extents: dict[str, int] = {"N": int(rows), "N+1": int(rows) + 1}
    datasets: dict[str, str] = {}
    for name, dataset in found.items():
        if name not in DATASETS or not isinstance(dataset, h5py.Dataset):
            raise CacheError(f"{where}: expected datasets of schema {SCHEMA}, found {name!r}; {REMEDY}")
        datasets[name] = DATASETS[name].stored_dtype(regression)
        _dataset(f"{where}/{name}", dataset, datasets[name], size)
        axes = DATASETS[name].shape
        if len(axes) != len(dataset.shape):
            raise CacheError(f"{where}/{name}: expected {len(axes)} axes, found the shape {dataset.shape}; {REMEDY}")
        for axis, extent in zip(axes, dataset.shape, strict=True):
            known = extents if axis in ("N", "T", "N+1") else widths
            if known.setdefault(axis, extent) != extent:
                raise CacheError(
                    f"{where}/{name}: expected {axis} = {known[axis]}, found the shape {dataset.shape}; {REMEDY}"
                )
    if len({"last_hidden/values", "last_hidden/offsets"} & set(found)) == 1:
        raise CacheError(f"{where}: expected last_hidden/values and last_hidden/offsets, found one of them; {REMEDY}")
    return SplitLayout(int(rows), datasets)


def _dataset(where: str, dataset: h5py.Dataset, dtype: str, size: int) -> None:
    text = h5py.check_string_dtype(dataset.dtype)
    right = text is not None and text.encoding == "utf-8" if dtype == "string" else dataset.dtype == np.dtype(dtype)
    if not right:
        raise CacheError(f"{where}: expected {dtype}, found {dataset.dtype}; {REMEDY}")
    plist = dataset.id.get_create_plist()
    if plist.get_layout() not in (h5py.h5d.CHUNKED, h5py.h5d.CONTIGUOUS) or dataset.external or dataset.is_virtual:
        raise CacheError(f"{where}: expected data in the file itself, found external or virtual storage; {REMEDY}")
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if not filters <= {h5py.h5z.FILTER_FLETCHER32}:
        raise CacheError(f"{where}: expected no filter but Fletcher-32, found filters {sorted(filters)}; {REMEDY}")
    claimed = dataset.size * dataset.dtype.itemsize
    if claimed > size or claimed > dataset.id.get_storage_size():
        raise CacheError(
            f"{where}: expected the shape {dataset.shape} to be stored, found {size} bytes of file; {REMEDY}"
        )
    recorded = _attributes(dataset).get("sha256")
    if not isinstance(recorded, str) or len(recorded) != 64:
        raise CacheError(f"{where}: expected a recorded sha256, found {recorded!r}; {REMEDY}")
