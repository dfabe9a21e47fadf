"""Processes that read and tokenise beside the one that computes, where a machine has processors to spare.

Each is a fresh interpreter of this module that takes calls on its standard input and answers on its standard output:
nothing of the caller's `__main__` runs in it, and none of its CUDA state is forked. Calls and answers are pickled, as
`multiprocessing` does: they go through a private pipe between this program and a child that it started, and are never
read from a file.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import KanglueError

__all__ = ["Workers", "backend_of", "processors"]

#: Fewer processors than this gain nothing: what computes and what writes want some for themselves.
LEAST_PROCESSORS = 8
MOST_WORKERS = 12


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A pool of worker processes, started as they are needed; use it in a `with` block."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._own = threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []

    @classmethod
    def for_this_machine(cls) -> "Workers | None":
        """As many as the machine has processors to spare, or none at all."""
        spare = processors() - 4
        return cls(min(MOST_WORKERS, spare)) if processors() >= LEAST_PROCESSORS else None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call a function of a module in some worker; its result, or the error it raised."""
        return self._pool.submit(self._call, function, arguments)

    def _call(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        process = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = self._start()
        try:
            pickle.dump((function, arguments), process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            good, value = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError) as error:
            raise KanglueError("a worker process ended before its work; run the same command again") from error
        if not good:
            raise value
        return value

    def _start(self) -> "subprocess.Popen[bytes]":
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.encode.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"},
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Take no more calls and end the processes; calls that have not begun are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._pool.shutdown(wait=True)
        for process in self._processes:
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@lru_cache(maxsize=2)
def backend_of(state: str) -> Any:
    """In a worker: the tokenizer that `state` describes."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(state)


def _portable(error: Exception) -> Exception:
    """The error if it survives being pickled, else one of the project's own with its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PickleError, TypeError, ValueError, AttributeError):
        # An error whose constructor takes more than its message comes back as one of those when it is rebuilt.
        return KanglueError(str(error))
    return error


def _serve() -> None:
    """Answer calls until the caller is gone."""
    # An interrupt reaches every process of a terminal; the caller decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # What any library prints must not come between answers.
    os.dup2(2, 1)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, arguments = pickle.load(source)
            try:
                answer = (True, function(*arguments))
            except Exception as error:
                answer = (False, _portable(error))
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()


if __name__ == "__main__":
    _serve()
