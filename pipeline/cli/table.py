"""`fit_heads.py table`: the stored heads as a table, as CSV or JSON, or asked in SQL."""

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import KanglueCommand, comma_separated, echo, emit
from pipeline.cli.options import cache_option, given, results_option
from pipeline.text import csv_cell, terminal

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["show", "table"]

#: Characters of a line that nothing cuts.
UNLIMITED = 10_000


@click.command(cls=KanglueCommand)
@click.option("--task", callback=comma_separated, metavar="T,..", help="Only these tasks.")
@click.option("--head", callback=comma_separated, metavar="H,..", help="Only these families.")
@click.option("--encoder", callback=comma_separated, metavar="E,..", help="Only these encoders.")
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV to standard output, a row for each head.")
@click.option("--cost", metavar="counted|kanbefair", help="kanbefair: their counts beside ours.  [counted]")
@click.option("--sql", metavar="SELECT", help="Ask the database (docs/results.md) instead; it is only read.")
@cache_option
@results_option
def table(
    as_json: bool,
    as_csv: bool,
    cost: str | None,
    sql: str | None,
    cache: str,  # noqa: ARG001 - every command takes --cache
    results: str,
    **filters: Any,
) -> None:
    """Sum up the stored heads, a line for each kind, over its seeds; --json and --csv list every head.

    \b
    Examples: python fit_heads.py table --task mrpc
              python fit_heads.py table --sql "select head, count(*) from heads group by head"
    """
    from pipeline.sweep.costs import with_costs
    from pipeline.sweep.query import query
    from pipeline.sweep.results import Results
    from pipeline.sweep.table import flat

    where, counts = given(filters), given({"cost": cost})
    if as_json and as_csv:
        raise click.UsageError("--csv and --json exclude each other.")
    if sql is not None:
        if where or counts:
            raise click.UsageError("--sql takes no --task, --head, --encoder or --cost: say it in the SELECT.")
        names, rows = query(results, sql)
        if as_json:
            emit([dict(zip(names, row, strict=True)) for row in rows], as_json)
        elif as_csv:
            _write_csv(names, rows)
        else:
            _print(names, rows)
    elif as_json or as_csv:
        with Results(results) as store:
            heads = with_costs(store, store.heads(where), **counts)
        if as_json:
            emit(heads, as_json)
        else:
            _write_csv(*flat(heads))
    else:
        show(results, where, **counts)


def show(results: str, where: dict[str, Any], **counts: Any) -> None:
    """Print the summary table of some heads."""
    from pipeline.sweep.render import render
    from pipeline.sweep.results import Results
    from pipeline.sweep.table import summarise

    with Results(results) as store:
        lines = summarise(store, where, **counts)
    if lines:
        console = _console()
        console.print(render(lines, width=console.width))
    else:
        echo(f"{results}: no heads" + (" that match" if where else " yet"))


def _write_csv(names: list[str], rows: Any) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(map(csv_cell, names))
    writer.writerows([csv_cell(cell) for cell in row] for row in rows)


def _print(names: list[str], rows: Any) -> None:
    from rich.table import Table

    shown = Table()
    for name in names:
        shown.add_column(name)
    for row in rows:
        shown.add_row(*("" if value is None else str(value) for value in row))
    _console().print(shown)


def _console() -> "Console":
    """As wide as the terminal or as COLUMNS says; in a file or a pipe as wide as it takes."""
    # Not rich's own idea of a terminal, which colours that are forced (FORCE_COLOR in CI) change.
    return terminal() if sys.stdout.isatty() or "COLUMNS" in os.environ else terminal(width=UNLIMITED)
