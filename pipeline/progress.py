"""Progress on standard error: live bars on a terminal; in a file or a pipe a line now and then for sweeps alone.

Standard output belongs to results (tables and JSON documents), so nothing here ever writes to it.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.text import printable, terminal

__all__ = ["Bar", "PackProgress", "SweepProgress", "bar", "say", "sweep_progress"]

#: Seconds between a sweep's lines where standard error is not a terminal.
EVERY = 15.0
#: Share of a sweep's work, or seconds, after the first epoch from which on the time left is worth saying: what comes
#: before (reading data, compiling kernels) is not repeated for every epoch.
SHARE, SETTLED = 0.02, 60.0


def say(text: str) -> None:
    """One line for people, on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


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
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int) -> None:
        self._progress.update(self._task, advance=amount)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, description=text)


@contextmanager
def _live(*columns: Any) -> Iterator[Any]:
    from rich.progress import Progress

    with Progress(*columns, console=terminal(stderr=True), transient=True) as live:
        yield live


@contextmanager
def bar(text: str, total: int | None, unit: str) -> Iterator[Bar]:
    """A progress bar with rate and time left; silent where standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with _live(*columns, TimeRemainingColumn(elapsed_when_finished=True)) as live:
        yield _Rich(live, live.add_task(text, total=total))


class SweepProgress:
    """Progress of a sweep: heads done, heads a second, time left.

    It counts work, an estimate of each head's cost, so that the time left holds for heads of different sizes.
    """

    def __init__(
        self, heads: int, work: float, show: Callable[[str, float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`show` takes the line and the share that is done; `clock` counts seconds."""
        self.heads, self.work, self._show, self._clock = heads, work, show, clock
        self.done_heads, self.done_work = 0, 0.0
        self._began = clock()
        self._running: list[PackProgress] = []
        self._settled: tuple[float, float] | None = None

    def pack(self, text: str) -> "PackProgress":
        """A pack begins; `text` says which."""
        self._running.append(PackProgress(self, text))
        self._tell()
        return self._running[-1]

    def line(self) -> str:
        """The line that people read."""
        elapsed = max(self._clock() - self._began, 1e-9)
        parts = [f"{self.done_heads:,} of {self.heads:,} heads"]
        if self._done() > 0:
            rate = (self.done_heads + sum(pack.heads for pack in self._running)) / elapsed
            parts += [f"{_rounded(rate)} a second" if rate >= 1 else f"{_rounded(60 * rate)} a minute"]
        left = self._left()
        parts += [] if left is None else [f"{_duration(left)} left"]
        return ", ".join([*parts, *(pack.text for pack in self._running[-1:])])

    def _done(self) -> float:
        return self.done_work + sum(pack.work for pack in self._running)

    def _left(self) -> float | None:
        """Seconds left, from the speed since the first epoch's end; `None` where that says too little yet."""
        if self._settled is None:
            return None
        began, before = self._settled
        seconds, work = self._clock() - began, self._done() - before
        if work <= 0 or (work < SHARE * self.work and seconds < SETTLED):
            return None
        return seconds * (self.work - self._done()) / work

    def _tell(self) -> None:
        self._show(self.line(), self._done() / self.work if self.work else 1.0)

    def _advanced(self) -> None:
        self._settled = self._settled or (self._clock(), self._done())
        self._tell()

    def _ended(self, pack: "PackProgress", heads: int, work: float) -> None:
        self._running.remove(pack)
        self.done_heads += heads
        self.done_work += work
        self._tell()


class PackProgress:
    """Progress of one pack in training: heads, or fractions of them, and work that it has done."""

    def __init__(self, sweep: SweepProgress, text: str) -> None:
        self._sweep, self.text, self.heads, self.work = sweep, text, 0.0, 0.0

    def advance(self, heads: float, work: float) -> None:
        """Count more as done."""
        self.heads += heads
        self.work += work
        self._sweep._advanced()

    def end(self, heads: int = 0, work: float = 0.0) -> None:
        """The pack is over: these heads of it are stored or given up, what else it had done no longer counts."""
        self._sweep._ended(self, heads, work)


def _rounded(number: float) -> str:
    return f"{number:.1f}" if number < 100 else f"{number:,.0f}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def sweep_progress(heads: int, work: float) -> Iterator[SweepProgress]:
    """Progress of a sweep: one line that changes on a terminal, else one every quarter of a minute."""
    if not sys.stderr.isatty():
        yield SweepProgress(heads, work, _Lines())
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn

    with _live(BarColumn(bar_width=20), TaskProgressColumn(), TextColumn("{task.description}", markup=False)) as live:
        task: Any = live.add_task(f"{heads:,} heads", total=1.0)
        yield SweepProgress(heads, work, lambda line, share: live.update(task, completed=share, description=line))


class _Lines:
    """Says a line if the last one was long ago."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, line: str, share: float) -> None:
        now = time.monotonic()
        if now - self.last >= EVERY and share < 1:
            self.last = now
            say(line)
