"""What lies in a cache folder, and what of it nobody needs any more."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import CacheError, ResultsError
from pipeline.store.journal import Lock, holder, read_journal, remove_work
from pipeline.store.read import open_cache

__all__ = ["Prunable", "describe", "find_prunable", "list_caches", "prune"]

_PARTIAL, _PART = ".h5.partial", ".h5.part"


@dataclass(frozen=True)
class _Found:
    """A file or a work folder in a cache folder; `facts` holds what is known of it, `fault` why it cannot be read."""

    path: Path
    bytes: int
    state: Literal["whole", "partial", "part", "damaged"]
    facts: dict[str, Any]
    fault: str | None = None


@dataclass(frozen=True)
class Prunable:
    """Something that may be removed: where, how large, and why."""

    path: Path
    bytes: int
    reason: str


def describe(path: Path) -> dict[str, Any]:
    """A cache's provenance and contents: attributes, and by split its rows, tokens and datasets (shape and dtype)."""
    with open_cache(path) as cache:
        splits = {
            split: {
                "rows": cache[split].rows,
                "datasets": {
                    name: {"shape": list(dataset.shape), "dtype": dataset.dtype}
                    for name, dataset in cache[split].datasets.items()
                },
            }
            for split in cache
        }
        return {"path": str(path), "bytes": path.stat().st_size, "attributes": dict(cache.attributes), "splits": splits}


def list_caches(folder: Path) -> list[dict[str, Any]]:
    """Everything in a cache folder, in the order of paths, as JSON holds it.

    Each has `path`, `bytes`, `state` (`whole`, `partial`, `part` of a worker, `damaged`) and `fault` (why a damaged
    file cannot be read). What can be read has `task`, `encoder`, `fingerprint`, `created` and `splits` (rows of each);
    whole files also `default_feature` and `datasets`; half-finished ones `rows_done` and `locked_by` (the process at
    work).
    """
    return [
        {"path": str(found.path), "bytes": found.bytes, "state": found.state, "fault": found.fault, **found.facts}
        for found in _found(folder)
    ]


def _found(folder: Path) -> list[_Found]:
    return sorted(_walk(folder), key=lambda found: found.path)


def _walk(folder: Path) -> Iterator[_Found]:
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.is_symlink() or any(parent.name.endswith(_PARTIAL) for parent in path.parents):
            continue
        if path.name.endswith(_PARTIAL) and path.is_dir():
            yield _partial(path)
        elif path.is_file() and (path.suffix == ".h5" or _PART in path.name):
            yield _file(path)


def _partial(path: Path) -> _Found:
    size = sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file())
    records = read_journal(path / "journal")
    first = next(records, None)
    if first is None:
        return _Found(path, size, "partial", {"rows_done": {}, "locked_by": holder(path)})
    head, done = first.header, {record.header["split"]: record.header["block"][1] for record in records}
    attributes = head["attributes"]
    facts = {name: attributes[name] for name in ("task", "encoder", "fingerprint", "created")}
    facts |= {"splits": head["request"]["splits"], "rows_done": done, "locked_by": holder(path)}
    return _Found(path, size, "partial", facts)


def _file(path: Path) -> _Found:
    size, part = path.stat().st_size, _PART in path.name
    try:
        with open_cache(path, part=part) as cache:
            attributes = cache.attributes
            facts = {
                name: attributes[name] for name in ("task", "encoder", "fingerprint", "created", "default_feature")
            }
            facts["splits"] = {split: cache[split].rows for split in cache}
            facts["datasets"] = sorted({name for split in cache for name in cache[split].names})
    except CacheError as error:
        return _Found(path, size, "damaged", {}, str(error))
    return _Found(path, size, "part" if part else "whole", facts)


def find_prunable(folder: Path, results: Sequence[Path] = (), *, damaged: bool = False) -> list[Prunable]:
    """Half-finished work, and with `results` also whole caches whose fingerprint none of these databases mentions.

    Work that a process is busy with is left out, and so are files that cannot be read, unless `damaged` asks for them:
    one may be another version's, or mend with its disk, so a person decides. Raises `ResultsError` for a database that
    cannot be read, so that nothing is removed by mistake.
    """
    used = {fingerprint for path in results for fingerprint in _fingerprints(path)}
    out = []
    for found in _found(folder):
        if found.state == "partial" and found.facts["locked_by"] is None:
            out.append(Prunable(found.path, found.bytes, "half-finished"))
        elif found.state == "part":
            out.append(Prunable(found.path, found.bytes, "a part, left after merging or never merged"))
        elif found.state == "whole" and results and found.facts["fingerprint"] not in used:
            out.append(Prunable(found.path, found.bytes, "no head was fitted on it"))
        elif found.state == "damaged" and damaged:
            out.append(Prunable(found.path, found.bytes, "cannot be read"))
    return out


def _fingerprints(path: Path) -> list[str]:
    if not path.is_file():
        raise ResultsError(f"{path}: expected a results database, found no such file")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            return [row[0] for row in database.execute("SELECT DISTINCT fingerprint FROM heads")]
    except sqlite3.Error as error:
        raise ResultsError(
            f"{path}: expected a results database with a table `heads`, found another file ({error})"
        ) from error


def prune(chosen: Sequence[Prunable]) -> list[Prunable]:
    """Remove what was chosen; what another process has begun to work on since is left, and left out of the result."""
    removed = []
    for item in chosen:
        if not item.path.is_dir():
            item.path.unlink(missing_ok=True)
            removed.append(item)
            continue
        try:
            lock = Lock(item.path)
        except CacheError:
            continue
        try:
            remove_work(item.path)
        finally:
            lock.release()
        removed.append(item)
    return removed
