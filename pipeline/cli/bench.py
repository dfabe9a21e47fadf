"""`fit_heads.py bench`: how fast heads train here, against other packages."""

import sys

import click

from pipeline.cli.common import KanglueCommand, echo, emit, measurements
from pipeline.cli.options import cache_option, device_option, results_option
from pipeline.text import terminal

__all__ = ["bench"]


class _Bench(KanglueCommand):
    resumes = "interrupted: nothing is kept of a measurement"


@click.command(cls=_Bench)
@click.option("--quick", is_flag=True, help="Less than a minute on two cores; other packages' kernels uncompiled.")
@cache_option
@results_option
@device_option
def bench(as_json: bool, quick: bool, device: str, cache: str, results: str) -> None:  # noqa: ARG001 - every command takes both
    """Measure training steps a second on made-up rows: packs against efficient-kan, flashkan, inkan and pykan.

    Example: python fit_heads.py bench --quick
    """
    document = measurements("heads").bench(device=device, quick=quick)
    emit(document, as_json)
    if not as_json:
        terminal(width=None if sys.stdout.isatty() else 120).print(measurements("document").render(document))
        for name in ("speedup_vs_efficient_kan_batch4", "speedup_vs_efficient_kan_batch64"):
            for full in (name, f"{name}_without_scaler"):
                echo(f"{full}: {document[full]:.1f}" if document[full] else f"{full}: not measured")
