r"""Lines of a text file as bytes see them: split on `\n` alone, decoded strictly, with their numbers."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import SourceError

__all__ = ["read_lines"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Number (from 1) and text of each line, its `\n` or `\r\n` still at its end.

    Only `\n` ends a line: form feeds, U+0085 and U+2028 are text. A byte-order mark at the start is taken away.
    Raises `SourceError` for a file that cannot be opened and for bytes that are not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                yield number, _decoded(line, path, number)
    except OSError as error:
        raise SourceError(
            f"{path}: expected a readable file, found {error.strerror or error}; check the path and its permissions"
        ) from error


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} line {number}: expected UTF-8, found byte 0x{line[error.start]:02x} at position {error.start + 1}"
            "; save the file as UTF-8"
        ) from error
