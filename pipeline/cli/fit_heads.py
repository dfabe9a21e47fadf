"""Stage two: fit many lightweight heads on cached embeddings."""

import click

from pipeline.cli.bench import bench
from pipeline.cli.common import KanglueGroup
from pipeline.cli.continual import continual
from pipeline.cli.explain import explain, refine
from pipeline.cli.finetune import finetune
from pipeline.cli.heads import run, sweep
from pipeline.cli.keep import forget, merge, verify
from pipeline.cli.report import compare, report
from pipeline.cli.submit import submit
from pipeline.cli.table import table
from pipeline.cli.use import export, load, predict

__all__ = ["main"]

#: The commands in the order of `--help`, which is the order of use.
COMMANDS = (
    run,
    sweep,
    table,
    report,
    compare,
    predict,
    submit,
    export,
    load,
    explain,
    refine,
    continual,
    finetune,
    verify,
    forget,
    merge,
    bench,
)


@click.group(cls=KanglueGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Stage two: train KAN and MLP heads, one or a thousand at a time, on the caches that embed.py wrote."""


for command in COMMANDS:
    main.add_command(command)
