"""Vectors made elsewhere: arrays with labels, from npz or Parquet."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import SourceError
from pipeline.sources.base import shortened
from pipeline.sources.labels import DRAWN, LabelCensus, drawn_split, ordered_splits, split_named
from pipeline.sources.tables import open_parquet
from pipeline.tasks import Task, own_task

if TYPE_CHECKING:
    import numpy as np

__all__ = ["VECTOR_SUFFIXES", "labelled_splits", "read_vectors"]

VECTOR_SUFFIXES = (".npz", ".parquet")
_FEATURE_NAMES = ("x", "features", "embedding", "embeddings", "vector")

#: Features [N, D], label values (N, anything) and split names (N) or None; each part may lie in its own split.
_Part = tuple[Any, list[Any], list[Any] | None]


def read_vectors(
    path: Path,
    name: str,
    *,
    label: str = "label",
    split_column: str | None = None,
    features: str | None = None,
    say: Callable[[str], None] | None = None,
) -> "tuple[Task, dict[str, tuple[np.ndarray, np.ndarray]]]":
    """The task `name` and, by split, its features [N, D] float32 and labels [N] int64 (float32 for regression).

    An npz holds `x` [N, D] with `y` [N] and perhaps `split` [N], or `<split>_x` with `<split>_y` for each split (a
    split without `_y` is unlabelled); nothing in it is unpickled. A Parquet file holds a column of lists (`features`
    where there are several) or numeric columns, the column `label`, and perhaps `split_column` (`split` where there
    is one). Labels and splits mean what they mean in `FileSource`; `say` is told where splits were drawn.
    Raises `SourceError`.
    """
    readers = {".npz": lambda: _read_npz(path), ".parquet": lambda: _read_parquet(path, label, split_column, features)}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SourceError(
            f"{path}: expected a file ending in {' or '.join(readers)}, found {path.suffix or 'no suffix'}"
        )
    if not path.is_file():
        raise SourceError(
            f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}; check its name"
        )
    return labelled_splits(path, name, *reader(), say=say)


def labelled_splits(
    path: Path, name: str, x: "np.ndarray", values: list[Any], splits: list[str] | None,
    *, say: Callable[[str], None] | None = None, regression: bool = False,
) -> "tuple[Task, dict[str, tuple[np.ndarray, np.ndarray]]]":  # fmt: skip
    """Features [N, D], label values and split names (drawn by each row's content for `None`) as a task by split.

    Labels mean what they mean in `FileSource`; with `regression` they are numbers, whole ones too, NaN where there is
    none. Raises `SourceError`; `path` names the place.
    """
    import numpy as np

    x = _checked(path, x, len(values))
    if splits is None:
        splits = [drawn_split(row.tobytes()) for row in x]
        if len(set(splits)) < 2:
            raise SourceError(
                f"{path}: expected enough rows to draw train and validation, found {len(x)} (all fell to {splits[0]}); "
                "give more rows, or their splits"
            )
        if say:
            say(f"{name}: {DRAWN}")
    if regression:
        y = np.array(values, np.float32)
        rows = {split: np.array(splits) == split for split in ordered_splits(splits, str(path))}
        return own_task(name, None, pair=False), {split: (x[found], y[found]) for split, found in rows.items()}
    return _by_split(path, name, x, values, splits)


def _by_split(
    path: Path, name: str, x: "np.ndarray", values: list[Any], splits: list[str]
) -> "tuple[Task, dict[str, tuple[np.ndarray, np.ndarray]]]":
    import numpy as np

    census = LabelCensus("y" if path.suffix.lower() == ".npz" else "label")
    for row, (value, split) in enumerate(zip(values, splits, strict=True)):
        census.add(value, split, f"{path} row {row}")
    coding = census.coding()
    dtype = np.int64 if coding.labels is not None else np.float32
    result = {}
    for split in ordered_splits(splits, str(path)):
        rows = [row for row, found in enumerate(splits) if found == split]
        labels = [coding.label(values[row], split, f"{path} row {row}") for row in rows]
        result[split] = (x[rows], np.array(labels, dtype))
    return own_task(name, coding.labels, pair=False), result


def _checked(path: Path, x: "np.ndarray", labels: int) -> "np.ndarray":
    """Features as float32 [N, D]; an error names the first row that is not finite."""
    import numpy as np

    if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "fiu":
        raise SourceError(
            f"{path}: expected features of numbers, [rows, width] and neither empty, found {x.dtype} {list(x.shape)}; "
            "save one row of numbers for each text"
        )
    if len(x) != labels:
        raise SourceError(f"{path}: expected a label for each of {len(x)} rows of features, found {labels} labels")
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, np.float32)
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise SourceError(
            f"{path}: expected finite float32 features, found NaN or infinity in {int((~finite).sum())} of {len(x)} "
            f"rows, first in row {int(finite.argmin())}; mend or leave out these rows"
        )
    return x


def _read_npz(path: Path) -> _Part:
    import numpy as np

    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        cause = " ".join(str(error).split())[:200]
        raise SourceError(
            f"{path}: expected an npz of plain arrays, found one that cannot be read ({cause}); "
            "save it with numpy.savez, without objects"
        ) from error
    if "x" in arrays:
        if "y" not in arrays:
            raise SourceError(f"{path}: expected labels under the key y, found {', '.join(arrays)}; save y as well")
        splits = arrays.get("split")
        if splits is not None and len(_flat(path, "split", splits)) != len(_flat(path, "y", arrays["y"])):
            raise SourceError(f"{path}: expected a split for each row, found {len(splits)} for {len(arrays['y'])} rows")
        names = None if splits is None else [_name(value, f"{path} row {row}") for row, value in enumerate(splits)]
        return arrays["x"], _flat(path, "y", arrays["y"]).tolist(), names
    return _join(path, arrays)


def _join(path: Path, arrays: "Mapping[str, np.ndarray]") -> _Part:
    """One part of the arrays `<split>_x` and `<split>_y`."""
    import numpy as np

    found = [key.removesuffix("_x") for key in arrays if key.endswith("_x")]
    if not found:
        raise SourceError(
            f"{path}: expected the keys x and y, or <split>_x and <split>_y, found {', '.join(arrays) or 'none'}; "
            "save the features under one of these names"
        )
    parts: list[Any] = []
    values: list[Any] = []
    splits: list[str] = []
    for split in found:
        x, y = arrays[f"{split}_x"], arrays.get(f"{split}_y")
        labels = [None] * len(np.atleast_1d(x)) if y is None else _flat(path, f"{split}_y", y).tolist()
        # Each split is checked by itself, so that lengths cannot make up for one another.
        parts.append(_checked(path, x, len(labels)))
        values += labels
        splits += [split_named(split, f"{path} key {split}_x")] * len(labels)
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise SourceError(f"{path}: expected one width in all splits, found {', '.join(map(str, widths))}")
    return np.concatenate(parts), values, splits


def _flat(path: Path, key: str, array: "np.ndarray") -> "np.ndarray":
    if array.ndim != 1:
        raise SourceError(f"{path}: expected {key} with one value a row, [rows], found {list(array.shape)}; flatten it")
    return array


def _name(value: Any, where: str) -> str:
    return split_named(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value), where)


def _read_parquet(path: Path, label: str, split_column: str | None, features: str | None) -> _Part:
    import numpy as np
    import pyarrow as pa
    import pyarrow.types as kinds

    file = open_parquet(path)
    schema = file.schema_arrow
    split_column = split_column or ("split" if "split" in schema.names else None)
    for column in (label, split_column, features):
        if column and column not in schema.names:
            raise SourceError(
                f"{path}: expected a column {column!r}, found {shortened(', '.join(schema.names), 300)}; "
                "name one of these"
            )
    others = [field for field in schema if field.name not in (label, split_column)]
    chosen = [features] if features else _list_columns(path, others)
    chosen = chosen or [
        field.name
        for field in others
        if (kinds.is_floating(field.type) or kinds.is_integer(field.type)) and not field.name.startswith("__")
    ]
    if not chosen:
        raise SourceError(f"{path}: expected a column of lists or columns of numbers, found {', '.join(schema.names)}")
    try:
        table = file.read(columns=list(dict.fromkeys([*chosen, label, *([split_column] if split_column else [])])))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{path}: expected a whole Parquet file, found {' '.join(str(error).split())[:200]}"
        ) from error
    if _is_list(schema.field(chosen[0]).type):
        x = _stack(path, table.column(chosen[0]))
    else:
        columns = [table.column(name).to_numpy().astype(np.float64) for name in chosen]
        x = np.stack(columns, axis=1)
    splits = table.column(split_column).to_pylist() if split_column else None
    names = None if splits is None else [split_named(value, f"{path} row {row}") for row, value in enumerate(splits)]
    return x, table.column(label).to_pylist(), names


def _is_list(kind: Any) -> bool:
    import pyarrow.types as kinds

    return kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)


def _list_columns(path: Path, fields: list[Any]) -> list[str]:
    """The one column of lists, or the one of a usual name; none where there are no lists."""
    found = [field.name for field in fields if _is_list(field.type)]
    usual = [name for name in _FEATURE_NAMES if name in found]
    if len(found) > 1 and not usual:
        raise SourceError(
            f"{path}: expected one column of lists, found {', '.join(found)}; name it {_FEATURE_NAMES[0]}"
        )
    return usual[:1] if len(found) > 1 else found


def _stack(path: Path, column: Any) -> "np.ndarray":
    """A column of lists as [N, D] float64. Raises `SourceError` where a row's width differs or a value is missing."""
    import numpy as np
    import pyarrow.compute as pc

    lengths = np.asarray(pc.list_value_length(column).to_pylist(), dtype=float)
    if len(lengths) == 0 or lengths[0] == 0:
        return np.empty((len(lengths), 0))
    odd = np.flatnonzero(~(lengths == lengths[0]))
    if len(odd):
        found = "no list" if np.isnan(lengths[odd[0]]) else f"{lengths[odd[0]]:.0f}"
        expected = "a list of numbers" if odd[0] == 0 else f"{lengths[0]:.0f} numbers as in row 0"
        raise SourceError(f"{path} row {odd[0]}: expected {expected}, found {found}; give every row the same width")
    values = pc.list_flatten(column).to_numpy()
    try:
        return values.astype(np.float64).reshape(len(lengths), -1)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: expected lists of numbers, found {values.dtype}; save numbers") from error
