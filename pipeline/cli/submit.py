"""`fit_heads.py submit`: files for GLUE's leaderboard."""

from typing import Any

import click

from pipeline.cli.common import KanglueCommand, comma_separated, emit
from pipeline.cli.options import cache_option, results_option

__all__ = ["submit"]


@click.command(cls=KanglueCommand)
@click.argument("heads", nargs=-1, metavar="[HEAD]...")
@click.option("--out", metavar="DIR", help="Folder to write.  [submission beside the results]")
@click.option("--encoder", callback=comma_separated, metavar="E,..", help="Choose among heads on these encoders.")
@click.option("--fill", is_flag=True, help="Constants for files without a head: the leaderboard wants all eleven.")
@click.option("--partial", is_flag=True, help="Write the files that have a head, whatever their number of rows.")
@click.option("--zip", is_flag=True, help="Also write DIR.zip, which the leaderboard takes.")
@click.option("--force", is_flag=True, help="Replace a submission that is there.")
@cache_option
@results_option
def submit(as_json: bool, heads: tuple[str, ...], **options: Any) -> None:
    """Write GLUE's eleven test files, from the HEADs named for their tasks and the best by selection for the others.

    MNLI's head predicts AX too. Heads of the protocol published are used only where they are named: what selected them
    is not comparable.

    Example: python fit_heads.py submit --encoder minilm --fill --zip
    """
    from pipeline.progress import say
    from pipeline.serve.submit import submit as write

    if options["fill"] and options["partial"]:
        raise click.UsageError("expected --fill or --partial, found both")
    done = write(heads, **options)
    for name, why in done.missing.items():
        say(f"{name}: {'filled' if options['fill'] else 'left out'}: {why}")
    lines = [
        f"{one.file}\t{one.rows}\t" + (f"{one.head} {one.family} {one.encoder}" if one.head else "constant")
        for one in done.files
    ]
    emit(done.document(), as_json, "\n".join([*lines, f"written to {done.zip or done.folder}"]))
