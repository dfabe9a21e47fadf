"""The verb of stage one: tasks in, cache files out."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.encode.encoders import resolve
from pipeline.encode.request import PRECISIONS, Options
from pipeline.encode.session import FileResult, Session
from pipeline.errors import ConfigError
from pipeline.progress import say
from pipeline.sources import open_source

__all__ = ["EmbedResult", "FileResult", "embed"]


@dataclass(frozen=True)
class EmbedResult:
    """What a run did: rows, tokens and truncated rows are those that it encoded, none where files were up to date."""

    files: tuple[str, ...]
    rows: int
    tokens: int
    truncated: int
    seconds: float
    details: tuple[FileResult, ...]

    def document(self) -> dict[str, Any]:
        """The document of `embed.py run --json`."""
        return asdict(self)


def embed(
    tasks: Sequence[str] | str,
    *,
    encoder: Sequence[str] | str = "bert-base-cased",
    data: str = "hub",
    split: Sequence[str] | str = (),
    cache: str | Path | None = None,
    max_length: int | None = None,
    store: Sequence[str] | str | None = None,
    reduce_size: int = 8,
    device: str = "auto",
    precision: str = "auto",
    batch_tokens: int | None = None,
    pairs: str = "joint",
    layers: Sequence[int] | None = None,
    limit: int | None = None,
    text: bool = True,
    force: bool = False,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
) -> EmbedResult:
    """Encode the splits of tasks into cache files, one a task and encoder; what is there already is not done again.

    The keywords are the options of `embed.py run`. `cache` is `cache`, or `cache/sample` for the bundled sample. Says
    on standard error what a person should know. Raises a `KanglueError`.
    """
    began = time.perf_counter()
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
    if batch_tokens is not None and batch_tokens < 1:
        raise ConfigError(f"--batch-tokens: expected at least 1, found {batch_tokens}")
    columns = {"text": text_column, "text_pair": text_pair_column, "label": label_column, "split_column": split_column}
    names = tuple(dict.fromkeys(_names(tasks)))
    if not names:
        raise ConfigError("expected at least one task, found none; name some, such as mrpc")
    sources = [open_source(name, data, **columns) for name in names]
    options = Options(
        max_length=max_length,
        store=None if store is None else _names(store),
        reduce_size=reduce_size,
        pairs=pairs,
        layers=tuple(layers) if layers else None,
        limit=limit,
        text=text,
    )
    encoders = [resolve(name) for name in dict.fromkeys(_names(encoder)) if name]
    if not encoders:
        raise ConfigError("--encoder: expected at least one encoder, found none; name one, such as minilm")
    asked = [(one, options.checked(one)) for one in encoders]
    where = Path(cache) if cache is not None else Path("cache/sample" if data == "sample" else "cache")
    details: tuple[FileResult, ...] = ()
    for one, its_options in asked:
        for note in one.notes:
            say(note)
        with Session(one, its_options, where, _names(split), device, precision, batch_tokens, force) as session:
            details += session.run(sources)
    return EmbedResult(
        files=tuple(detail.file for detail in details),
        rows=sum(detail.rows for detail in details),
        tokens=sum(detail.tokens for detail in details),
        truncated=sum(detail.truncated for detail in details),
        seconds=round(time.perf_counter() - began, 3),
        details=details,
    )


def _names(value: Sequence[str] | str) -> tuple[str, ...]:
    """One name or several, as a tuple: a string is one name, not its letters."""
    return (value,) if isinstance(value, str) else tuple(value)
