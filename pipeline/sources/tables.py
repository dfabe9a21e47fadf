"""CSV, JSON lines and Parquet as one thing: named columns and a stream of records, each with its place."""

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.sources.base import shortened
from pipeline.sources.lines import read_lines

__all__ = ["TABLES", "Table", "json_object", "open_parquet", "open_table"]

#: JSON objects that are looked at to learn the columns: a key may be missing from the first ones.
_JSON_AHEAD = 1000
_PARQUET_BATCH = 1000


@dataclass(frozen=True)
class Table:
    """A file's columns, and `records(names)`: a fresh stream of (place, values of these columns).

    The place reads `FILE line N` or `FILE row N`, for error messages. Values are what the format holds: text in CSV,
    JSON's and Parquet's own elsewhere, `None` where a record has none.
    """

    columns: tuple[str, ...]
    records: Callable[[Sequence[str]], Iterator[tuple[str, tuple[Any, ...]]]]


def open_table(path: Path) -> Table:
    """The table in a file, by its suffix. Raises `SourceError` for a missing file or another suffix."""
    opener = TABLES.get(path.suffix.lower())
    if opener is None:
        raise SourceError(f"{path}: expected a file ending in {', '.join(TABLES)}, found {path.suffix or 'no suffix'}")
    if not path.is_file():
        raise SourceError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}; check `data`")
    return opener(path)


def _open_csv(path: Path) -> Table:
    _, header = next(_csv_rows(path), (0, None))
    if header is None:
        raise SourceError(f"{path}: expected a header line with the columns' names, found an empty file")

    def records(names: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        places = [header.index(name) for name in names]
        for line, fields in itertools.islice(_csv_rows(path), 1, None):
            if len(fields) != len(header):
                raise SourceError(
                    f"{path} line {line}: expected {len(header)} fields as in the header, found {len(fields)}; "
                    "mend that line (a field with a comma or a quotation mark needs quotation marks around it)"
                )
            yield f"{path} line {line}", tuple(fields[place] for place in places)

    return Table(tuple(header), records)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number of the line that a record ends on, and its fields; empty lines between records are no records."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader((line for _, line in read_lines(path)), strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise SourceError(f"{path} line {reader.line_num}: expected CSV, found that {error}; mend that line") from error


def _open_json_lines(path: Path) -> Table:
    ahead = itertools.islice(_json_objects(path), _JSON_AHEAD)
    columns = tuple(dict.fromkeys(name for _, record in ahead for name in record))
    if not columns:
        raise SourceError(f"{path}: expected a JSON object with named values on each line, found none")

    def records(names: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for line, record in _json_objects(path):
            yield f"{path} line {line}", tuple(record.get(name) for name in names)

    return Table(columns, records)


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        yield number, json_object(line, f"{path} line {number}")


def json_object(line: str, where: str) -> dict[str, Any]:
    """The JSON object on a line; `where` begins the `SourceError` for anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{where}: expected one JSON object a line, found {shortened(line.strip())} ({error}); "
            "mend that line, or write the file as JSON lines"
        ) from error
    if not isinstance(record, dict):
        raise SourceError(
            f"{where}: expected a JSON object with named values, found {shortened(line.strip())}; "
            "write the file as JSON lines, one object a line"
        )
    return record


def _open_parquet_table(path: Path) -> Table:
    columns = tuple(open_parquet(path).schema_arrow.names)

    def records(names: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        row, wanted = 0, list(dict.fromkeys(names))
        for batch in parquet_batches(path, wanted):
            values = {name: batch.column(name).to_pylist() for name in wanted}
            for record in zip(*(values[name] for name in names), strict=True):
                row += 1
                yield f"{path} row {row}", record

    return Table(columns, records)


def open_parquet(path: Path) -> Any:
    """The `pyarrow.parquet.ParquetFile` of a path. Raises `SourceError` for anything else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from error


def parquet_batches(path: Path, columns: list[str]) -> Iterator[Any]:
    """Record batches of some columns, in the file's order. Raises `SourceError` for a damaged file."""
    import pyarrow as pa

    try:
        yield from open_parquet(path).iter_batches(batch_size=_PARQUET_BATCH, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from error


def _not_parquet(path: Path, error: Exception) -> SourceError:
    cause = " ".join(str(error).split())[:200]
    return SourceError(
        f"{path}: expected a whole Parquet file, found one that cannot be read ({cause}); write it again"
    )


TABLES: dict[str, Callable[[Path], Table]] = {
    ".csv": _open_csv,
    ".jsonl": _open_json_lines,
    ".json": _open_json_lines,
    ".parquet": _open_parquet_table,
}
