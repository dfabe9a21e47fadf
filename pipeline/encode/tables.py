"""Results as tables for people, as plain text for standard output."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.text import terminal

if TYPE_CHECKING:
    from pipeline.encode.run import EmbedResult
    from pipeline.store import Prunable, Report

__all__ = ["info_text", "list_table", "prune_table", "run_table", "size_text", "table", "verify_table"]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> str:
    """A table as text: the first `left` columns to the left, the others to the right."""
    from rich.box import SIMPLE
    from rich.table import Table

    grid = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for number, name in enumerate(columns):
        grid.add_column(name, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    out = io.StringIO()
    # As wide as it has to be: a pipe has no width, and a cut file name is of no use.
    terminal(file=out, width=1000).print(grid, end="")
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


def list_table(found: Sequence[dict[str, Any]]) -> str:
    """What lies in a cache folder, a line for each file or half-finished work."""
    if not found:
        return "no caches; make one with embed.py run"
    rows = []
    for one in found:
        splits = " ".join(f"{split}:{rows}" for split, rows in one.get("splits", {}).items())
        facts = [one.get(name, "") for name in ("task", "encoder")]
        rows.append((one["path"], one["state"], *facts, splits, size_text(one["bytes"])))
    return table(("file", "state", "task", "encoder", "splits", "size"), rows, left=5)


def info_text(found: dict[str, Any]) -> str:
    """A cache's attributes, and a line for each dataset."""
    attributes = [(name, value) for name, value in found["attributes"].items()]
    rows = [
        (split, name, " x ".join(map(str, one["shape"])), one["dtype"])
        for split, held in found["splits"].items()
        for name, one in held["datasets"].items()
    ]
    head = f"{found['path']}  {size_text(found['bytes'])}"
    datasets = table(("split", "dataset", "shape", "dtype"), rows, left=4)
    return "\n\n".join((head, table(("attribute", "value"), attributes, left=2), datasets))


def verify_table(reports: "Sequence[Report]") -> str:
    """What checking found, a line for each file."""
    rows = [
        (one.path, "good" if one.good else "FAULTY", one.rows, one.datasets, size_text(one.bytes), one.unused)
        for one in reports
    ]
    return table(("file", "state", "rows", "datasets", "size", "unused bytes"), rows, left=2)


def prune_table(found: "Sequence[Prunable]") -> str:
    """What would be removed, with sizes and a sum."""
    if not found:
        return "nothing to remove"
    rows = [(str(one.path), one.reason, size_text(one.bytes)) for one in found]
    total = size_text(sum(one.bytes for one in found))
    return table(("path", "why", "size"), [*rows, ("", "in all", total)], left=2)
