"""Folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ResultsError

__all__ = ["publish"]


@contextmanager
def publish(place: Path, what: str, *, keep: bool = False) -> Iterator[Path]:
    """A new folder to fill, renamed to `place` at the end; after an error nothing is left of it.

    A folder at `place` is replaced, or with `keep` stays as it is. Raises `ResultsError` where `what` cannot be
    written.
    """
    work = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        yield work
        work.chmod(0o755)
        if place.exists() and not keep:
            shutil.rmtree(place)
        os.replace(work, place)
    except OSError as error:
        if not (keep and place.is_dir()):
            raise ResultsError(f"{place}: expected to write {what} ({error.strerror or error})") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
