"""Stage two: fit many lightweight heads on cached embeddings."""

from pathlib import Path

import click

from cli.bench import bench
from cli.common import KanglueGroup
from cli.continual import continual
from cli.explain import explain, refine
from cli.heads import run, sweep
from cli.report import report
from cli.submit import submit
from cli.table import table
from cli.use import export, load, predict

__all__ = ["main"]

#: The commands in the order of `--help`, which is the order of use.
COMMANDS = (
    run,
    sweep,
    table,
    report,
    predict,
    submit,
    export,
    load,
    explain,
    refine,
    continual,
    bench,
)


@click.group(cls=KanglueGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Stage two: train KAN and MLP heads, one or a thousand at a time, on the caches that embed.py wrote."""


for command in COMMANDS:
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name=Path(__file__).name)
