"""`fit_heads.py predict`, `export` and `load`: trained heads at work."""

import sys
from typing import Any

import click

from pipeline.cli.common import KanglueCommand, echo, emit, with_flags
from pipeline.cli.options import Numbers, cache_option, device_option, results_option
from pipeline.text import json_text

__all__ = ["export", "load", "predict"]


@click.command(cls=KanglueCommand)
@click.argument("head")
@click.argument("text", required=False)
@click.argument("text_pair", required=False)
@click.option("--file", metavar="FILE|-", help="JSON lines, one row each; - is standard input, the default in a pipe.")
@click.option("--text", "text_key", metavar="KEY", help="Key of the text in a line.  [text, or the task's own]")
@click.option("--text-pair", "pair_key", metavar="KEY", help="Key of the second text.  [text_pair, or the task's own]")
@click.option("--keep-going", is_flag=True, help="Answer a faulty line with its error instead of stopping there.")
@click.option("--jsonl", is_flag=True, help="Write one JSON object a line, as rows come.")
@click.option("--encoder", metavar="E", help="The encoder, where it was a local folder.  [the head's]")
@click.option("--max-length", type=int, metavar="N", help="Must be the head's, as all of the following.  [the head's]")
@click.option("--pairs", metavar="joint|siamese", help="How pairs go in.  [the head's]")
@click.option("--layers", type=Numbers(int, "L,.."), help="Mean of these layers.  [the head's]")
@click.option("--precision", metavar="P", help="float32, float16 or bfloat16.  [the head's]")
@cache_option
@results_option
@device_option
def predict(
    as_json: bool, head: str, text: str | None, text_pair: str | None, file: str | None, text_key: str | None,
    pair_key: str | None, keep_going: bool, jsonl: bool, results: str, device: str,
    cache: str,  # noqa: ARG001 - every command takes --cache
    **asked: Any,
) -> None:  # fmt: skip
    """Say what HEAD, an id of the results or a head's folder, makes of a text, a pair, or JSON lines as a stream.

    A line of output is a label and its probability (a value for regression). A faulty line of input ends the stream
    with exit status 1, after the answers to the lines before it.

    \b
    Example: python fit_heads.py predict 0123456789abcdef "A first text." "A second, if the task has pairs."
             python fit_heads.py predict 0123456789abcdef --jsonl < rows.jsonl
    """
    if text is not None and file is not None:
        raise click.UsageError("expected a text or --file, found both")
    if text is None and file is None:
        if sys.stdin.isatty():
            raise click.UsageError("expected a text, --file FILE, or JSON lines on standard input")
        file = "-"
    from pipeline.encode.rows import Asked
    from pipeline.errors import KanglueError, SourceError
    from pipeline.models.saved import finetuned_encoder, load_head
    from pipeline.serve.predict import Columns, Predictor, answer_lines, line_rows, open_lines, row_of

    loaded = load_head(head, results=results)
    if text is not None and not (text.strip() and (text_pair is None or text_pair.strip())):
        raise SourceError('expected a text, found an empty one; {"text": ""} on a line of --file is taken as it is')
    with open_lines(file) as (lines, name, live):
        asked["encoder"] = asked["encoder"] or finetuned_encoder(loaded, results)
        predictor = Predictor(loaded, Asked(**asked), device)
        if text is not None:
            row = predictor.check(row_of([text] if text_pair is None else [text, text_pair]), "text")
            answer = predictor([row])[0]
            about = {"head": loaded.id, "task": loaded.provenance["task"]}
            if jsonl:
                echo(json_text(about | answer.document()))
            else:
                emit(about | answer.document(), as_json, answer.line())
            return
        rows = line_rows(lines, name, predictor, Columns(text_key, pair_key))
        faulty = 0
        array = ArrayWriter() if as_json else None
        try:
            for place, result in answer_lines(predictor, rows, keep_going=keep_going, live=live):
                if isinstance(result, KanglueError):
                    faulty += 1
                    fault = with_flags(click.get_current_context().command, str(result))
                    document, line = {"error": fault}, f"error\t{fault}"
                else:
                    document, line = result.document(), result.line()
                text = json_text(place | document) if as_json or jsonl else line
                if array:
                    array(text)
                else:
                    echo(text)
        finally:
            if array:
                array.close()
    if faulty:
        raise SourceError(f"{name}: expected a row on every line, found {faulty} faulty lines; mend them")


class ArrayWriter:
    """Writes documents as one JSON array, each as it comes."""

    def __init__(self) -> None:
        self._before = "["

    def __call__(self, document: str) -> None:
        echo(f"{self._before}\n  {document}", nl=False)
        self._before = ","

    def close(self) -> None:
        """End the array."""
        echo("[]" if self._before == "[" else "\n]")


@click.command(cls=KanglueCommand)
@click.argument("head")
@click.option("--format", default="torch", show_default=True, metavar="torch|safetensors|onnx", help="See above.")
@click.option("--out", metavar="DIR", help="Folder to write.  [exports/HEAD-FORMAT beside the results]")
@click.option("--force", is_flag=True, help="Replace an export that is there.")
@cache_option
@results_option
def export(as_json: bool, cache: str, **options: Any) -> None:  # noqa: ARG001 - every command takes --cache
    """Write HEAD, an id of the results or a head's folder, as a folder that others can use, with a model card.

    torch: one Python file that needs PyTorch alone. safetensors: weights, under the names of efficient-kan, fast-kan or
    faster-kan where the head is one of these. onnx: with a free number of rows.

    Example: python fit_heads.py export 0123456789abcdef --format safetensors
    """
    from dataclasses import asdict

    from pipeline.export.write import export as write

    done = write(options.pop("head"), **options)
    emit(asdict(done), as_json, f"{done.folder}: {', '.join(done.files)} ({done.parameters:,} parameters)")


@click.command(cls=KanglueCommand)
@click.argument("source", metavar="FOLDER|FILE")
@click.option("--head", metavar="FAMILY", help="Of a state dict: effi_kan, fast_kan or faster_kan.")
@click.option("--task", metavar="T", help="Of a state dict: the task whose features it reads.")
@click.option("--encoder", metavar="E", help="Of a state dict: the cache's encoder.  [bert-base-cased]")
@click.option("--features", metavar="F", help="Of a state dict: its features.  [the encoder's default]")
@click.option("--scale", default="none", show_default=True, metavar="none|standard|tanh", help="Of a state dict.")
@click.option("--sharpness", type=float, help="Of a faster-kan: d.  [1, its forward]")
@cache_option
@results_option
def load(as_json: bool, source: str, **options: Any) -> None:
    """Make a head of weights: an exported FOLDER, or a package's state dict in a safetensors FILE.

    The head lies beside the others, so that predict, submit and export take its id; the results list trained heads
    only. A state dict is evaluated on its task's reported splits.

    \b
    Examples: python fit_heads.py load runs/exports/0123456789abcdef-safetensors
              python fit_heads.py load kan.safetensors --head effi_kan --task mrpc --encoder minilm
    """
    from dataclasses import asdict

    from pipeline.export.load import load_weights

    done = load_weights(source, **options)
    scores = "".join(
        f"\n  {split}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        for split, found in done.metrics.items()
    )
    emit(asdict(done), as_json, f"{done.head} on {done.task} ({done.encoder}): {done.id}{scores}")
