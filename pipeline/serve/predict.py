"""A trained head in use: texts in, labels and probabilities (or values) out, as a stream."""

import contextlib
import itertools
import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.encode.rows import Asked, RowEncoder
from pipeline.errors import KanglueError, SourceError
from pipeline.fit.tokens import Tokens
from pipeline.heads.config import FEATURES, TOKENS
from pipeline.models.caches import assemble
from pipeline.sources import Row
from pipeline.sources.base import shortened
from pipeline.sources.lines import decoded_line, numbered_lines
from pipeline.sources.tables import json_object
from pipeline.tasks import TASKS

if TYPE_CHECKING:
    from pipeline.models.saved import SavedHead

__all__ = ["Answer", "Columns", "Predictor", "answer_lines", "answers", "line_rows", "open_lines", "predict", "row_of"]

#: Rows that are encoded together where so many are there.
BLOCK_ROWS = 256
AS_CACHED = Asked()


@dataclass(frozen=True)
class Answer:
    """What a head says of one row: a class with its probability and those of all classes, or a value (regression)."""

    label: str | None = None
    probability: float | None = None
    probabilities: Mapping[str, float] | None = None
    value: float | None = None

    def document(self) -> dict[str, Any]:
        """Plain JSON: `label`, `probability` and `probabilities`, or `value`."""
        return {name: value for name, value in self.__dict__.items() if value is not None}

    def line(self) -> str:
        """Label and probability, or the value, with a tab between them."""
        return f"{self.value:.6g}" if self.label is None else f"{self.label}\t{self.probability:.4f}"


class Predictor:
    """A head with its encoder, each loaded once."""

    def __init__(self, head: "SavedHead", asked: Asked = AS_CACHED, device: str = "auto") -> None:
        """Raises `EncoderError` where the encoder that was asked for is not the one of the head's cache.

        `ResultsError` where the head diverged in training.
        """
        self.head = head.usable()
        #: Whether the head's task has pairs; `None` where nothing tells (a task of the user's own, without texts).
        self.pair: bool | None = head.provenance.get("pair")
        self._encoder = RowEncoder(head.provenance, asked, device, f"head {head.id}")

    def check(self, row: Row, where: str) -> Row:
        """The row; raises `SourceError` for a pair where the head takes single texts, and the other way round."""
        if self.pair is not None and self.pair != (row.text_pair is not None):
            task = self.head.provenance["task"]
            wanted, found = ("two texts", "one") if self.pair else ("one text", "two")
            raise SourceError(f"{where}: expected {wanted}, as {task} has, found {found}")
        return row

    def __call__(self, rows: Sequence[Row]) -> list[Answer]:
        """Answers to some rows, which are encoded together."""
        config = self.head.config
        found: dict[str, Any] = self._encoder.datasets(rows, FEATURES[config.features], self.head.network.inputs)
        if config.features == TOKENS:
            found[TOKENS] = Tokens(found[TOKENS], found[f"{TOKENS}/offsets"])
        return answers(self.head, self.head.predict(assemble(config.features, found.__getitem__, config.token_pool)))


def answers(head: "SavedHead", outputs: np.ndarray) -> list[Answer]:
    """A head's outputs [rows, classes] in words."""
    if head.labels is None:
        return [Answer(value=float(value)) for value in outputs[:, 0]]
    wide = outputs.astype(np.float64)
    wide = np.exp(wide - wide.max(1, keepdims=True))
    wide /= wide.sum(1, keepdims=True)
    # The class comes from the outputs, as metrics take it: rounding may make equal probabilities of different outputs.
    return [
        Answer(head.labels[best], float(row[best]), dict(zip(head.labels, row.tolist(), strict=True)))
        for row, best in zip(wide, outputs.argmax(1), strict=True)
    ]


@dataclass(frozen=True)
class Columns:
    """Keys of the texts in a JSON line; `None` means `text` and `text_pair`, or else the task's own columns."""

    text: str | None = None
    text_pair: str | None = None

    def row(self, record: Mapping[str, Any], task: str, where: str) -> Row:
        """The row of one record. Raises `SourceError`."""
        own = TASKS[task].hub_columns if task in TASKS else {}
        text = self.text or ("text" if "text" in record or not own else own["text"])
        pair = self.text_pair or ("text_pair" if "text" in record else own.get("text_pair", "text_pair"))
        if text not in record:
            expected = repr(text) if self.text else "'text' (and 'text_pair' for pairs)"
            raise SourceError(
                f"{where}: expected the key {expected}, found {shortened(', '.join(record)) if record else 'none'}; "
                "`text_key` and `pair_key` name other keys"
            )
        for key in (text, pair):
            if not isinstance(record.get(key, ""), str) and not (key == pair and record[key] is None):
                raise SourceError(f"{where}: expected a text under {key!r}, found {shortened(str(record[key]))}")
        return Row(record[text], record.get(pair), -1)


@contextlib.contextmanager
def open_lines(file: str | None) -> Iterator[tuple[Iterable[bytes], str, bool]]:
    """Lines of a file (`-`: of standard input), its name in messages, and whether lines come as somebody writes them.

    Raises `SourceError` for a file that cannot be opened.
    """
    if file is None:
        yield (), "", False
    elif file == "-":
        yield sys.stdin.buffer, "standard input", True
    else:
        try:
            opened = Path(file).open("rb")  # noqa: SIM115 - closed below; the caller's errors are not this file's
        except OSError as error:
            raise SourceError(f"{file}: expected a readable file of JSON lines, found {error.strerror}") from error
        with opened:
            yield opened, file, False


def line_rows(
    file: Iterable[bytes], name: str, predictor: Predictor, columns: Columns
) -> Iterator[tuple[dict[str, Any], Row | KanglueError]]:
    """JSON lines as (what names the line, its row or what is wrong with it); empty lines are no rows.

    A line is named by its number and by the `id` that it has, if any.
    """
    task = predictor.head.provenance["task"]
    for number, line in numbered_lines(file):
        where, place = f"{name} line {number}", {"line": number}
        if not line.strip():
            continue
        try:
            record = json_object(decoded_line(line, where), where)
            if "id" in record:
                place["id"] = record["id"]
            yield place, predictor.check(columns.row(record, task, where), where)
        except SourceError as error:
            yield place, error


def answer_lines(
    predictor: Predictor, lines: Iterator[tuple[dict[str, Any], Row | KanglueError]], *, keep_going: bool, live: bool
) -> Iterator[tuple[dict[str, Any], Answer | KanglueError]]:
    """Answers to a stream of rows, in its order; memory does not grow with the stream.

    A faulty line ends the stream with its error after the lines before it, or stands as its error in the answer's
    place where `keep_going` is set. `live`: rows come slowly (a pipe), so whatever is there is answered at once.
    """
    for block in _eager(lines) if live else _blocks(lines):
        fault = next((at for at, (_, row) in enumerate(block) if isinstance(row, KanglueError)), None)
        sound = block if keep_going or fault is None else block[:fault]
        rows = [row for _, row in sound if isinstance(row, Row)]
        done = iter(predictor(rows) if rows else [])
        for place, row in sound:
            yield place, next(done) if isinstance(row, Row) else row
        if fault is not None and not keep_going:
            raise block[fault][1]


def _blocks(lines: Iterator[Any]) -> Iterator[list[Any]]:
    while block := list(itertools.islice(lines, BLOCK_ROWS)):
        yield block


def _eager(lines: Iterator[Any]) -> Iterator[list[Any]]:
    """Blocks of what a background thread has read so far, at least one line."""
    waiting: queue.Queue[Any] = queue.Queue(maxsize=BLOCK_ROWS)
    end = object()

    def read() -> None:
        try:
            for line in lines:
                waiting.put(line)
            waiting.put(end)
        except BaseException as error:
            waiting.put(error)

    threading.Thread(target=read, name="lines", daemon=True).start()
    while True:
        block = [waiting.get()]
        while len(block) < BLOCK_ROWS and not waiting.empty():
            block.append(waiting.get())
        last = block[-1]
        if last is end or isinstance(last, BaseException):
            if block[:-1]:
                yield block[:-1]
            if isinstance(last, BaseException):
                raise last
            return
        yield block


def predict(
    head: str | Path,
    rows: Iterable[str | tuple[str, str]],
    *,
    encoder: str | None = None,
    results: str | Path = "runs/results.sqlite",
    device: str = "auto",
) -> Iterator[Answer]:
    """A head's answers to texts or pairs of texts, one after the other; raises a `KanglueError`.

    `head` is an id of the results or a head's folder; `encoder` is needed where the head's was a local folder.
    """
    from pipeline.models.saved import finetuned_encoder, load_head

    loaded = load_head(head, results=results)
    predictor = Predictor(loaded, Asked(encoder or finetuned_encoder(loaded, results)), device)
    checked = (predictor.check(row_of(row), f"row {number}") for number, row in enumerate(rows))
    return itertools.chain.from_iterable(map(predictor, _blocks(checked)))


def row_of(texts: str | Sequence[str]) -> Row:
    """A text, or a pair of texts, as a row."""
    return Row(texts, None, -1) if isinstance(texts, str) else Row(texts[0], texts[1] if len(texts) > 1 else None, -1)
