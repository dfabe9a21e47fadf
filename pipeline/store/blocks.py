"""A block's arrays: what a caller hands over, checked and made into rows of streams; and the same read from a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import CacheError
from pipeline.store.read import SplitView
from pipeline.store.schema import LAST_HIDDEN
from pipeline.store.stream import Rows, StreamSpec
from pipeline.store.texts import Texts

__all__ = ["block_rows", "read_block"]

_VALUES, _OFFSETS = "last_hidden/values", "last_hidden/offsets"


def block_rows(
    specs: Sequence[StreamSpec], rows: int, tokens_before: int | None, arrays: Mapping[str, Any]
) -> dict[str, Rows]:
    """The rows that each stream of a block gets: contiguous arrays of the stored dtype, or UTF-8 texts.

    `rows` is how many the block has; `tokens_before` how many tokens the split has before it, `None` at the split's
    beginning, where the offsets begin with 0. Raises `CacheError` for a missing array, a wrong shape or a dtype that
    does not convert without loss of kind (texts for numbers, numbers for texts).
    """
    out: dict[str, Rows] = {}
    for spec in specs:
        if spec.path == _OFFSETS:
            continue
        given = arrays.get(spec.path)
        if given is None and spec.path == _VALUES:
            given = arrays.get(LAST_HIDDEN)
        if given is None:
            raise CacheError(f"{spec.path}: expected rows for every dataset of the block, found {', '.join(arrays)}")
        out[spec.path] = _texts(spec, given) if spec.dtype == "string" else _array(spec, given)
        if spec.rows is not None and len(out[spec.path]) != rows:
            raise CacheError(f"{spec.path}: expected {rows} rows, found {len(out[spec.path])}")
    if _VALUES in out:
        if "length" not in arrays:
            raise CacheError(f"{_VALUES}: expected the rows' lengths beside it (length), found {', '.join(arrays)}")
        length = np.asarray(arrays["length"], np.int64)
        if length.shape != (rows,) or (length < 0).any() or int(length.sum()) != len(out[_VALUES]):
            raise CacheError(
                f"{_VALUES}: expected {int(length.sum())} tokens (the sum of length), found {len(out[_VALUES])}"
            )
        offsets = np.concatenate([[0], length]).cumsum().astype("<i8") + (tokens_before or 0)
        out[_OFFSETS] = offsets if tokens_before is None else offsets[1:]
    return {spec.path: out[spec.path] for spec in specs}


def _array(spec: StreamSpec, given: Any) -> np.ndarray:
    given = np.asarray(given)
    if given.dtype.kind not in "biuf" or (given.dtype.kind == "f" and spec.numpy_dtype.kind != "f"):
        raise CacheError(f"{spec.path}: expected {spec.dtype}, found {given.dtype}")
    if given.shape[1:] != spec.row or given.ndim != 1 + len(spec.row):
        raise CacheError(f"{spec.path}: expected rows of shape {spec.row}, found an array of shape {given.shape}")
    with np.errstate(over="ignore"):  # a value beyond float16 becomes infinite, which the writer refuses
        return np.ascontiguousarray(given, spec.numpy_dtype)


def _texts(spec: StreamSpec, given: Any) -> Texts:
    try:
        return given if isinstance(given, Texts) else Texts.of(given)
    except CacheError as error:
        raise CacheError(f"{spec.path}: {error}") from error


def read_block(view: SplitView, datasets: Sequence[str], start: int, stop: int) -> dict[str, Any]:
    """Arrays of rows [start, stop) of a finished file's split, as `CacheWriter.write` takes them."""
    arrays: dict[str, Any] = {}
    for name in datasets:
        if name == LAST_HIDDEN:
            arrays[_VALUES], offsets = view[name][start:stop]
            arrays.setdefault("length", np.diff(offsets))
        else:
            arrays[name] = view.read(name, start, stop)
    return arrays
