"""`fit_heads.py continual`: learning one thing after another."""

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import KanglueCommand, comma_separated, emit
from pipeline.cli.options import cache_option, given, head_options, results_option

__all__ = ["continual"]


@click.command(cls=KanglueCommand)
@click.argument("task", required=False)
@click.option("--scenario", default="class", show_default=True, metavar="class|domain|peaks", help="What comes apart.")
@click.option("--head", callback=comma_separated, default="mlp,effi_kan,kan", show_default=True, help="Families.")
@click.option("--seeds", default="0:5", show_default=True, metavar="A:B", help="Replicates, half-open.")
@click.option("--stages", type=int, metavar="N", help="Parts.  [class: two classes each, domain: 5]")
@click.option("--encoder", metavar="E", help="The cache's encoder.")
@click.option("--features", metavar="F", help="pooled, reduced, ...  [the encoder's default]")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder.  [continual/ beside results]")
@head_options(several=False)
@cache_option
@results_option
def continual(as_json: bool, task: str | None, head: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Train on TASK's classes or domains one after another: average score, forgetting, backward transfer.

    `peaks` needs no TASK: the KAN paper's five peaks. Options of heads hold for every family that has them.

    Example: python fit_heads.py continual --scenario peaks --head mlp,kan --seeds 0:3
    """
    from pipeline.explain.continual import continual as run_continual
    from pipeline.explain.continual import continual_text

    found = run_continual(task, head=head, out=out, **given(options))
    emit(found, as_json, continual_text(found))
