r"""Lines of a text file as bytes see them: split on `\n` alone, decoded strictly, with their numbers."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.errors import SourceError

__all__ = ["decoded_line", "numbered_lines", "read_lines"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Number (from 1) and text of each line, its `\n` or `\r\n` still at its end.

    Only `\n` ends a line: form feeds, U+0085 and U+2028 are text. A byte-order mark at the start is taken away.
    Raises `SourceError` for a file that cannot be opened and for bytes that are not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, line in numbered_lines(file):
                yield number, decoded_line(line, f"{path} line {number}")
    except OSError as error:
        raise SourceError(
            f"{path}: expected a readable file, found {error.strerror or error}; check the path and its permissions"
        ) from error


def numbered_lines(file: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of each line, without a byte-order mark at the start."""
    for number, line in enumerate(file, start=1):
        yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def decoded_line(line: bytes, where: str) -> str:
    """A line's text; `where` begins the `SourceError` for bytes that are not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where}: expected UTF-8, found byte 0x{line[error.start]:02x} at position {error.start + 1}"
            "; save the file as UTF-8"
        ) from error
