"""Results as tables for people, as plain text for standard output."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.encode.run import EmbedResult

__all__ = ["run_table", "size_text", "table"]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> str:
    """A table as text: the first `left` columns to the left, the others to the right."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for number, name in enumerate(columns):
        grid.add_column(name, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    out = io.StringIO()
    # As wide as it has to be: a pipe has no width, and a cut file name is of no use.
    Console(file=out, width=1000).print(grid, end="")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def size_text(size: float) -> str:
    """A number of bytes with its unit."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def run_table(result: "EmbedResult") -> str:
    """What a run did, a line for each task; what was up to date shows no speed."""
    rows = []
    for one in result.details:
        work = ("up to date", "", "", "", "")
        if not one.up_to_date:
            speed = f"{one.tokens / one.seconds:,.0f}" if one.seconds and one.tokens else ""
            work = (f"{one.rows:,}", f"{one.tokens:,}", f"{one.truncated:,}", speed, f"{one.seconds:.1f}")
        splits = " ".join(f"{split}:{rows}" for split, rows in one.splits.items())
        rows.append((one.task, splits, one.file, *work, size_text(Path(one.file).stat().st_size)))
    columns = ("task", "splits", "file", "rows", "tokens", "truncated", "tokens/s", "seconds", "size")
    return table(columns, rows, left=3)
