"""Stage two: fit many lightweight heads on cached embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli_common import KanglueGroup, comma_separated, emit

__all__ = ["main"]


class Values(click.ParamType):
    """One value, or several with commas between them, each of one type."""

    def __init__(self, kind: type, *, several: bool) -> None:
        self.kind, self.several = kind, several
        self.name = f"{kind.__name__}{',..' if several else ''}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """The value, or the list of values."""
        try:
            if not self.several:
                return self.kind(value)
            return [self.kind(part.strip()) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"expected {'numbers with commas between them' if self.several else 'a number'}, found {value!r}")


class Numbers(Values):
    """A list of numbers that is one value, such as `64,32` or `-1,1`."""

    def __init__(self, kind: type, name: str) -> None:
        super().__init__(kind, several=True)
        self.name = name


def head_options(*, several: bool) -> Callable[[Any], Any]:
    """The options of a head; in a sweep (`several`) each takes a list, or is repeated where one value is a list."""
    integer, number = Values(int, several=several), Values(float, several=several)
    decorators = [
        click.option("--epochs", type=integer, help="Passes over the training rows.  [clean: 20, published: 10]"),
        click.option("--batch-size", type=integer, help="Rows of a minibatch.  [clean: 64, published: 4]"),
        click.option("--lr", type=number, help="Learning rate.  [2e-3]"),
        click.option("--weight-decay", type=number, help="AdamW's weight decay.  [0.01]"),
        click.option("--clip", type=number, help="Largest norm of a head's gradient; inf for none.  [1.0]"),
        click.option(
            "--hidden", type=Numbers(int, "W,.."), multiple=several,
            help="Hidden widths, 64,32 for two layers" + ("; repeat for more." if several else ".") + "  [64]",
        ),
        click.option("--activation", type=Values(str, several=several), help="Activation of an mlp.  [relu]"),
        click.option("--grid", type=integer, help="Intervals of a spline grid.  [5]"),
        click.option("--order", type=integer, help="Order of the splines.  [3]"),
        click.option("--centres", type=integer, help="Centres of radial and switch bases.  [8]"),
        click.option(
            "--grid-range", type=Numbers(float, "LOW,HIGH"), multiple=several,
            help="Range of the grid or the centres.  [clean: -3,3, published: the package's]",
        ),
        click.option("--sharpness", type=number, help="d of faster_kan's 1 - tanh((x - c) d)^2.  [1.0]"),
        click.option(
            "--spline-scaler/--no-spline-scaler", default=None,
            help="efficient-kan's separate scaler.  [clean: off, published: on]",
        ),
        click.option("--scale", type=Values(str, several=several), help="none, standard or tanh.  [clean: standard]"),
        click.option("--starts", type=Values(str, several=several), help="project or package.  [clean: project]"),
    ]  # fmt: skip

    def apply(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


cache_option = click.option("--cache", default="cache", show_default=True, metavar="DIR", help="Folder of caches.")
results_option = click.option(
    "--results", default="runs/results.sqlite", show_default=True, metavar="FILE", help="Results database."
)
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N", help="Where to train."
)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were set; an option that was repeated becomes a list."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value is not None and value != ()
    }


@click.group(cls=KanglueGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Stage two: train KAN and MLP heads, one or a thousand at a time, on the caches that embed.py wrote."""


@main.command()
@click.argument("task")
@click.option("--head", required=True, metavar="FAMILY", help="linear, mlp, effi_kan, fast_kan or faster_kan.")
@click.option("--encoder", metavar="E", help="The cache's encoder.  [bert-base-cased]")
@click.option("--features", metavar="F", help="pooled, cls, mean, weight, reduced or siamese.  [the encoder's default]")
@click.option("--protocol", default="clean", show_default=True, metavar="clean|published", help="The recipe.")
@click.option("--seed", type=int, default=0, show_default=True, help="The replicate.")
@head_options(several=False)
@cache_option
@results_option
@device_option
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

        click.echo(describe(document))


@main.command()
@click.argument("spec", required=False, metavar="[SPEC.toml]")
@click.option("--task", callback=comma_separated, metavar="T,..", help="Tasks.")
@click.option("--head", callback=comma_separated, metavar="H,..", help="Families.")
@click.option("--encoder", callback=comma_separated, metavar="E,..", help="Encoders.  [bert-base-cased]")
@click.option("--features", callback=comma_separated, metavar="F,..", help="Features.  [each encoder's default]")
@click.option("--protocol", callback=comma_separated, metavar="P,..", help="clean, published.  [clean]")
@click.option("--seeds", metavar="A:B", help="Replicates, half-open: 0:10 is ten seeds.  [0]")
@head_options(several=True)
@cache_option
@results_option
@device_option
def sweep(as_json: bool, spec: str | None, cache: str, results: str, device: str, **options: Any) -> None:
    """Train every combination of the options given, or of SPEC.toml, that is not stored yet; end with a table.

    Example: python fit_heads.py sweep --task mrpc --head linear,effi_kan --encoder minilm --seeds 0:5 --cache
    cache/sample
    """
    from pipeline.api import sweep as run_sweep
    from pipeline.progress import say

    def tell(heads: int, stored: int) -> None:
        todo = heads - stored
        say(
            f"{heads} heads: {stored} stored already, {todo} to train" if todo else f"{heads} heads: all stored already"
        )

    done = run_sweep(spec, cache=cache, results=results, device=device, on_plan=tell, **given(options))
    emit(done.document(), as_json)
    if not as_json:
        say(f"{done.trained} trained, {done.diverged} diverged, {done.seconds:.1f} s; results in {done.results}")
        show(results, {"id": done.ids})


@main.command()
@click.option("--task", callback=comma_separated, metavar="T,..", help="Only these tasks.")
@click.option("--head", callback=comma_separated, metavar="H,..", help="Only these families.")
@click.option("--encoder", callback=comma_separated, metavar="E,..", help="Only these encoders.")
@cache_option
@results_option
def table(as_json: bool, cache: str, results: str, **filters: Any) -> None:  # noqa: ARG001 - every command takes --cache
    """Sum up the stored heads, a line for each kind, over its seeds; --json lists every head.

    Example: python fit_heads.py table --task mrpc
    """
    from pipeline.sweep.results import Results

    where = given(filters)
    if as_json:
        with Results(results) as store:
            emit(store.heads(where), as_json)
    else:
        show(results, where)


def show(results: str, where: dict[str, Any]) -> None:
    """Print the summary table of some heads."""
    from rich.console import Console

    from pipeline.sweep.results import Results
    from pipeline.sweep.table import render, summarise

    with Results(results) as store:
        lines = summarise(store, where)
    if lines:
        Console(width=None if Console().is_terminal else 140).print(render(lines))
    else:
        click.echo(f"{results}: no heads" + (" that match" if where else " yet"))


if __name__ == "__main__":
    main(prog_name=Path(__file__).name)
