"""How far a sweep is: heads done, heads a second, time left; live on a terminal, otherwise a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.progress import say

__all__ = ["SweepProgress", "sweep_progress"]

#: Seconds between lines where standard error is not a terminal.
EVERY = 15.0
#: Share of the work, or seconds, after the first epoch from which on time left is worth saying: what comes before
#: (reading data, compiling kernels) is not repeated for every epoch.
SHARE, SETTLED = 0.02, 60.0


class SweepProgress:
    """Counts work: an estimate of each head's cost, so that time left holds for heads of different sizes."""

    def __init__(
        self, heads: int, work: float, show: Callable[[str, float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`show` is handed the line and the share that is done; `clock` counts seconds."""
        self.heads, self.work, self._show, self._clock = heads, work, show, clock
        self.began = clock()
        self.done_heads, self.done_work, self.running, self.running_heads = 0, 0.0, 0.0, 0.0
        self.what = ""
        self._first: tuple[float, float] | None = None

    def pack(self, what: str) -> None:
        """A pack begins (again): what the running one had done counts no more."""
        self.what, self.running, self.running_heads = what, 0.0, 0.0
        self._tell()

    def advance(self, heads: float, work: float) -> None:
        """Heads, or parts of them, that the running pack has done."""
        self.running += work
        self.running_heads += heads
        self._first = self._first or (self._clock(), self.done_work + self.running)
        self._tell()

    def stored(self, heads: int, work: float) -> None:
        """The running pack is stored (or given up)."""
        self.done_heads += heads
        self.done_work += work
        self.running = self.running_heads = 0.0
        self._tell()

    def line(self) -> str:
        """The line that people read."""
        elapsed = max(self._clock() - self.began, 1e-9)
        done = self.done_work + self.running
        parts = [f"{self.done_heads:,} of {self.heads:,} heads"]
        if done > 0:
            rate = (self.done_heads + self.running_heads) / elapsed
            parts += [f"{_rounded(rate)} a second" if rate >= 1 else f"{_rounded(60 * rate)} a minute"]
        left = self._left()
        parts += [] if left is None else [f"{_duration(left)} left"]
        return ", ".join([*parts, *([self.what] if self.what else [])])

    def _left(self) -> float | None:
        """Seconds left, from the speed since the first epoch's end; `None` where that says too little yet."""
        if self._first is None:
            return None
        began, before = self._first
        done = self.done_work + self.running
        seconds, work = self._clock() - began, done - before
        if work <= 0 or (work < SHARE * self.work and seconds < SETTLED):
            return None
        return seconds * (self.work - done) / work

    def _tell(self) -> None:
        self._show(self.line(), (self.done_work + self.running) / self.work if self.work else 1.0)


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
    """Progress on standard error: one line that changes on a terminal, else one every quarter of a minute."""
    if not sys.stderr.isatty():
        yield SweepProgress(heads, work, _Lines())
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (BarColumn(bar_width=20), TaskProgressColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as live:
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
