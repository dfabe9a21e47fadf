"""Progress on standard error: a live bar on a terminal, nothing in a file or a pipe.

Standard output belongs to results (tables and JSON documents), so nothing here ever writes to it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Bar", "bar", "say"]


class Bar(Protocol):
    """What a long loop may do with its progress bar."""

    def advance(self, amount: int) -> None:
        """Count `amount` more units as done."""

    def describe(self, text: str) -> None:
        """Replace the text in front of the bar."""


class _Silent:
    def advance(self, amount: int) -> None:
        pass

    def describe(self, text: str) -> None:
        pass


class _Rich:
    def __init__(self, progress, task_id) -> None:
        self._progress, self._task = progress, task_id

    def advance(self, amount: int) -> None:
        self._progress.update(self._task, advance=amount)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, description=text)


@contextmanager
def bar(text: str, total: int | None, unit: str) -> Iterator[Bar]:
    """A progress bar with rate and time left; silent where standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Rich(progress, progress.add_task(text, total=total))


def say(text: str) -> None:
    """One line for people, on standard error."""
    print(text, file=sys.stderr, flush=True)
