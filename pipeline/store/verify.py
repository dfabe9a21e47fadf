"""Reading everything in a cache and comparing it with what the file says of it."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import CacheError
from pipeline.store.checksum import is_finite, text_bytes
from pipeline.store.chunks import read_rows
from pipeline.store.hdf5 import SUPERBLOCK_BYTES, ChunkedDataset, heap_collections
from pipeline.store.inspect import Layout, as_cache_error, inspect
from pipeline.store.parse import Bytes, heap_texts
from pipeline.store.schema import ATTRIBUTES, DATASETS
from pipeline.store.texts import Texts

__all__ = ["Report", "verify"]

#: Attributes that may be empty: a cache of vectors from elsewhere has no tokenizer.
_MAY_BE_EMPTY = ("default_feature",)
_PIECE_BYTES = 1 << 24
_PIECE_ROWS = 4096


@dataclass
class Report:
    """What `verify` found: `fault` is the first one in words, `None` where there is none.

    `bytes` is the file's size, `unused` how many of them hold nothing (0 in a file of this program), `rows` and
    `datasets` count over all splits.
    """

    path: str
    fault: str | None = None
    bytes: int = 0
    unused: int = 0
    rows: int = 0
    datasets: int = 0
    splits: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether there is no fault."""
        return self.fault is None

    def document(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return asdict(self) | {"good": self.good}


def verify(path: str | os.PathLike[str]) -> Report:
    """Check a finished cache entirely: every byte of it is compared with something.

    The index is compared with the encoding of its content, each dataset with its sha256, each chunk with its checksum,
    heaps of texts with the encoding of the texts; offsets grow from 0 to the number of tokens, by the rows' lengths;
    encoders' outputs are finite; nothing lies between the parts. A fault is in the report, not raised.
    """
    path = Path(path)
    report = Report(str(path), bytes=path.stat().st_size if path.is_file() else 0)
    try:
        file, layout = _open(path)
        try:
            _check(file, layout, report)
        finally:
            file.close()
    except CacheError as error:
        report.fault = str(error)
    return report


def _open(path: Path) -> tuple[Bytes, Layout]:
    try:
        return inspect(path)
    except CacheError as error:
        if "one worker's part" not in str(error):
            raise
        return inspect(path, part=True)


def _check(file: Bytes, layout: Layout, report: Report) -> None:
    for name in ATTRIBUTES:
        value = layout.attributes[name]
        if value == "" and name not in _MAY_BE_EMPTY:
            raise CacheError(f"{file.path}: expected provenance, found the attribute {name} empty")
    used: list[tuple[int, int]] = []
    for split, found in layout.splits.items():
        report.splits.append(split)
        report.rows += found.rows
        for path, dataset in found.datasets.items():
            where = f"{file.path}: {split}/{path}"
            with as_cache_error(where, "what was written"):
                _check_dataset(file, path, dataset, used)
            report.datasets += 1
        with as_cache_error(f"{file.path}: {split}", "rows that fit together"):
            _check_rows(file, found.datasets)
    report.unused = _unused(used, layout.data_end)
    if report.unused:
        raise CacheError(f"{file.path}: expected no byte without a use, found {report.unused} between the data")


def _pieces(file: Bytes, dataset: ChunkedDataset) -> Iterator[np.ndarray]:
    """A dataset's rows in pieces of whole chunks."""
    step = max(1, _PIECE_BYTES // max(1, dataset.chunk_bytes)) * dataset.chunk_rows
    for start in range(0, dataset.shape[0], step):
        yield read_rows(file, dataset, start, start + step)


def _check_dataset(file: Bytes, path: str, dataset: ChunkedDataset, used: list[tuple[int, int]]) -> None:
    size = dataset.chunk_bytes + 4 * dataset.checked
    used += [(int(address), int(address) + size) for address in dataset.chunks]
    sha = hashlib.sha256()
    finite = True
    if dataset.dtype == "string":
        _check_texts(file, dataset, sha, used)
    else:
        for rows in _pieces(file, dataset):
            sha.update(rows.reshape(-1).view(np.uint8).data)
            if DATASETS[path].embedding:
                finite = finite and is_finite(rows)
            elif rows.dtype.kind == "f":  # a label that is not known is NaN
                finite = finite and not np.isinf(rows).any()
    if sha.hexdigest() != dataset.attributes["sha256"]:
        raise CacheError("found data that do not have their sha256")
    if not finite:
        raise CacheError("found NaN or infinity")
    _check_padding(file, dataset)


def _check_texts(file: Bytes, dataset: ChunkedDataset, sha: Any, used: list[tuple[int, int]]) -> None:
    """Hash texts, and compare heaps with the encoding of their texts, so that the corners of heaps are checked too."""
    references = read_rows(file, dataset, 0, dataset.shape[0])
    filled = references["length"] > 0
    heaps = np.maximum.accumulate(np.where(filled, references["heap"], np.uint64(0)))
    start = 0
    while start < len(heaps):  # up to where a heap ends
        stop = int(np.searchsorted(heaps, heaps[min(start + _PIECE_ROWS, len(heaps)) - 1], side="right"))
        texts = heap_texts(file, references[start:stop])
        sha.update(text_bytes(texts))
        for text in texts:
            text.decode()
        for address in np.unique(heaps[start:stop][filled[start:stop]]).tolist():
            here = [
                text for text, heap in zip(texts, heaps[start:stop].tolist(), strict=True) if text and heap == address
            ]
            heap, _ = heap_collections(Texts.of_bytes(here), address)
            if file.read(address, len(heap)) != heap:
                raise CacheError(f"found a damaged heap of texts at byte {address}")
            used.append((address, address + len(heap)))
        start = stop


def _check_padding(file: Bytes, dataset: ChunkedDataset) -> None:
    """What fills up the last chunk is zero."""
    rest = -dataset.shape[0] % dataset.chunk_rows if len(dataset.chunks) else 0
    if rest:
        row = dataset.chunk_bytes // dataset.chunk_rows
        address = int(dataset.chunks[-1]) + dataset.chunk_bytes - rest * row
        if any(file.read(address, rest * row)):
            raise CacheError("found something behind the last row")


def _check_rows(file: Bytes, datasets: dict[str, ChunkedDataset]) -> None:
    if "last_hidden/offsets" not in datasets:
        return
    dataset, tokens = datasets["last_hidden/offsets"], datasets["last_hidden/values"].shape[0]
    before = np.zeros(0, np.int64)
    for rows in _pieces(file, dataset):
        offsets = np.concatenate([before[-1:], rows])
        if np.any(offsets[1:] < offsets[:-1]) or (not len(before) and offsets[0] != 0):
            raise CacheError("found offsets that do not grow from 0")
        before = offsets
    if before[-1] != tokens:
        raise CacheError(f"found offsets that end at {before[-1]} over {tokens} tokens")
    if "length" in datasets:
        step = 1 << 20
        for start in range(0, dataset.shape[0] - 1, step):
            offsets = read_rows(file, dataset, start, start + step + 1)
            if np.any(np.diff(offsets) != read_rows(file, datasets["length"], start, start + step)):
                raise CacheError("found offsets that do not agree with length")


def _unused(used: list[tuple[int, int]], end: int) -> int:
    """Bytes between the superblock and the index that lie in nothing."""
    unused, position = 0, SUPERBLOCK_BYTES
    for start, stop in sorted(used):
        unused += max(0, start - position)
        position = max(position, stop)
    return unused + max(0, end - position)
