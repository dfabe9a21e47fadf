"""`fit_heads.py run` and `sweep`: train heads."""

from typing import Any

import click

from pipeline.cli.common import KanglueCommand, comma_separated, echo, emit
from pipeline.cli.options import (
    cache_option,
    device_option,
    given,
    head_options,
    log_option,
    match_options,
    results_option,
    search_options,
)
from pipeline.cli.table import show
from pipeline.heads.families import FAMILIES
from pipeline.poolings import POOLINGS

__all__ = ["run", "sweep"]


@click.command(cls=KanglueCommand)
@click.argument("task")
@click.option("--head", required=True, metavar="FAMILY", help=", ".join(FAMILIES) + ".")
@click.option("--encoder", metavar="E", help="The cache's encoder.  [bert-base-cased]")
@click.option(
    "--features",
    metavar="F",
    help=f"{', '.join((*POOLINGS, 'reduced', 'siamese'))} or last_hidden.  [the encoder's default]",
)
@click.option("--protocol", default="clean", show_default=True, metavar="clean|published", help="The recipe.")
@click.option("--seed", type=int, default=0, show_default=True, help="The replicate.")
@head_options(several=False)
@cache_option
@results_option
@device_option
@log_option
def run(as_json: bool, **options: Any) -> None:
    """Train one head on TASK and show its metrics; a head that is stored already is only shown.

    Example: python fit_heads.py run mrpc --head effi_kan --encoder minilm --cache cache/sample
    """
    from dataclasses import asdict

    from pipeline.api import fit

    done = fit(options.pop("task"), **given(options))
    document = asdict(done)
    emit({name: value for name, value in document.items() if name != "trained"}, as_json)
    if not as_json:
        from pipeline.sweep.table import describe

        echo(describe(document))


@click.command(cls=KanglueCommand)
@click.argument("spec", required=False, metavar="[SPEC.toml]")
@click.option("--task", callback=comma_separated, metavar="T,..", help="Tasks.")
@click.option("--head", callback=comma_separated, metavar="H,..", help="Families.")
@click.option("--encoder", callback=comma_separated, metavar="E,..", help="Encoders.  [bert-base-cased]")
@click.option("--features", callback=comma_separated, metavar="F,..", help="Features.  [each encoder's default]")
@click.option("--protocol", callback=comma_separated, metavar="P,..", help="clean, published.  [clean]")
@click.option("--seeds", metavar="A:B", help="Replicates, half-open: 0:10 is ten seeds.  [0]")
@search_options
@match_options
@head_options(several=True)
@cache_option
@results_option
@device_option
@log_option
def sweep(as_json: bool, spec: str | None, cache: str, results: str, device: str, **options: Any) -> None:
    """Train every combination of the options given, or of SPEC.toml, that is not stored yet; end with a table.

    Example: python fit_heads.py sweep --task mrpc --head linear,effi_kan --encoder minilm --seeds 0:5 --cache
    cache/sample
    """
    from pipeline.api import sweep as run_sweep
    from pipeline.errors import DeviceError
    from pipeline.progress import say
    from pipeline.sweep.run import describe_searches

    def tell(heads: int, stored: int) -> None:
        todo, count = heads - stored, f"{heads} head{'' if heads == 1 else 's'}"
        say(f"{count}: {stored} stored already, {todo} to train" if todo else f"{count}: all stored already")

    done = run_sweep(spec, cache=cache, results=results, device=device, on_plan=tell, **given(options))
    emit(done.document(), as_json)
    if not as_json:
        say(f"{done.trained} trained, {done.diverged} diverged, {done.seconds:.1f} s; results in {done.results}")
        for line in describe_searches(done.searches):
            say(line)
        if done.chosen:
            show(results, {"id": done.chosen})
    if done.failures:
        raise DeviceError(f"{len(done.failures)} of {done.heads} heads not trained: {done.failures[0]}")
