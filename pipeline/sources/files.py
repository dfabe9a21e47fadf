"""The user's own texts, from CSV, JSON lines or Parquet with named columns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.sources.base import Row, check_split, shortened
from pipeline.sources.labels import DRAWN, LabelCensus, drawn_split, ordered_splits, split_named
from pipeline.sources.tables import open_table
from pipeline.tasks import own_task

__all__ = ["FileSource"]


class FileSource:
    """Rows of a task of the user's own, in the file's order.

    Integers 0 to C-1 are classes as they are; other integers or words become classes in sorted order; numbers with a
    fraction make a regression. An empty label is -1 (NaN for regression), and so is -1 where a whole split has nothing
    else. Without `split_column` a hash of each row's texts draws its split. The file is read once at the start, to
    learn labels and splits, and again for each split; it is never held in memory. Raises `SourceError`.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        text: str,
        label: str,
        text_pair: str | None = None,
        split_column: str | None = None,
    ) -> None:
        self.description = path.resolve().name
        self.notes: tuple[str, ...] = () if split_column else (f"{name}: {DRAWN}",)
        self._path, self._table, self._pair, self._drawn = path, open_table(path), bool(text_pair), not split_column
        self._columns = [column for column in (text, text_pair, label, split_column) if column]
        for column in self._columns:
            if column not in self._table.columns:
                raise SourceError(
                    f"{path}: expected a column {column!r}, found {shortened(', '.join(self._table.columns), 300)}; "
                    "name one of these"
                )
        census = LabelCensus(label)
        splits: dict[str, None] = {}
        for where, split, _, value in self._records():
            census.add(value, split, where)
            if split not in splits:
                splits = dict.fromkeys(ordered_splits((*splits, split), where))
        if not splits:
            raise SourceError(f"{path}: expected at least one row, found none; check the file")
        if self._drawn and len(splits) < 2:
            raise SourceError(
                f"{path}: expected enough rows to draw train and validation, found too few different ones "
                f"(all fell to {next(iter(splits))}); give more rows, or say with `split_column` which is which"
            )
        self._coding = census.coding()
        self.splits: tuple[str, ...] = tuple(splits)
        self.task = own_task(name, self._coding.labels, pair=self._pair)

    def rows(self, split: str) -> Iterator[Row]:
        """A fresh stream of one split's rows."""
        check_split(split, self.splits)
        return (
            Row(texts[0], texts[1] if self._pair else None, self._coding.label(value, split, where))
            for where, row_split, texts, value in self._records()
            if row_split == split
        )

    def __getstate__(self) -> dict[str, Any]:
        """A table holds functions that cannot go to another process; it is opened again there."""
        return {name: value for name, value in self.__dict__.items() if name != "_table"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _table=open_table(state["_path"]))

    def _records(self) -> Iterator[tuple[str, str, tuple[str, ...], Any]]:
        """Place, split, texts and label value of each row."""
        width = 2 if self._pair else 1
        for where, values in self._table.records(self._columns):
            texts = values[:width]
            for column, text in zip(self._columns, texts, strict=False):
                _check_text(text, column, where)
            if self._drawn:
                split = drawn_split(*(text.encode("utf-8", "surrogatepass") for text in texts))
            else:
                split = split_named(values[-1], where)
            yield where, split, texts, values[width]


def _check_text(text: Any, column: str, where: str) -> None:
    # Half a surrogate pair, which JSON can hold, is text: it becomes U+FFFD for the tokenizer and in the cache.
    if not isinstance(text, str):
        found = shortened(str(text))
        raise SourceError(
            f"{where}: expected text in column {column!r}, found {found}; mend it (an empty text is allowed)"
        )
