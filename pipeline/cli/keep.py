"""`fit_heads.py verify`, `forget` and `merge`: looking after results."""

from dataclasses import asdict
from pathlib import Path

import click

from pipeline.cli.common import KanglueCommand, echo, emit
from pipeline.cli.options import cache_option, results_option

__all__ = ["forget", "merge", "verify"]


@click.command(cls=KanglueCommand)
@cache_option
@results_option
def verify(as_json: bool, results: str, cache: str) -> None:  # noqa: ARG001 - every command takes --cache
    """Compare the results database and every head's files with what was stored; exit status 1 if something is wrong.

    Example: python fit_heads.py verify
    """
    from pipeline.sweep.keep import verify as check

    done = check(results)
    lines = [f"{results}: {line}" for line in done.database]
    lines += [f"head {name}: {words}" for name, words in done.files.items()]
    if done.orphans:
        lines.append(f"folders without a row (fit_heads.py forget ID removes them): {', '.join(done.orphans)}")
    lines.append(f"{done.heads} heads, {'all sound' if done.good else 'faults above'}")
    emit(asdict(done) | {"good": done.good}, as_json, "\n".join(lines))
    if not done.good:
        echo(f"error: {results}: expected sound results, found the faults named above", err=True)
        raise click.exceptions.Exit(1)


@click.command(cls=KanglueCommand)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--where", metavar="SQL", help="A condition on the columns of heads (docs/results.md).")
@cache_option
@results_option
def forget(as_json: bool, ids: tuple[str, ...], where: str | None, results: str, cache: str) -> None:  # noqa: ARG001
    """Remove heads, rows and files, so that the next sweep that has them trains them again.

    Example: python fit_heads.py forget --where "status = 'diverged'"
    """
    from pipeline.sweep.keep import forget as remove

    if not ids and where is None:
        raise click.UsageError("expected an ID or --where, found neither")
    done = remove(results, ids, where)
    emit(asdict(done), as_json, f"{len(done.ids)} heads forgotten")


@click.command(cls=KanglueCommand)
@click.argument("other", type=click.Path(path_type=Path))
@cache_option
@results_option
def merge(as_json: bool, other: Path, results: str, cache: str) -> None:  # noqa: ARG001
    """Bring the heads of another results database, OTHER, with their files beside it, into this one.

    Example: python fit_heads.py merge other/results.sqlite
    """
    from pipeline.sweep.keep import merge as bring

    done = bring(results, other)
    lines = [f"head {name}: left out, its files are {words}" for name, words in done.faults.items()]
    lines.append(f"{done.added} heads added, {done.skipped} were here already")
    emit(asdict(done), as_json, "\n".join(lines))
