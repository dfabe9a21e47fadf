"""GLUE's own TSV layout: a folder with one folder a task.

Fields are split on tabs and nothing is quoting: a quotation mark is text.
"""

from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.sources.base import Row, check_split, float32, no_label, shortened
from pipeline.sources.labels import NUMBER
from pipeline.sources.lines import read_lines
from pipeline.tasks import Task, TsvFile

__all__ = ["FolderSource", "parse_label"]


class FolderSource:
    """Rows of one task from a folder in GLUE's layout.

    `folder` holds the tasks' folders (`glue_data`), or is the task's own (`glue_data/CoLA`). Raises `SourceError`
    at once where it holds no file of the task, and while reading for a row that is not the task's.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self.task = task
        self.description = folder.resolve().name
        self._files = _find_files(task, folder)
        self._dropped: dict[str, list[int]] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose files are there, in the task's order."""
        return tuple(self._files)

    @property
    def notes(self) -> tuple[str, ...]:
        """How many rows were left out of each split that has been read to its end."""
        return tuple(
            f"{self.task.name} {split}: {len(lines)} rows lack a column and are left out, as in the hub's copy "
            f"({self._files[split].name} lines {', '.join(map(str, lines[:5]))}{', ...' if len(lines) > 5 else ''})"
            for split, lines in self._dropped.items()
            if lines
        )

    def rows(self, split: str) -> Iterator[Row]:
        """A fresh stream of one split's rows, in the file's order; test splits are always unlabelled."""
        check_split(split, self.splits)
        return self._read(split)

    def _read(self, split: str) -> Iterator[Row]:
        task, path = self.task, self._files[split]
        names, records = _open_table(path, task.files[split])
        labelled = not split.startswith("test")
        wanted = [task.columns["text"]] + ([task.columns["text_pair"]] if task.pair else [])
        wanted += [task.columns["label"]] if labelled else []
        missing = [name for name in wanted if name not in names]
        if missing:
            raise SourceError(
                f"{path} line 1: expected a header with the columns {', '.join(wanted)}, "
                f"found {shortened(', '.join(names), 200)}; restore GLUE's header line"
            )
        places = [names.index(name) for name in wanted]
        dropped: list[int] = []
        for number, fields in records:
            if task.drops_short_rows and (len(fields) < len(names) or (labelled and not fields[places[-1]])):
                dropped.append(number)
                continue
            if len(fields) != len(names):
                raise SourceError(
                    f"{path} line {number}: expected {len(names)} columns separated by tabs, found {len(fields)}; "
                    "mend that line or fetch the file again"
                )
            values = [fields[place] for place in places]
            label = parse_label(task, values[-1], f"{path} line {number}") if labelled else no_label(task)
            yield Row(values[0], values[1] if task.pair else None, label)
        self._dropped[split] = dropped


def parse_label(task: Task, value: str, where: str) -> int | float:
    """The hub's number for a label that is one of the task's words or numbers; `where` begins the error message."""
    if task.labels is None:
        if NUMBER.fullmatch(value) and isfinite(number := float32(float(value))):
            return number
        expected = "a number"
    else:
        if value in task.labels:
            return task.labels.index(value)
        numbers = [str(number) for number in range(len(task.labels))]
        if value in numbers:
            return numbers.index(value)
        expected = f"one of {', '.join(numbers + list(task.labels))}"
    raise SourceError(f"{where}: expected a {task.name} label, {expected}, found {shortened(value)}; mend that line")


def _find_files(task: Task, folder: Path) -> dict[str, Path]:
    """The first file that exists for each split."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise SourceError(f"{folder}: expected a folder with GLUE's task folders, found {found}; check `data`")
    files: dict[str, Path] = {}
    own_name = folder.resolve().name.lower()
    for split, file in task.files.items():
        # RTE, STS-B and WNLI share their columns: a bare train.tsv is taken only where its folder has the task's name.
        own = [Path(path).name for path in file.paths if Path(path).parent.name.lower() == own_name]
        for path in (*file.paths, *own):
            if (folder / path).is_file():
                files[split] = folder / path
                break
    if not files:
        looked = ", ".join(path for file in task.files.values() for path in file.paths)
        raise SourceError(
            f"{folder}: expected the task {task.name} as one of {looked}, found none of them; "
            "give `data` the folder that holds GLUE's task folders"
        )
    return files


def _open_table(path: Path, file: TsvFile) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Column names, and an iterator of line numbers and fields."""
    lines = ((number, line.removesuffix("\n").removesuffix("\r")) for number, line in read_lines(path))
    if file.columns is not None:
        return list(file.columns), _records(lines, len(file.columns))
    header = next(lines, None)
    if header is None:
        raise SourceError(f"{path}: expected a header line, found an empty file; fetch the file again")
    names = header[1].split("\t")
    return names, _records(lines, len(names))


def _records(lines: Iterator[tuple[int, str]], width: int) -> Iterator[tuple[int, list[str]]]:
    """Split lines into fields; empty lines at the end of the file are not rows, those in its middle are."""
    empty: list[int] = []
    for number, line in lines:
        if not line and width > 1:
            empty.append(number)
            continue
        for skipped in empty:
            yield skipped, [""]
        empty.clear()
        yield number, line.split("\t")
