"""What both command lines share: `--json` and `--debug` on every command, and errors as one line.

A command is a plain function in a :class:`KanglueGroup`. It receives `as_json` besides its own options and hands its
result to :func:`emit`. Exit status: 0 done, 1 a :class:`~pipeline.errors.KanglueError`, 2 wrong usage (click's own),
130 interrupted.
"""

import importlib
import re
import sys
from typing import Any

import click

from pipeline import __version__
from pipeline.cli import signals
from pipeline.errors import KanglueError
from pipeline.optional import EXTRAS, MissingPackageError
from pipeline.text import json_text, printable

__all__ = ["KanglueCommand", "KanglueGroup", "comma_separated", "echo", "emit", "measurements", "with_flags"]


class KanglueCommand(click.Command):
    """A command with `--json` (passed on as `as_json`) and `--debug` (handled here).

    `resumes` is the line that an interrupt prints; a command whose work is kept sets it to say so.
    """

    resumes = "interrupted: finished work is kept, and the same command goes on from there"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--json", "as_json"], is_flag=True, help="Write one JSON document to standard output."),
            click.Option(["--debug"], is_flag=True, help="Show a traceback when something fails."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors into one line on standard error unless `--debug` was given."""
        if ctx.params.pop("debug"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            _fail(self.resumes, signals.INTERRUPTED)
        except KanglueError as error:
            _fail(f"error: {with_flags(self, str(error))}", 1)
        except Exception as error:
            if signals.interrupted():
                _fail(self.resumes, signals.INTERRUPTED)
            module = (getattr(error, "name", None) or "").partition(".")[0]
            if isinstance(error, ModuleNotFoundError) and any(module in modules for modules in EXTRAS.values()):
                _fail(f"error: {MissingPackageError(module)}", 1)
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            _fail(f"error: {what} (unexpected; --debug shows the traceback)", 1)


class KanglueGroup(click.Group):
    """A group whose commands are :class:`KanglueCommand`, listed in the order of their definition."""

    command_class = KanglueCommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        click.version_option(__version__, message="kanglue %(version)s")(self)

    def main(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Run the command line; without `args`, those of this process, which then ends."""
        if args is not None:
            return super().main(args, *rest, **options)
        return signals.run(lambda: super(KanglueGroup, self).main(None, *rest, **options))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The commands as they stand in the source, which is the order of use."""
        return list(self.commands)


def comma_separated(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:  # noqa: ARG001
    """A click callback: `a,b` becomes `("a", "b")`; nothing given stays `None`."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def with_flags(command: click.Command, message: str) -> str:
    """A message of the library with its options as this command spells them.

    The library names options as Python does: `` `grid_epochs` `` becomes `--grid-epochs`, `` `scale='none'` `` becomes
    `--scale none`, and `` `force=True` `` becomes `--force`. Other text between backticks stays.
    """
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}

    def flag(match: re.Match[str]) -> str:
        option = options.get(match["name"])
        if option is None:
            return match[0]
        name = max(option.opts, key=len)
        return name if option.is_flag or match["value"] is None else f"{name} {match['value'].strip(chr(39))}"

    return re.sub(r"`(?P<name>\w+)(?:=(?P<value>[^`]*))?`", flag, message)


def measurements(name: str) -> Any:
    """A module of `benchmarks/bench`, which a checkout has and an installed package does not."""
    try:
        return importlib.import_module(f"benchmarks.bench.{name}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("benchmarks"):
            raise
        raise KanglueError(
            "expected the folder benchmarks/ of a checkout, found an installed package alone; clone the repository and "
            "run `python embed.py bench` or `python fit_heads.py bench` there"
        ) from error


def emit(document: Any, as_json: bool, text: str | None = None) -> None:
    """Write a command's result to standard output: `document` as JSON, or else `text` where there is any."""
    if as_json:
        echo(json_text(document, indent=2))
    elif text:
        echo(text)


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Write a text for people, or JSON, with nothing in it that a terminal would act on."""
    click.echo(printable(text), err=err, nl=nl)


def _fail(line: str, status: int) -> None:
    echo(" ".join(line.split()), err=True)
    sys.exit(status)
