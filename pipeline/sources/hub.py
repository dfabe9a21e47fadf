"""GLUE from the hub, through `datasets`: the same rows, labels and split names as GLUE's own files."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import SourceError
from pipeline.sources.base import Row, check_split, float32, no_label
from pipeline.tasks import Task

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["HUB_REPOSITORY", "HubSource"]

HUB_REPOSITORY = "nyu-mll/glue"
_BATCH = 1000


class HubSource:
    """Rows of one GLUE task from a data set repository with one configuration a task.

    `repository` is a hub id or a local folder laid out in the same way; `cache_dir` is where `datasets` keeps its
    Arrow files (its own default if `None`). Nothing is loaded before the first use. Raises `SourceError`.
    """

    description = "hub"
    notes: tuple[str, ...] = ()

    def __init__(self, task: Task, repository: str = HUB_REPOSITORY, *, cache_dir: str | None = None) -> None:
        self.task = task
        self._repository, self._cache_dir = repository, cache_dir
        self._loaded: dict[str, Dataset] | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The task's splits that the repository has, in the task's order."""
        return tuple(self._data())

    def rows(self, split: str) -> Iterator[Row]:
        """A fresh stream of one split's rows, in the hub's order; test splits are always unlabelled."""
        check_split(split, self.splits)
        return self._read(split)

    def _read(self, split: str) -> Iterator[Row]:
        task, data = self.task, self._data()[split]
        names = [task.hub_columns[key] for key in ("text", "text_pair", "label") if key in task.hub_columns]
        self._check(split, data, names)
        # The hub has real labels for MRPC's test split; GLUE's own files have none, so nobody gets to see them.
        labelled, unlabelled = not split.startswith("test"), no_label(task)
        data = data.select_columns(names).with_format("arrow")
        position = 0
        for batch in data.iter(batch_size=_BATCH):
            columns = [batch.column(name).to_pylist() for name in names]
            for values in zip(*columns, strict=True):
                *texts, label = values
                if None in texts:
                    raise self._error(f"text in every row of {split}", f"none in row {position}")
                label = self._label(label, split, position) if labelled else unlabelled
                yield Row(texts[0], texts[1] if task.pair else None, label)
                position += 1

    def _label(self, label: int | float | None, split: str, position: int) -> int | float:
        if self.task.labels is None and label is not None:
            return float32(label)
        if self.task.labels is not None and label is not None and label in range(len(self.task.labels)):
            return label
        raise self._error(f"a {self.task.name} label in every row of {split}", f"{label} in row {position}")

    def _check(self, split: str, data: "Dataset", names: list[str]) -> None:
        missing = [name for name in names if name not in data.column_names]
        if missing:
            raise self._error(f"the columns {', '.join(names)} in {split}", ", ".join(data.column_names))
        words = getattr(data.features[self.task.hub_columns["label"]], "names", None)
        if words is not None and tuple(words) != self.task.labels:
            raise self._error(f"the labels {', '.join(self.task.labels or ('numbers',))}", ", ".join(words))

    def _data(self) -> "dict[str, Dataset]":
        if self._loaded is None:
            found = _load(self._repository, self.task.name, self._cache_dir)
            self._loaded = {split: found[split] for split in self.task.files if split in found}
            if not self._loaded:
                raise self._error(f"the splits {', '.join(self.task.files)}", ", ".join(found) or "none")
        return self._loaded

    def _error(self, expected: str, found: str) -> SourceError:
        return SourceError(
            f"{self._repository}, configuration {self.task.name}: expected {expected}, found {found}; "
            "use `data=FOLDER` with GLUE's own files"
        )


def _load(repository: str, name: str, cache_dir: str | None) -> dict[str, Any]:
    """All splits of one configuration, memory-mapped; any failure becomes one line."""
    try:
        import datasets

        # From version 4 `datasets` knows no code from a hub at all; before, it must be told.
        options = {"trust_remote_code": False} if int(datasets.__version__.split(".")[0]) < 4 else {}
        with _quiet_unless_terminal():
            return dict(datasets.load_dataset(repository, name, cache_dir=cache_dir, **options))
    except Exception as error:  # whatever a network, a disk or a package can raise here has one remedy
        cause = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(
            f"expected the data set {repository}, configuration {name}, found it cannot be loaded "
            f"({type(error).__name__}: {cause[:200]}); check the network, or use `data=FOLDER` with GLUE's own files "
            "or `data='sample'`"
        ) from error


@contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """No progress bars of `datasets` where standard error is a file or a pipe; they never go to standard output."""
    import datasets

    silence = not sys.stderr.isatty() and datasets.is_progress_bar_enabled()
    if silence:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            datasets.enable_progress_bars()
