"""From a name that was read or typed to a path: one function, which refuses what would lead anywhere else."""

from pathlib import Path

from pipeline.errors import ConfigError, KanglueError
from pipeline.text import printable

__all__ = ["LONGEST", "check_name", "child"]

#: Bytes of a name: file systems take 255, and names get suffixes.
LONGEST = 200
_FORBIDDEN = frozenset("/\\") | {chr(code) for code in (*range(32), *range(127, 160))}


def check_name(name: object, what: str, error: type[KanglueError] = ConfigError) -> str:
    """The name, if it may be that of one file or folder; raises `error` for anything else.

    Refused are the empty name, `.` and `..`, separators, control characters, what does not encode as UTF-8, and more
    than `LONGEST` bytes.
    """
    if (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not _FORBIDDEN & set(name)
        and not any("\ud800" <= letter <= "\udfff" for letter in name)
        and len(name.encode()) <= LONGEST
    ):
        return name
    shown = printable(repr(name if not isinstance(name, str) or len(name) <= 80 else name[:80] + "..."))
    raise error(
        f"{what}: expected a plain name (no separators or control characters, at most {LONGEST} bytes), found {shown}"
    )


def child(folder: Path, name: object, what: str, error: type[KanglueError] = ConfigError) -> Path:
    """`folder / name`, which lies directly in `folder`; raises `error` as `check_name` does."""
    return folder / check_name(name, what, error)
