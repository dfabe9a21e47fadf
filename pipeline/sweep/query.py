"""Questions in SQL to a results database, which can only be read through here."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, ResultsError

__all__ = ["query"]

#: What a statement may do: select, read columns, call functions, recurse. Everything else, PRAGMA and ATTACH too, not.
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
#: Functions that reach beyond the database.
_REFUSED = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
#: Steps of SQLite's machine between two looks at the keyboard.
_STEPS = 100_000


def _authorise(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action not in _ALLOWED or (action == sqlite3.SQLITE_FUNCTION and (second or first) in _REFUSED):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def query(path: str | Path, statement: str, values: Sequence[Any] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Names of the columns and rows of one SELECT (`values` for its question marks); a blob is shown as its length.

    The file is opened for reading only, and SQLite asks us before each thing that the statement would do. Raises
    `ConfigError` for a statement that is not one SELECT or does not run, `ResultsError` for a file that is no database.
    """
    path = Path(path)
    if not path.is_file():
        raise ResultsError(
            f"{path}: expected a results database, found nothing; run fit_heads.py sweep (or make heads) first"
        )
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ResultsError(f"{path}: expected a results database ({error}); name another with `results`") from error
    connection.set_authorizer(_authorise)
    connection.set_progress_handler(lambda: 0, _STEPS)  # Python sees an interrupt between two calls of it
    try:
        cursor = connection.execute(statement, tuple(values))
        if cursor.description is None:
            raise ConfigError("`sql`: expected a SELECT, found a statement without rows; the database is only read")
        names = [column[0] for column in cursor.description]
        return names, [tuple(map(_plain, row)) for row in cursor]
    except (sqlite3.Error, sqlite3.Warning) as error:
        if "authoriz" in str(error) or "prohibited" in str(error):
            raise ConfigError(
                f"`sql`: expected one SELECT, found a statement that does more ({error}); the database is only read"
            ) from error
        raise ConfigError(f"`sql`: expected one SELECT that runs, found {error}; see docs/results.md") from error
    finally:
        connection.close()


def _plain(value: Any) -> Any:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else value
