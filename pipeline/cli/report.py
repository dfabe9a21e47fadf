"""`fit_heads.py report` and `compare`: the verdict on a database of heads, and on files of predictions."""

from typing import Any

import click

from pipeline.cli.common import KanglueCommand, comma_separated, emit
from pipeline.cli.options import cache_option, given, results_option

__all__ = ["compare", "report"]


@click.command(cls=KanglueCommand)
@click.option("--out", default="runs/report.html", show_default=True, metavar="FILE", help="The HTML file to write.")
@click.option("--task", callback=comma_separated, metavar="T,..", help="Only these tasks.")
@click.option("--head", callback=comma_separated, metavar="H,..", help="Only these families.")
@click.option("--encoder", callback=comma_separated, metavar="E,..", help="Only these encoders.")
@click.option("--protocol", callback=comma_separated, metavar="P,..", help="Only these protocols.")
@click.option("--baseline", callback=comma_separated, metavar="H,..", help="Hold families against these.  [mlp,linear]")
@click.option(
    "--margin", type=float, default=2.0, show_default=True, metavar="POINTS", help="Differences that count as none."
)
@click.option("--all-pairs", is_flag=True, help="Compare every two families, corrected over all of these pairs.")
@cache_option
@results_option
def report(as_json: bool, out: str, cache: str, results: str, **options: Any) -> None:
    """Write the report: what holds and what does not, in words, tables and pictures, in one file that opens offline.

    Texts are shown of the tasks whose caches lie under --cache. Example: python fit_heads.py report --out report.html
    """
    from dataclasses import asdict

    from pipeline.report.page import write_report

    plan = {name: options.pop(name) for name in ("baseline", "margin", "all_pairs")}
    done = write_report(results, out, cache=cache, where=given(options), **plan)
    emit(asdict(done), as_json, f"{done.verdict}\n{done.out}: {done.heads:,} heads, {done.bytes / 1e6:.1f} MB")


@click.command(cls=KanglueCommand)
@click.argument("files", nargs=-1, required=True, metavar="FILE FILE...")
@click.option(
    "--metric",
    metavar="NAME",
    help="accuracy, f1, matthews_correlation, pearson, spearmanr, pearson_spearmanr, "
    "r2 or rmse.  [GLUE's of a task of its; else accuracy for classes, r2 for numbers]",
)
@click.option(
    "--baseline", callback=comma_separated, metavar="NAME,..", help="Hold the others against these.  [the first file's]"
)
@click.option(
    "--margin", type=float, default=2.0, show_default=True, metavar="POINTS", help="Differences that count as none."
)
@click.option("--all-pairs", is_flag=True, help="Compare every two files, corrected over all of these pairs.")
@cache_option
@results_option
def compare(as_json: bool, files: tuple[str, ...], cache: str, results: str, **options: Any) -> None:  # noqa: ARG001
    """Compare anyone's predictions row by row: intervals of differences, over new rows and, with seeds, new seeds.

    A file is one system: CSV, JSON lines or Parquet with columns id, label, and prediction or scores (one column a
    class, named score_CLASS, or a list), perhaps seed and task. Example: python fit_heads.py compare mlp.csv kan.csv
    """
    from pipeline.report.predictions import compare_files, describe

    document = compare_files(files, **options)
    emit(document, as_json, describe(document))
