"""Synthetic caches for the tests of the store: small, deterministic, every kind of dataset in them."""

import os
import signal
import warnings
from pathlib import Path

import numpy as np

from pipeline.store import CacheWriter, open_cache

ATTRIBUTES = {
    "task": "toy", "labels": ["no", "yes"], "encoder": "none", "encoder_sha256": "e" * 64, "config_sha256": "c" * 64,
    "tokenizer_sha256": "t" * 64, "max_length": 128, "precision": "float32", "pairs": "joint", "layers": None,
    "limit": None, "source": "made up", "source_sha256": "5" * 64, "default_feature": "mean",
    "versions": {"numpy": "1"}, "created": "2024-01-01T00:00:00+00:00",
}  # fmt: skip
SPLITS = {"train": 1000, "validation": 0, "test": 130}
ALL = ("idx", "text", "text_pair", "label", "length", "pooled", "cls", "mean", "weight", "reduced", "last_hidden")
WIDTHS = {"D": 12, "m": 4}
OPTIONS = {"block_rows": 64, "chunk_bytes": 1024}


def rows_of(split: str, start: int, stop: int, width: int = 12) -> dict:
    """Arrays of rows [start, stop), the same whichever blocks they are asked for in."""
    count = stop - start
    whole = np.random.default_rng([len(split), width])
    length = whole.integers(1, 9, 100_000).astype(np.int32)
    place = np.arange(start, stop)
    tokens = np.arange(length[:start].sum(), length[:stop].sum())
    base = (place[:, None] * 31 + np.arange(width)[None] * 7) % 1009
    return {
        "idx": place,
        "text": [f"{split} row {i} " + "ä" * (i % 7) if i % 11 else "" for i in range(start, stop)],
        "text_pair": [f"pair {i}" * (i % 40) for i in range(start, stop)],
        "label": place % 3 - 1,
        "length": length[start:stop],
        "pooled": (base / 7).astype(np.float32),
        "cls": (base / 11).astype(np.float32),
        "mean": (base / 13).astype(np.float32),
        "weight": (base * 3.5).astype(np.float32),
        "reduced": np.full((count, 4), 0.5, np.float32) + place[:, None],
        "last_hidden": ((tokens[:, None] * 17 + np.arange(width)[None]) % 501 / 8).astype(np.float16),
    }


def write(path: Path, *, datasets=ALL, splits=SPLITS, stop_after: int | None = None, seen=None, **options) -> int:
    """Write a cache, or `stop_after` blocks of one; returns the number of blocks written. `seen` is told of each."""
    attributes = ATTRIBUTES | options.pop("attributes", {})
    written = 0
    with CacheWriter(path, attributes, splits, datasets, WIDTHS, **(OPTIONS | options)) as writer:
        for block in writer.todo():
            if written == stop_after:
                return written
            if seen is not None:
                seen(block)
            arrays = rows_of(block.split, block.start, block.stop)
            writer.write(block, {name: arrays[name] for name in (*block.datasets, "length")})
            written += 1
        writer.finish()
    return written


def contents(path: Path) -> dict:
    """Everything in a cache, by split and name, ragged rows as bytes."""
    out = {}
    with open_cache(path) as cache:
        for split in cache:
            for name in cache[split].names:
                found = cache[split][name]
                if name == "last_hidden":
                    found = tuple(part.tobytes() for part in found[:])
                out[split, name] = found if isinstance(found, list | tuple) else (found.tobytes(), found.shape)
    return out


def fork(work) -> int:
    """Run `work` in a forked child; returns its process id. The child ends with status 0, or 1 after an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: the child starts its own
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def ended(child: int) -> int | None:
    """Wait for a child: its exit status, or `None` if it was killed."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise RuntimeError(f"the child died of signal {os.WTERMSIG(status)}")
        return None
    return os.waitstatus_to_exitcode(status)
