"""Folders that appear whole or not at all, and that last when this says so."""

import ctypes
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ResultsError

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves behind stays there
    fcntl = None  # type: ignore[assignment]

__all__ = ["cache_folder", "publish", "replace_folder", "sync", "sync_entries", "work_folder"]

#: Folders in which something is being made, hidden beside what it becomes.
_PREFIX = ".work-"
#: Files up to which each is synchronised by itself; the system's call for more waits for other programs' files too.
_FEW = 16
#: Seconds after which a work folder without a lock is nobody's: making one takes less than that.
_ABANDONED = 60


def cache_folder() -> Path:
    """The user's cache folder for what can be made again: `$XDG_CACHE_HOME/kanglue`, or `~/.cache/kanglue`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kanglue"


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A new hidden folder in `parent`, with the permissions of the user's umask; removed at the end.

    It is locked for as long as this process lives. Folders that killed processes left in `parent` are removed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.glob(f"{_PREFIX}*"):
        _remove_abandoned(folder)
    work = parent / f"{_PREFIX}{secrets.token_hex(8)}"
    work.mkdir()
    lock = None
    try:
        if fcntl is not None:
            # Locked under another name first, so that a lock that is seen and free is a dead process's.
            lock = os.open(work / "locking", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.replace(work / "locking", work / "lock")
        (work / "new").mkdir()
        yield work / "new"
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(work, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    if fcntl is None:
        return
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        with_age = folder.stat() if folder.exists() else None
        if with_age is not None and time.time() - with_age.st_mtime > _ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)
        return
    except OSError:
        return  # another user's
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


@contextmanager
def publish(place: Path, what: str, *, own: Collection[str] | None) -> Iterator[Path]:
    """A new folder to fill, whose contents are at `place` at the end; after an error nothing is left of it.

    In a folder that is at `place` already, the names in `own` (`None`: all) are replaced, others stay. Raises
    `ResultsError` where `what` cannot be written.
    """
    try:
        with work_folder(place.parent) as work:
            yield work
            sync(work)
            if own is None or not os.path.lexists(place):
                replace_folder(work, place)
            else:
                old = work.with_name("old")
                old.mkdir()
                for name in own:
                    if os.path.lexists(place / name):
                        os.rename(place / name, old / name)
                for file in work.iterdir():
                    os.rename(file, place / file.name)
            sync_entries(place.parent)
    except OSError as error:
        raise ResultsError(f"{place}: expected to write {what} ({error.strerror or error})") from error


def replace_folder(new: Path, place: Path) -> None:
    """Rename a folder to `place`; one that is there goes to `new`'s parent, to be removed with it."""
    if os.path.lexists(place):
        os.rename(place, new.with_name(f"{new.name}.old"))
    os.rename(new, place)


def sync(folder: Path) -> None:
    """Wait until every file and folder below `folder` is on the disk, with the permissions of the user's umask.

    The umask is seen in `folder`; libraries that write through temporary files would keep others from reading.
    """
    below = [Path(root) / name for root, folders, files in os.walk(folder) for name in (*folders, *files)]
    mode = folder.stat().st_mode
    for path in below:
        if not path.is_symlink():
            path.chmod(mode & (0o777 if path.is_dir() else 0o666))
    if len(below) > _FEW and _sync_filesystem(folder):
        return
    for path in (*below, folder):
        sync_entries(path)


def sync_entries(path: Path) -> None:
    """Wait until one file, or the names in one folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows synchronises no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_filesystem(folder: Path) -> bool:
    """One call for all files of the file system, where the system has it."""
    call = getattr(ctypes.CDLL(None), "syncfs", None) if os.name == "posix" else None
    if call is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return call(descriptor) == 0
    finally:
        os.close(descriptor)
