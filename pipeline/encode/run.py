"""The verb of stage one: tasks in, cache files out."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.encode.encoders import Encoder, resolve
from pipeline.encode.request import PRECISIONS, Counted, Options, TaskRequest, plan_task
from pipeline.errors import CacheError, ConfigError
from pipeline.progress import bar, say
from pipeline.sources import Limited, check_counts, open_source, scan
from pipeline.store import CacheWriter, missing_datasets, open_cache

if TYPE_CHECKING:
    import torch

    from pipeline.encode.load import Loaded

__all__ = ["EmbedResult", "FileResult", "embed"]

#: Rows of a block: what an interruption can cost, about a quarter of a minute on two cores.
CPU_BLOCK_ROWS = 1024
GPU_BLOCK_ROWS = 8192
#: Bound on a block's `last_hidden`, every row as long as the longest allowed.
BLOCK_BYTES = 1 << 28
#: Rows on which a precision other than float32 is compared with float32.
SAMPLE_ROWS = 64


@dataclass(frozen=True)
class FileResult:
    """What a run did for one file; `deviation` maps features to (largest difference, least cosine) against float32."""

    task: str
    file: str
    splits: dict[str, int]
    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0
    up_to_date: bool = False
    path: str = ""
    precision: str = ""
    deviation: dict[str, tuple[float, float]] = field(default_factory=dict)


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
    encoder: str = "bert-base-cased",
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
    """Encode the splits of tasks into cache files, one a task; what is there already is not done again.

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
    found = resolve(encoder)
    options = Options(
        max_length=max_length,
        store=None if store is None else _names(store),
        reduce_size=reduce_size,
        pairs=pairs,
        layers=tuple(layers) if layers else None,
        limit=limit,
        text=text,
    ).checked(found)
    for note in found.notes:
        say(note)
    where = Path(cache) if cache is not None else Path("cache/sample" if data == "sample" else "cache")
    run = _Run(found, options, where, _names(split), device, precision, batch_tokens, force)
    details = tuple(run.task(source) for source in sources)
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


class _Run:
    """The tasks of one run, which share the loaded encoder."""

    def __init__(
        self, encoder: Encoder, options: Options, cache: Path, splits: tuple[str, ...], device: str, precision: str,
        batch_tokens: int | None, force: bool,
    ) -> None:  # fmt: skip
        self._encoder, self._options, self._cache, self._splits = encoder, options, cache, splits
        self._asked_precision, self._batch_tokens, self._force = precision, batch_tokens, force
        self._device: torch.device | None = None
        self._device_name = device
        self._loaded: dict[str, Loaded] = {}
        if device not in ("auto", "cpu"):
            self._on()

    def task(self, source: Any) -> FileResult:
        """Bring one task's file up to date."""
        options, encoder = self._options, self._encoder
        limited = source if options.limit is None else Limited(source, options.limit)
        with bar(f"{source.task.name}: reading", None, "rows") as progress:
            counted = Counted(limited, options.max_length or encoder.max_length, progress.advance)
            scanned = scan(counted)
        for note in source.notes:
            say(note)
        if options.limit is None and source.description != "sample":
            for line in check_counts(source.task, scanned.rows):
                say(line)
        request = self._plan(limited, scanned.rows, scanned.sha256, counted.tokens)
        for note in request.notes:
            say(f"{source.task.name}: {note}")
        result = FileResult(
            task=source.task.name,
            file=str(request.path),
            splits=dict(request.splits),
            precision=request.attributes["precision"],
            path=str(request.attributes.get("path", "")),
        )
        missing = None if self._force else missing_datasets(
            request.path, request.attributes, request.splits, request.datasets
        )  # fmt: skip
        if missing == {}:
            self._check_width(request)
            say(f"{request.path}: up to date, nothing to do")
            return FileResult(**(asdict(result) | {"up_to_date": True}))
        return self._write(request, result)

    def _plan(self, source: Any, rows: dict[str, int], sha256: str, tokens: int) -> TaskRequest:
        """The request; `auto` precision is that of a file that is there, else the device's own."""

        def plan(precision: str) -> TaskRequest:
            return plan_task(
                self._encoder, source, rows, sha256, tokens, self._options, self._splits, self._cache, precision
            )

        if self._asked_precision != "auto":
            return plan(self._asked_precision)
        request = plan("float32")
        if request.path.exists() and not self._force:
            with open_cache(request.path) as there:
                return plan(there.attributes["precision"])
        return plan("float16" if self._on().type == "cuda" else "float32")

    def _check_width(self, request: TaskRequest) -> None:
        with open_cache(request.path) as there:
            width = there.widths.get("m", self._options.reduce_size)
        if "reduced" in request.datasets and width != self._options.reduce_size:
            raise CacheError(
                f"{request.path}: expected `reduced` {self._options.reduce_size} wide, found {width}; give "
                f"--reduce-size {width}, another --cache, or replace the file with --force"
            )

    def _on(self) -> "torch.device":
        from pipeline.encode.load import resolve_device

        if self._device is None:
            self._device = resolve_device(self._device_name)
        return self._device

    def _load(self, precision: str) -> "Loaded":
        from pipeline.encode.load import load

        if precision not in self._loaded:
            if precision != "float32" and self._on().type == "cpu":
                say(f"{precision} on a CPU is many times slower than float32 where the processor has no unit for it")
            say(f"loading {self._encoder.name} on {self._on()} in {precision}")
            max_length = self._options.max_length or self._encoder.max_length
            self._loaded[precision] = load(self._encoder, max_length, self._on(), precision, self._options.layers)
        return self._loaded[precision]

    def _write(self, request: TaskRequest, result: FileResult) -> FileResult:
        from pipeline.encode.blocks import default_batch_tokens
        from pipeline.encode.deviation import deviation

        began = time.perf_counter()
        loaded = self._load(result.precision)
        on_gpu, width = loaded.device.type == "cuda", loaded.width
        block_rows = GPU_BLOCK_ROWS if on_gpu else CPU_BLOCK_ROWS
        if "last_hidden" in request.datasets:
            most = max(1, BLOCK_BYTES // (request.attributes["max_length"] * width * 2))
            block_rows = min(block_rows, 1 << (most.bit_length() - 1))
        attributes = dict(request.attributes) | {"path": loaded.forward.path, "device": loaded.device.type}
        began = time.perf_counter()
        with CacheWriter(
            request.path,
            attributes,
            request.splits,
            request.datasets,
            {"D": width, "m": self._options.reduce_size},
            plan={"batch_tokens": self._batch_tokens or default_batch_tokens(loaded.device, width)},
            force=self._force,
            block_rows=block_rows,
        ) as writer:
            counts = _encode(request, loaded, writer, self._options.reduce_size, self._batch_tokens)
            writer.finish()
        seconds = time.perf_counter() - began
        drift = {}
        if result.precision != "float32":
            drift = deviation(self._encoder, loaded, request, self._options, SAMPLE_ROWS)
            for feature, (largest, cosine) in drift.items():
                say(
                    f"{request.path}: {feature} in {result.precision} deviates from float32 by at most {largest:.2g} "
                    f"(cosine at least {cosine:.6f}) on {SAMPLE_ROWS} rows"
                )
        return FileResult(
            **(
                asdict(result)
                | counts
                | {"seconds": round(seconds, 3), "path": loaded.forward.path, "deviation": drift}
            )
        )


def _encode(
    request: TaskRequest, loaded: "Loaded", writer: CacheWriter, reduce_size: int, batch_tokens: int | None
) -> dict[str, int]:
    """Encode and write the blocks that are left; rows, tokens and truncated rows of these."""
    from pipeline.encode.arrays import plain_arrays
    from pipeline.encode.blocks import encode_block
    from pipeline.encode.stream import TokenStream

    budget = int(writer.plan["batch_tokens"])
    if writer.resumed_blocks:
        say(f"{request.path}: going on after {writer.resumed_blocks} finished blocks")
        if batch_tokens not in (None, budget):
            say(f"{request.path}: keeping the {budget} tokens a batch with which it was begun")
    counts = {"rows": 0, "tokens": 0, "truncated": 0}
    stream = TokenStream(request.source, request.splits, loaded.tokeniser, writer.block_rows)
    total = sum(request.splits.values())
    with stream, bar(f"{request.attributes['task']} ({loaded.forward.path})", total, "rows") as progress:
        for block in writer.todo():
            rows, tokens = stream.get(block.split, block.start, block.stop)
            arrays = plain_arrays(rows, tokens, block.start, request.source.task)
            arrays |= encode_block(
                loaded,
                tokens,
                block.datasets,
                default_feature=request.default_feature,
                reduce_size=reduce_size,
                batch_tokens=budget,
                advance=progress.advance,
            )
            # `length` goes with `last_hidden` even where it is stored already.
            writer.write(block, {name: arrays[name] for name in (*block.datasets, "length")})
            counts["rows"] += block.rows
            counts["tokens"] += len(tokens.ids)
            counts["truncated"] += tokens.truncated
    return counts
