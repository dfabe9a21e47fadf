"""Reading a cache: lazily, and nothing before the file has been checked to be what it says it is."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from pipeline.errors import CacheError, UnknownNameError
from pipeline.store.inspect import Layout, inspect

if TYPE_CHECKING:
    import datasets

__all__ = ["Cache", "Ragged", "SplitView", "open_cache"]


class Ragged:
    """Rows of different lengths: `ragged[a:b]` is (values [tokens, D] float16, offsets [b-a+1] int64 from 0)."""

    def __init__(self, values: h5py.Dataset, offsets: h5py.Dataset, where: str) -> None:
        self._values, self._offsets, self._where = values, offsets, where

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens of all rows, and their width."""
        return self._values.shape

    def __len__(self) -> int:
        return self._offsets.shape[0] - 1

    def __getitem__(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        start, stop, _ = rows.indices(len(self))
        offsets = _read(self._offsets, slice(start, max(start, stop) + 1), self._where)
        if np.any(np.diff(offsets) < 0) or offsets[0] < 0 or offsets[-1] > self._values.shape[0]:
            raise CacheError(f"{self._where}: expected offsets that grow from 0 to {self._values.shape[0]}; run verify")
        values = _read(self._values, slice(int(offsets[0]), int(offsets[-1])), self._where)
        return values, offsets - offsets[0]


def _read(dataset: h5py.Dataset, rows: slice, where: str) -> np.ndarray:
    try:
        return dataset[rows]
    except (OSError, ValueError, RuntimeError) as error:
        raise CacheError(
            f"{where}{dataset.name}: expected intact data, found a damaged chunk ({error}); "
            "embed again with --force (embed.py verify tells more)"
        ) from error


class SplitView:
    """One split: `view["pooled"]` is a whole dataset, `view.read("pooled", a, b)` a range of rows."""

    def __init__(self, group: h5py.Group, layout: Mapping[str, Any], name: str, rows: int, where: str) -> None:
        self._group, self._layout, self._where = group, layout, where
        self.name, self.rows = name, rows

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the datasets; the ragged one counts once, as `last_hidden`."""
        return tuple(dict.fromkeys(path.split("/")[0] for path in self._layout))

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> "np.ndarray | list[str] | Ragged":
        """A dataset: an array [rows, ...], a list of texts, or a `Ragged` for `last_hidden`."""
        if name not in self.names:
            raise UnknownNameError(
                f"dataset of {self._where}/{self.name}", name, self.names, "embed with --store to add it"
            )
        if name == "last_hidden":
            return Ragged(self._group["last_hidden/values"], self._group["last_hidden/offsets"], self._where)
        return self.read(name, 0, self.rows)

    def read(self, name: str, start: int, stop: int) -> "np.ndarray | list[str]":
        """Rows [start, stop) of a dataset that is not ragged."""
        dataset = self._group[name]
        if self._layout[name] != "string":
            return _read(dataset, slice(start, stop), self._where)
        try:
            return [text.decode() for text in _read(dataset, slice(start, stop), self._where)]
        except (UnicodeDecodeError, AttributeError) as error:
            raise CacheError(
                f"{self._where}{dataset.name}: expected UTF-8 texts ({error}); embed again with --force"
            ) from error

    def sha256(self, path: str) -> str:
        """The recorded checksum of a dataset (`last_hidden/values` is one of its own here)."""
        return self._group[path].attrs["sha256"]


class Cache:
    """A checked, open cache file; close it, or use it in a `with` block."""

    def __init__(self, path: Path, file: h5py.File, layout: Layout) -> None:
        self.path, self._file, self._layout = path, file, layout
        self.attributes: dict[str, Any] = layout.attributes

    def __getattr__(self, name: str) -> Any:
        """Root attributes by name: `cache.task`, `cache.fingerprint`, `cache.default_feature` ..."""
        try:
            return self.__dict__["attributes"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the file's order."""
        return tuple(self._layout.splits)

    def __contains__(self, split: str) -> bool:
        return split in self._layout.splits

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __getitem__(self, split: str) -> SplitView:
        if split not in self._layout.splits:
            raise UnknownNameError(f"split of {self.path}", split, self.splits)
        found = self._layout.splits[split]
        return SplitView(self._file[split], found.datasets, split, found.rows, str(self.path))

    @property
    def widths(self) -> dict[str, int]:
        """The axes `D` and `m` of the datasets, as far as there are any."""
        return dict(self._layout.widths)

    def to_datasets(self, split: str) -> "datasets.Dataset":
        """A split as a `datasets.Dataset` in torch format; a row of `last_hidden` is a list of its tokens' states."""
        from pipeline.store.arrow import split_to_datasets

        return split_to_datasets(self[split])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_cache(path: str | os.PathLike[str], *, part: bool = False) -> Cache:
    """Open a finished cache and check everything that is cheap: layout, shapes, completeness, fingerprint, provenance.

    Raises `CacheError` in one line for a file that is missing, unfinished, damaged, of another schema, or that refers
    to anything outside itself. `part` admits one worker's part of a file, which holds a range of rows only.
    """
    path = Path(path)
    file, layout = inspect(path, part=part)
    return Cache(path, file, layout)
