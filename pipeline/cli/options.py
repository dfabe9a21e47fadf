"""Options that several commands of fit_heads.py share."""

from collections.abc import Callable
from typing import Any

import click

__all__ = [
    "Numbers",
    "Values",
    "Widths",
    "cache_option",
    "device_option",
    "given",
    "head_options",
    "log_option",
    "match_options",
    "results_option",
    "search_options",
]


class Values(click.ParamType):
    """One value, or several with commas between them, each of one type."""

    def __init__(self, kind: type, *, several: bool) -> None:
        self.kind, self.several = kind, several
        self.name = f"{kind.__name__}{',..' if several else ''}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """The value, or the list of values."""
        if self.several and ":" in str(value) and self.kind is not str:
            return self._range(str(value), param)
        try:
            if not self.several:
                return self.kind(value)
            return [self.kind(part.strip()) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"expected {'numbers with commas between them' if self.several else 'a number'}, found {value!r}")

    def _range(self, text: str, param: click.Parameter | None) -> str:
        """A range, checked here and understood by the sweep, where it may also come from a file."""
        from pipeline.errors import ConfigError
        from pipeline.sweep.ranges import parse_range

        try:
            parse_range(param.name if param else "", text, whole=self.kind is int)
        except ConfigError as error:
            self.fail(str(error).partition(": ")[2])
        return text


class Rows(Values):
    """Numbers of rows; `all` is every one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number or the list of numbers, with `all` as it is."""
        if not self.several:
            return "all" if value == "all" else super().convert(value, param, ctx)
        one = Rows(self.kind, several=False)
        return [one.convert(part.strip(), param, ctx) for part in str(value).split(",")]


class Numbers(Values):
    """A list of numbers that is one value, such as `64,32` or `-1,1`."""

    def __init__(self, kind: type, name: str) -> None:
        super().__init__(kind, several=True)
        self.name = name


class Widths(Numbers):
    """Hidden widths; `none` is a single layer from features to outputs."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The list of widths."""
        return [] if str(value).strip() == "none" else super().convert(value, param, ctx)


def head_options(*, several: bool) -> Callable[[Any], Any]:
    """The options of a head; in a sweep (`several`) each takes a list, or is repeated where one value is a list."""
    integer, number = Values(int, several=several), Values(float, several=several)
    decorators = [
        click.option(
            "--epochs", "--steps", "epochs", type=integer,
            help="Passes over the training rows; of kan, steps of its optimiser.  [clean: 20, published: 10, kan: 50]",
        ),
        click.option("--batch-size", type=integer, help="Rows of a minibatch.  [clean: 64, published: 4, kan: 4096]"),
        click.option("--lr", type=number, help="Learning rate.  [2e-3; kan: lbfgs 1, adam 0.01]"),
        click.option("--weight-decay", type=number, help="AdamW's weight decay.  [0.01]"),
        click.option("--clip", type=number, help="Largest norm of a head's gradient; inf for none.  [1.0]"),
        click.option(
            "--hidden", type=Widths(int, "W,.."), multiple=several,
            help="Hidden widths, 64,32 for two layers, none for a single layer"
            + ("; repeat for more." if several else ".") + "  [64, kan: 5]",
        ),
        click.option(
            "--activation", type=Values(str, several=several),
            help="relu, square_relu, gelu, silu, tanh, sigmoid, identity, polynomial2, polynomial3 or polynomial5: of "
            "an mlp's units, or beside the spline of a bspline_mlp's.  [mlp: relu, bspline_mlp: none]",
        ),
        click.option(
            "--base", type=Values(str, several=several),
            help="A KAN's base branch: zero, identity or silu.  [effi_kan, fast_kan: silu, others: zero]",
        ),
        click.option(
            "--layer-norm/--no-layer-norm", default=None,
            help="Layer norm before the basis.  [fast_kan, faster_kan: on, others: off]",
        ),
        click.option("--dropout", type=number, help="Share of hidden units dropped in a step.  [0]"),
        click.option("--spline-l1", type=number, help="Weight of efficient-kan's L1 of spline weights.  [0]"),
        click.option("--spline-entropy", type=number, help="Weight of efficient-kan's entropy of them.  [0]"),
        click.option(
            "--grid", type=integer if several else Values(int, several=True),
            help="Intervals of a spline grid; frequencies of fourier_kan.  [5]",
        ),
        click.option(
            "--grid-epochs", type=Numbers(int, "E,.."), multiple=several,
            help="Epochs for each number of --grid, which then are the stages of one head: --grid 5,10,20 "
            "--grid-epochs 10,5,5 trains on a growing grid.",
        ),
        click.option(
            "--update-grid", type=integer, metavar="N",
            help="Before each of the first N epochs, move effi_kan's knots to where the data are.  [0]",
        ),
        click.option("--order", type=integer, help="Order of the splines; degree of cheby_kan; 1 to 5.  [3]"),
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
        click.option("--optimiser", type=Values(str, several=several), help="kan: lbfgs or adam.  [lbfgs]"),
        click.option("--lamb", type=number, help="kan: weight of pykan's sparsity penalty.  [0]"),
        click.option("--lamb-entropy", type=number, help="kan: weight of the entropies in that penalty.  [2]"),
        click.option(
            "--token-pool", type=Values(str, several=several),
            help="Of --features last_hidden, how a row's tokens become one vector: mean, max, "
            "attention or kan_attention (these train).  [mean]",
        ),
        click.option(
            "--rows", type=Rows(int, several=several), metavar="N,.." if several else "N",
            help="Labelled training rows: a stratified draw by the seed, which contains smaller ones.  [all]",
        ),
        click.option(
            "--folds", type=integer,
            help="Folds that choose the epoch together, before a fit on all rows; 1 holds out a tenth.  [1]",
        ),
        click.option("--scale", type=Values(str, several=several), help="none, standard or tanh.  [clean: standard]"),
        click.option("--init", type=Values(str, several=several), help="project or package.  [clean: project]"),
    ]  # fmt: skip

    def apply(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def match_options(command: Any) -> Any:
    """The options that size every family of a sweep to one budget."""
    for decorator in (
        click.option("--cost", metavar="counted|kanbefair", help="Whose counts --match goes by.  [counted]"),
        click.option(
            "--budget", type=int, metavar="N", help="Parameters or FLOPs a row for --match.  [first family's]"
        ),
        click.option("--match", metavar="none|params|flops", help="Scale --hidden to one budget for all.  [none]"),
    ):
        command = decorator(command)
    return command


def search_options(command: Any) -> Any:
    """The options of a search through hyper-parameters."""
    for decorator in (
        click.option("--search-seed", type=int, metavar="N", help="What random draws of a search start from.  [0]"),
        click.option("--trials", type=int, metavar="N", help="Configurations that a search tries a family.  [20]"),
        click.option(
            "--search", metavar="grid|random|tpe|halving",
            help="Every combination; or N drawn from lists and ranges (--lr 1e-4:1e-2:log), as many for each family: "
            "at random, by Optuna's TPE, or at random on few epochs first, the best third going on.  [grid]",
        ),
    ):  # fmt: skip
        command = decorator(command)
    return command


cache_option = click.option("--cache", default="cache", show_default=True, metavar="DIR", help="Folder of caches.")
results_option = click.option(
    "--results", default="runs/results.sqlite", show_default=True, metavar="FILE", help="Results database."
)
log_option = click.option(
    "--log", metavar="NAME[:DIR]", help="Track heads: tensorboard or mlflow.  [DIR: NAME beside the results]"
)
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N", help="Where to run."
)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were set; an option that was repeated becomes a list."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value is not None and value != ()
    }
