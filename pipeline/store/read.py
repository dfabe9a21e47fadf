"""Reading a cache: lazily, and nothing before the file has been checked to be what it says it is."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import CacheError, ConfigError, UnknownNameError
from pipeline.store.checksum import hash_texts
from pipeline.store.chunks import read_rows
from pipeline.store.hdf5 import ChunkedDataset
from pipeline.store.inspect import REMEDY, Layout, SplitLayout, as_cache_error, inspect
from pipeline.store.parse import Bytes, heap_texts

if TYPE_CHECKING:
    import datasets

__all__ = ["Cache", "Ragged", "SplitView", "open_cache"]


class Ragged:
    """Rows of different lengths: `ragged[a:b]` is (values [tokens, D] float16, offsets [b-a+1] int64 from 0)."""

    def __init__(self, view: "SplitView", values: ChunkedDataset, offsets: ChunkedDataset) -> None:
        self._view, self._values, self._offsets = view, values, offsets

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens of all rows, and their width."""
        return self._values.shape

    def __len__(self) -> int:
        return self._offsets.shape[0] - 1

    def __getitem__(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ConfigError(f"last_hidden: expected a range of rows, found a step of {step}")
        offsets = self._view.rows_of("last_hidden/offsets", start, max(start, stop) + 1)
        if np.any(offsets[1:] < offsets[:-1]) or offsets[0] < 0 or offsets[-1] > self.shape[0]:
            raise CacheError(f"{self._view.where}/last_hidden/offsets: expected offsets that grow; {REMEDY}")
        return self._view.rows_of("last_hidden/values", int(offsets[0]), int(offsets[-1])), offsets - offsets[0]


class SplitView:
    """One split: `view["pooled"]` is a whole dataset, `view.read("pooled", a, b)` a range of rows."""

    def __init__(self, file: Bytes, layout: SplitLayout, name: str, path: Path) -> None:
        self._file, self._datasets = file, layout.datasets
        self.name, self.rows, self.where = name, layout.rows, f"{path}: {name}"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the datasets; the ragged one counts once, as `last_hidden`."""
        return tuple(dict.fromkeys(path.split("/")[0] for path in self._datasets))

    @property
    def datasets(self) -> dict[str, ChunkedDataset]:
        """The HDF5 datasets by path: shape, dtype, chunks, attributes (`sha256`)."""
        return dict(self._datasets)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> "np.ndarray | list[str] | Ragged":
        """A dataset: an array [rows, ...], a list of texts, or a `Ragged` for `last_hidden`."""
        self._check(name)
        if name == "last_hidden":
            return Ragged(self, self._datasets["last_hidden/values"], self._datasets["last_hidden/offsets"])
        return self.read(name, 0, self.rows)

    def read(self, name: str, start: int, stop: int) -> "np.ndarray | list[str]":
        """Rows [start, stop) of a dataset that is not ragged: an array, or a list of texts.

        All texts of a split, read at once, are compared with their checksum; a range of them cannot be.
        """
        self._check(name)
        rows = self.rows_of(name, start, stop)
        dataset = self._datasets[name]
        if dataset.dtype != "string":
            return rows
        with self._damage(name):
            texts = heap_texts(self._file, rows)
            if len(texts) == self.rows and hash_texts(texts) != dataset.attributes["sha256"]:
                raise CacheError("found texts that do not have their checksum")
            return [text.decode() for text in texts]

    def rows_of(self, path: str, start: int, stop: int) -> np.ndarray:
        """Rows of an HDF5 dataset as stored (of texts, the references to them)."""
        with self._damage(path):
            return read_rows(self._file, self._datasets[path], start, stop)

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise UnknownNameError(f"dataset of {self.where}", name, self.names, "embed with --store to add it")

    def _damage(self, path: str) -> AbstractContextManager[None]:
        return as_cache_error(f"{self.where}/{path}", "what was written")


class Cache:
    """A checked, open cache file; close it, or use it in a `with` block. Threads and forked processes may share it."""

    def __init__(self, path: Path, file: Bytes, layout: Layout) -> None:
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
        return SplitView(self._file, self._layout.splits[split], split, self.path)

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
