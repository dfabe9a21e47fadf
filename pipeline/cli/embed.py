"""Stage one: encode the texts of tasks once, into an HDF5 cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import KanglueCommand, KanglueGroup, comma_separated, echo, emit, measurements

__all__ = ["main"]


def numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """A click callback: `6,12` becomes `(6, 12)`."""
    try:
        return None if value is None else tuple(int(part) for part in comma_separated(ctx, param, value) or ())
    except ValueError:
        raise click.BadParameter(f"expected numbers with commas between them, found {value!r}") from None


def encoders(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...] | None:
    """A click callback: `a,b` becomes `("a", "b")`, unless that is a folder."""
    return (value,) if Path(value).is_dir() else comma_separated(ctx, param, value)


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in the order in which help lists them."""

    def apply(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


cache_option = click.option(
    "--cache", metavar="DIR", help="Folder of caches.  [default: cache; cache/sample with --data sample]"
)
folder_option = click.option(
    "--cache", default="cache", show_default=True, metavar="DIR", help="Folder of caches.",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)  # fmt: skip
reduce_option = click.option(
    "--reduce-size", type=int, default=8, show_default=True, metavar="M", help="Width of `reduced`."
)
force_option = click.option("--force", is_flag=True, help="Replace a file that holds something else.")
data_options = options(
    click.option(
        "--data", default="hub", show_default=True, metavar="hub|sample|packaged|FOLDER|FILE",
        help="The hub's glue, the bundled sample, texts of optional packages, a folder in GLUE's layout, or your own "
        ".csv, .jsonl, .parquet.",
    ),
    click.option("--text", "text_column", metavar="COLUMN", help="Own data: the column of texts."),
    click.option("--text-pair", "text_pair_column", metavar="COLUMN", help="Own data: the column of second texts."),
    click.option("--label", "label_column", metavar="COLUMN", help="Own data: the column of labels."),
    click.option("--split-column", metavar="COLUMN", help="Own data: the column of splits.  [default: drawn by hash]"),
)  # fmt: skip
content_options = options(
    click.option("--split", multiple=True, metavar="S", help="A split; repeat for more.  [default: all]"),
    click.option("--max-length", type=int, metavar="N", help="Tokens kept of a row.  [default: the encoder's own]"),
    click.option(
        "--store", callback=comma_separated, metavar="A,B,..",
        help="Datasets besides idx, label, length and texts.  [default: all; last_hidden up to 2 GiB]",
    ),
    reduce_option,
    click.option("--pairs", default="joint", show_default=True, metavar="joint|siamese", help="How pairs go in."),
    click.option("--layers", callback=numbers, metavar="L,..", help="Mean of these layers (1..).  [default: the last]"),
    click.option("--limit", type=int, metavar="N", help="Only the first N rows of each split."),
    click.option("--no-text", "text", is_flag=True, flag_value=False, default=True, help="Leave the texts out."),
)  # fmt: skip
device_options = options(
    click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N", help="Where to run."),
    click.option(
        "--precision", default="auto", show_default=True, metavar="auto|float32|float16|bfloat16",
        help="auto: that of a file that is there, else float16 on a GPU and float32 on a CPU.",
    ),
    click.option("--batch-tokens", type=int, metavar="N", help="Tokens of a batch.  [default: chosen for the device]"),
)  # fmt: skip


class RunCommand(KanglueCommand):
    """A command whose finished blocks outlast an interrupt."""

    resumes = "interrupted: finished blocks are kept; the same command goes on after the last of them"


@click.group(cls=KanglueGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Stage one: encode the texts of tasks once, into an HDF5 cache.

    Example: python embed.py run mrpc --encoder minilm --data ../glue_data
    """


@main.command(cls=RunCommand)
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@click.option(
    "--encoder", default="bert-base-cased", show_default=True, metavar="NAME|FOLDER|HUB_ID", callback=encoders,
    help="The encoder, or several with commas between them.",
)  # fmt: skip
@data_options
@cache_option
@content_options
@device_options
@force_option
def run(tasks: tuple[str, ...], as_json: bool, **chosen: Any) -> None:
    """Encode tasks into cache files, one a task; what is there already is not done again.

    Example: python embed.py run cola rte --encoder minilm --data sample
    """
    from pipeline.encode.run import embed
    from pipeline.encode.tables import run_table

    result = embed(tasks, **chosen)
    emit(result.document(), as_json, run_table(result))


@main.command("list")
@folder_option
def list_files(cache: Path, as_json: bool) -> None:
    """List what lies below a folder of caches, half-finished work too.

    Example: python embed.py list --cache cache
    """
    from pipeline.encode.tables import list_table
    from pipeline.store import list_caches

    found = list_caches(cache)
    emit(found, as_json, list_table(found))


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
def info(file: Path, as_json: bool) -> None:
    """Show what a cache file holds: provenance, splits, datasets.

    Example: python embed.py info cache/minilm/mrpc.h5
    """
    from pipeline.encode.tables import info_text
    from pipeline.store import describe

    found = describe(file)
    emit(found, as_json, info_text(found))


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
def verify(files: tuple[Path, ...], as_json: bool) -> None:
    """Read cache files from end to end and compare everything with its checksum; exit status 1 if one is faulty.

    Example: python embed.py verify cache/minilm/mrpc.h5
    """
    from pipeline.encode.tables import verify_table
    from pipeline.store import verify as check

    reports = [check(file) for file in files]
    good = all(report.good for report in reports)
    emit({"good": good, "files": [report.document() for report in reports]}, as_json, verify_table(reports))
    for report in reports:
        if not report.good:
            echo(f"error: {report.fault}", err=True)
    if not good:
        raise click.exceptions.Exit(1)


@main.command()
@folder_option
@click.option(
    "--results", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Also remove caches that no head of this database was fitted on; repeat for more databases.",
)  # fmt: skip
@click.option("--damaged", is_flag=True, help="Also remove files that cannot be read; without it they are named.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(cache: Path, results: tuple[Path, ...], damaged: bool, yes: bool, as_json: bool) -> None:
    """Remove half-finished work, and with --results caches that nothing refers to, after saying what and how large.

    Example: python embed.py prune --results runs/results.sqlite
    """
    from pipeline.encode.tables import prune_table
    from pipeline.store import find_prunable, list_caches
    from pipeline.store import prune as remove

    found = find_prunable(cache, results, damaged=damaged)
    left = [] if damaged else [one for one in list_caches(cache) if one["state"] == "damaged"]
    echo(prune_table(found), err=True)
    for one in left:
        echo(f"left where it is, --damaged removes it: {one['fault']}", err=True)
    agreed = bool(found) and (yes or click.confirm("Remove these?", err=True))
    removed = remove(found) if agreed else []
    files = [{"path": str(one.path), "bytes": one.bytes, "reason": one.reason} for one in removed]
    document = {"removed": files, "damaged": [one["path"] for one in left]}
    emit(document, as_json, f"removed {len(removed)}")


@main.command("import", cls=RunCommand)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--label", default="label", show_default=True, metavar="COLUMN", help="Parquet: the column of labels.")
@click.option(
    "--split-column", metavar="COLUMN", help="Parquet: the column of splits.  [default: split if there is one]"
)
@click.option("--features", metavar="COLUMN", help="Parquet: the column of vectors, where there are several.")
@click.option("--cache", default="cache", show_default=True, metavar="DIR", help="Folder of caches.")
@reduce_option
@force_option
def import_file(name: str, file: Path, as_json: bool, **chosen: Any) -> None:
    """Make a cache of vectors computed elsewhere, so that they get heads too: npz (x, y) or Parquet.

    Example: python embed.py import reviews vectors.npz
    """
    from pipeline.encode.tables import run_table
    from pipeline.encode.vectors import import_vectors

    result = import_vectors(name, file, **chosen)
    emit(result.document(), as_json, run_table(result))


@main.command(cls=RunCommand)
@click.argument("name")
@click.option("--expression", metavar="E", help="formula: what to compute.  [exp(sin(pi*x) + y**2)]")
@click.option(
    "--range",
    "ranges",
    multiple=True,
    metavar="[X=]LOW,HIGH",
    help="formula: the range of all variables or of one; repeat for more.  [-1,1]",
)
@click.option("--rows", type=int, default=1000, show_default=True, metavar="N", help="Rows to draw for each split.")
@click.option("--noise", type=float, metavar="S", help="Standard deviation of noise.  [moons: 0.1, formula: 0]")
@click.option("--seed", type=int, default=0, show_default=True, help="What the rows are drawn by.")
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE", help="Numeric columns of your own: .csv, ...")
@click.option("--label", default="label", show_default=True, metavar="COLUMN", help="FILE: the column of labels.")
@click.option("--regression", is_flag=True, help="FILE: labels are numbers, not classes, even if they are whole.")
@click.option("--split-column", metavar="COLUMN", help="FILE: the column of splits.  [split if there is one]")
@click.option("--save-as", metavar="NAME", help="Name of the cache and of the task.  [NAME]")
@click.option("--cache", default="cache", show_default=True, metavar="DIR", help="Folder of caches.")
@force_option
def toy(name: str, as_json: bool, save_as: str | None, cache: str, force: bool, **chosen: Any) -> None:
    """Make a cache of toy data: formula, moons, a special function, a table of scikit-learn's, or numbers of a file.

    Example: python embed.py toy moons
    """
    from pipeline.encode.tables import run_table
    from pipeline.encode.vectors import write_toy
    from pipeline.sources.toys import ToyOptions

    result = write_toy(name, ToyOptions(**chosen), save_as=save_as, cache=cache, force=force)
    emit(result.document(), as_json, run_table(result))


@main.command()
@click.option("--encoder", default="minilm", show_default=True, metavar="NAME|FOLDER|HUB_ID", help="The encoder.")
@click.option("--task", default="mrpc", show_default=True, help="The task whose rows are encoded.")
@click.option("--data", default="sample", show_default=True, metavar="hub|sample|FOLDER", help="Where rows come from.")
@device_options
@click.option("--quick", is_flag=True, help="Fewer rows: within 50 s on two cores.")
def bench(as_json: bool, **chosen: Any) -> None:
    """Measure encoding against transformers and sentence-transformers, in one run.

    Example: python embed.py bench --quick
    """
    encoding = measurements("encoding")
    document = encoding.bench(**chosen)
    emit(document, as_json, encoding.bench_text(document))
