"""`fit_heads.py report`: the verdict, with its pictures, as one HTML file."""

from typing import Any

import click

from pipeline.cli.common import KanglueCommand, comma_separated, emit
from pipeline.cli.options import cache_option, given, results_option

__all__ = ["report"]


@click.command(cls=KanglueCommand)
@click.option("--out", default="runs/report.html", show_default=True, metavar="FILE", help="The HTML file to write.")
@click.option("--task", callback=comma_separated, metavar="T,..", help="Only these tasks.")
@click.option("--head", callback=comma_separated, metavar="H,..", help="Only these families.")
@click.option("--encoder", callback=comma_separated, metavar="E,..", help="Only these encoders.")
@click.option("--protocol", callback=comma_separated, metavar="P,..", help="Only these protocols.")
@cache_option
@results_option
def report(as_json: bool, out: str, cache: str, results: str, **filters: Any) -> None:
    """Write the report: what holds and what does not, in words, tables and pictures, in one file that opens offline.

    Texts are shown of the tasks whose caches lie under --cache. Example: python fit_heads.py report --out report.html
    """
    from dataclasses import asdict

    from pipeline.report.page import write_report

    done = write_report(results, out, cache=cache, where=given(filters))
    emit(asdict(done), as_json, f"{done.verdict}\n{done.out}: {done.heads:,} heads, {done.bytes / 1e6:.1f} MB")
