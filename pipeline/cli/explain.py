"""`fit_heads.py explain` and `refine`: look inside a head, carry it to a finer grid."""

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import KanglueCommand, comma_separated, emit
from pipeline.cli.options import Numbers, Widths, cache_option, results_option

__all__ = ["explain", "refine"]


@click.command(cls=KanglueCommand)
@click.argument("head", required=False)
@click.option("--task", metavar="T", help="Instead of HEAD: train pykan's network on this task first.")
@click.option("--encoder", metavar="E", help="With --task: the cache's encoder.")
@click.option("--features", metavar="F", help="With --task.  [reduced, or a toy's own]")
@click.option("--hidden", type=Widths(int, "W,.."), help="With --task: hidden widths.  [5]")
@click.option("--seed", type=int, default=0, show_default=True, help="With --task: the replicate.")
@click.option("--library", callback=comma_separated, metavar="S,..", help="Symbols.  [x,x^2,x^3,exp,sin,tanh,...]")
@click.option("--lamb", type=Numbers(float, "L,.."), help="Sparsity penalties to try.  [0.01,0.001]")
@click.option("--lamb-entropy", type=float, default=2.0, show_default=True, help="Entropies' weight in the penalty.")
@click.option("--steps", type=int, default=30, show_default=True, help="Steps of LBFGS under each penalty.")
@click.option("--seconds", type=float, default=40.0, show_default=True, help="For pruning, and for symbols, each.")
@click.option("--inputs", type=int, metavar="N", help="Keep only the N most important inputs (wide heads).")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder.  [explain/<id> beside results]")
@cache_option
@results_option
def explain(as_json: bool, **options: Any) -> None:
    """Look inside HEAD: curves, importance, a pruned network, symbols, a formula for each class, and a page of it all.

    Example: python fit_heads.py explain --task moons
    """
    from pipeline.explain.command import explain_command, explain_text

    found = explain_command(**options)
    emit(found, as_json, explain_text(found))


@click.command(cls=KanglueCommand)
@click.argument("head")
@click.option("--grid", type=Numbers(int, "G,.."), required=True, help="Intervals to go to, one after another: 10,20.")
@click.option("--steps", type=int, help="Steps (kan) or epochs (effi_kan) on each grid.  [the head's own]")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder.  [refine/<id> beside results]")
@cache_option
@results_option
def refine(as_json: bool, head: str, grid: list[int], cache: str, results: str, **options: Any) -> None:
    """Carry HEAD (kan or effi_kan) to finer grids and train on: its error before and after each extension.

    Example: python fit_heads.py refine 0123456789abcdef --grid 10,20
    """
    from pipeline.explain.refine import refine as run_refine
    from pipeline.explain.refine import refine_text
    from pipeline.models.saved import load_head

    loaded = load_head(head, results=results)
    found = run_refine(loaded, grid, cache=Path(cache), results=Path(results), **options)
    emit(found, as_json, refine_text(found))
