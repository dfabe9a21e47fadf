"""The lock and the journal of a half-written cache.

Both lie in a hidden work folder beside the file that is being made: `.mrpc.h5.partial/` for `mrpc.h5`, with `data.h5`
(what will become the file), `journal` and `lock`. The journal is an append-only list of records; a record counts when
it is whole, and what follows the last whole one is cut off.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import CacheError

__all__ = ["Journal", "Lock", "Record", "holder", "read_journal", "remove_work", "sync_folder", "work_folder"]

_MAGIC = b"KGJ1"
_HEAD = struct.Struct("<4sIQ")


def work_folder(path: Path) -> Path:
    """Where the work on `path` lies until it is finished."""
    return path.with_name(f".{path.name}.partial")


def sync_folder(path: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_work(folder: Path) -> None:
    """Remove a work folder whose lock is held; the lock file goes last, and with it the claim."""
    for entry in sorted(folder.iterdir()):
        if entry.name != "lock":
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    (folder / "lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another process may have made its own lock file in the meantime
        folder.rmdir()


def holder(folder: Path) -> str | None:
    """The process that has a work folder locked, in words; `None` if none has."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
    finally:
        os.close(descriptor)
    return None


class Lock:
    """An exclusive lock on a work folder, made if it is not there; the kernel releases it when the process ends.

    Raises `CacheError`, which names the process, if another one holds it.
    """

    def __init__(self, folder: Path) -> None:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "lock"
            try:
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:  # its last holder has just removed the folder
                continue
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                os.close(self._descriptor)
                raise CacheError(
                    f"{folder}: expected to be the only writer, found it locked by {holder}; wait until that has ended"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), path.stat()):
                    break
            os.close(self._descriptor)  # removed between opening and locking: what we hold locks nothing
        _HELD.add(self)
        os.ftruncate(self._descriptor, 0)
        with contextlib.suppress(OSError):  # a full disk must not stop a process that only wants to resume or read
            os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back."""
        _HELD.discard(self)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_HELD: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _forget() -> None:
    """A forked child shares its parent's locks, and would hold them after the parent's death."""
    for lock in list(_HELD):
        lock.release()


os.register_at_fork(after_in_child=_forget)


def _record(header: dict[str, Any], payload: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    body = _HEAD.pack(_MAGIC, len(text), len(payload)) + text + payload
    return body + hashlib.sha256(body).digest()


class Record(NamedTuple):
    """A whole record of a journal; `end` is where the next one begins."""

    header: dict[str, Any]
    payload: bytes
    end: int


def read_journal(path: Path) -> Iterator[Record]:
    """The whole records of a journal, one at a time, up to the first that is not whole; none if there is no file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        size, end = os.fstat(file.fileno()).st_size, 0
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            magic, text, payload = _HEAD.unpack(head)
            start, end = end, end + _HEAD.size + text + payload + 32
            if magic != _MAGIC or end > size:
                return
            body = file.read(end - start - _HEAD.size - 32)
            if hashlib.sha256(head + body).digest() != file.read(32):
                return
            yield Record(json.loads(body[:text]), body[text:], end)


class Journal:
    """The journal of a work folder, open for appending behind `length`, the bytes that whole records take."""

    def __init__(self, path: Path, length: int) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = length
        os.ftruncate(self._descriptor, length)

    def append(self, *records: tuple[dict[str, Any], bytes]) -> None:
        """Add records (header, payload); when this returns they are on the disk."""
        data = memoryview(b"".join(_record(header, payload) for header, payload in records))
        position = self._end
        while data:
            written = os.pwrite(self._descriptor, data, position)
            position, data = position + written, data[written:]
        os.fdatasync(self._descriptor)
        self._end = position

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
