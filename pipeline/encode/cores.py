"""Batches side by side on a CPU: a core has one to itself, so that none waits for another after every product."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch

__all__ = ["side_by_side"]

#: Batches that are in memory at once, at most.
MOST = 16
_busy = threading.Lock()


@cache
def _pool(size: int) -> ThreadPoolExecutor:
    """Threads that stay: an encoder's buffers are theirs."""
    return ThreadPoolExecutor(size, "batch")


def side_by_side(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """`work` of each item, in order, as many at once as PyTorch has threads, which they share evenly meanwhile.

    One call at a time does so; another one that begins meanwhile takes its items one after another.
    """
    threads = torch.get_num_threads()
    size = min(threads, len(items), MOST)
    if size <= 1 or not _busy.acquire(blocking=False):
        yield from map(work, items)
        return
    futures: list[Future[Any]] = []
    try:
        torch.set_num_threads(threads // size)
        futures += [_pool(size).submit(work, item) for item in items]
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
        # Those that run are waited for: they use the caller's arrays, and the number of threads is theirs.
        wait(futures)
        torch.set_num_threads(threads)
        _busy.release()
