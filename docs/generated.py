"""Pages that programs write: put them in their place, or say which of them are out of date."""

import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_or_check"]


def write_or_check(made: Mapping[Path, str], *, check: bool) -> int:
    """Write texts to files; with `check`, only compare, name the files that differ, and return 1 if any does."""
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if check:
        for path in stale:
            print(f"{path}: out of date; run make docs", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], encoding="utf-8")
    return 0
