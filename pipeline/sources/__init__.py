"""Rows of a task: from the hub, from a folder in GLUE's layout, from the bundled sample, from a file of one's own."""

from dataclasses import replace
from pathlib import Path

from pipeline.errors import ConfigError, SourceError, UnknownNameError
from pipeline.sources.base import Limited, Row, Scan, Source, check_counts, scan
from pipeline.sources.files import FileSource
from pipeline.sources.hub import HubSource
from pipeline.sources.labels import plain_name
from pipeline.sources.packaged import PackagedSource
from pipeline.sources.tables import TABLES, open_table
from pipeline.sources.tsv import FolderSource
from pipeline.sources.vectors import read_vectors
from pipeline.tasks import TASKS as GLUE_TASKS
from pipeline.tasks import task_named

__all__ = [
    "SAMPLE_TASKS",
    "FileSource",
    "FolderSource",
    "HubSource",
    "Limited",
    "Row",
    "Scan",
    "Source",
    "check_counts",
    "check_task_name",
    "open_source",
    "read_vectors",
    "scan",
]

#: The bundled sample: generated sentences in GLUE's layout, to show the whole way without a network. Labels follow a
#: grammar, with one in twenty flipped; figures from it say nothing about GLUE.
_SAMPLE = Path(__file__).parent / "sample"
_SAMPLE_ROWS = {"train": 600, "validation": 300, "test": 200}
SAMPLE_TASKS = ("cola", "sst2", "mrpc")


def open_source(
    task: str,
    data: str = "hub",
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    split_column: str | None = None,
) -> Source:
    """The rows of `task` in `data`: `hub`, `sample`, `packaged`, a folder in GLUE's layout, or a file of one's own.

    A file (.csv, .jsonl, .json, .parquet) needs the names of its columns, `text` and `label`; nothing else takes them.
    Raises `UnknownNameError`, `ConfigError` or `SourceError`; rows that are wrong raise only when they are read.
    """
    columns = {
        "`text_column`": text,
        "`text_pair_column`": text_pair,
        "`label_column`": label,
        "`split_column`": split_column,
    }
    given = [option for option, column in columns.items() if column is not None]
    path = Path(data)
    if (
        data not in ("hub", "sample", "packaged")
        and not path.is_dir()
        and (path.suffix.lower() in TABLES or path.is_file())
    ):
        check_task_name(task)
        if not (text and label):
            missing = " and ".join(option for option in ("`text_column`", "`label_column`") if not columns[option])
            raise ConfigError(
                f"{data}: expected {missing}, the name of a column, found none given; "
                f"the file's columns are {', '.join(open_table(path).columns)}"
            )
        return FileSource(task, path, text=text, label=label, text_pair=text_pair, split_column=split_column)
    if given:
        raise ConfigError(
            f"expected {', '.join(given)} with a file of your own alone, found it with `data` {data}; "
            "leave it out, or give `data=FILE.csv`, .jsonl or .parquet"
        )
    if data == "sample":
        if task not in SAMPLE_TASKS:
            raise UnknownNameError("task", task, SAMPLE_TASKS, "other tasks need `data='hub'` or `data=FOLDER`")
        return FolderSource(replace(GLUE_TASKS[task], rows=_SAMPLE_ROWS), _SAMPLE)
    if data == "packaged":
        return PackagedSource(task)
    known = task_named(task)
    if data == "hub":
        return HubSource(known)
    if not path.exists():
        raise SourceError(
            f"`data` {data}: expected hub, sample, a folder, or a file ending in {', '.join(TABLES)}, "
            "found nothing there; check the path"
        )
    return FolderSource(known, path)


def check_task_name(name: str) -> None:
    """Raise `ConfigError` unless a task of one's own has a plain name, which becomes a file's name."""
    if not plain_name(name):
        raise ConfigError(
            f"expected a task name of letters, digits, '.', '_' and '-' (not first '.' or '-'), found {name!r}; "
            "choose a plain name"
        )
