"""The tasks of one run: what each file needs, in what order, and what goes on at the same time.

Where there are processors to spare, other processes read all tasks at once and tokenise; the rows of the next task are
made ready while this one is encoded, and a file is finished while the next is begun.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.encode.encoders import Encoder
from pipeline.encode.models import Models
from pipeline.encode.request import Options, Scanned, TaskRequest, cache_path, plan_task, scan_task
from pipeline.encode.spool import Reading
from pipeline.encode.workers import Workers
from pipeline.errors import CacheError, KanglueError
from pipeline.poolings import POOLINGS
from pipeline.progress import bar, say
from pipeline.sources import FileSource, FolderSource, Limited, Source, check_counts
from pipeline.store import CacheWriter, missing_datasets, open_cache
from pipeline.store.journal import Lock, work_folder

if TYPE_CHECKING:
    from pipeline.encode.deviation import Deviation
    from pipeline.encode.stream import TokenStream
    from pipeline.encode.tokens import Tokeniser

__all__ = ["FileResult", "Session"]

#: Rows of a block: what an interruption can cost, about a quarter of a minute on two cores.
CPU_BLOCK_ROWS = 1024
GPU_BLOCK_ROWS = 8192
#: Bound on a block's `last_hidden`, every row as long as the longest allowed.
BLOCK_BYTES = 1 << 28
#: Rows on which a precision other than float32 is compared with float32.
SAMPLE_ROWS = 64
#: Rows of later tasks, at least, that are made ready beside those of the task in hand.
ROWS_AHEAD = 1 << 16
#: How long a thread keeps the interpreter that another one waits for, where there are many.
SWITCH_SECONDS = 0.0005
#: Files that may be waited for while the next one is encoded.
BEHIND = 4


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


class Session:
    """The tasks of one run, which share the loaded encoder; use it in a `with` block."""

    def __init__(
        self, encoder: Encoder, options: Options, cache: Path, splits: tuple[str, ...], device: str, precision: str,
        batch_tokens: int | None, force: bool,
    ) -> None:  # fmt: skip
        self._encoder, self._options, self._cache, self._splits = encoder, options, cache, splits
        self._asked_precision, self._batch_tokens, self._force = precision, batch_tokens, force
        self._device_name = device
        self._models = Models(encoder, self._max_length, options.layers, device, precision)
        self._workers = Workers.for_this_machine()
        self._readings: dict[int, Reading] = {}
        self._spool = None if self._workers is None else tempfile.TemporaryDirectory(prefix="kanglue-")
        self._ready: dict[int, tuple[TaskRequest, dict[str, tuple[str, ...]]]] = {}
        self._streams: dict[int, TokenStream] = {}
        self._deviations: dict[int, Deviation] = {}
        self._behind = ThreadPoolExecutor(BEHIND, "collect")

    def __enter__(self) -> "Session":
        self._interval = sys.getswitchinterval()
        if self._workers is not None:
            # The thread that starts a GPU's kernels asks for the interpreter after each of them.
            sys.setswitchinterval(SWITCH_SECONDS)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.setswitchinterval(self._interval)
        for stream in self._streams.values():
            stream.close()
        self._behind.shutdown(wait=True)
        if self._workers is not None:
            self._workers.close()
            self._spool.cleanup()

    def run(self, sources: Sequence[Source]) -> tuple[FileResult, ...]:
        """Bring the tasks' files up to date, in order."""
        if self._device_name not in ("auto", "cpu"):
            _ = self._models.device  # one that is not there is said before anything is read
        limit = self._options.limit
        limited = [source if limit is None else Limited(source, limit) for source in sources]
        if self._workers is not None:
            for number, source in enumerate(limited):
                if isinstance(sources[number], FolderSource | FileSource):
                    folder = Path(self._spool.name) / str(number)
                    self._readings[number] = Reading(self._workers, source, self._max_length, folder)
            if self._readings and any(not self._path(source).exists() for source in sources):
                self._load_early(limited)
        results: list[tuple[FileResult, Future[None] | None]] = []
        for number, source in enumerate(limited):
            for _, finished in results:
                if finished is not None and finished.done():
                    finished.result()
            results.append(self._task(number, source, limited))
        for _, finished in results:
            if finished is not None:
                finished.result()
        return tuple(self._with_deviation(number, result) for number, (result, _) in enumerate(results))

    def _load_early(self, sources: Sequence[Source]) -> None:
        """There is work for the encoder: load it while rows are read, its tokenizer first, for those that are."""
        precision = self._models.default_precision
        if self._models.device.type == "cuda":
            self._look_ahead(0, sources, self._models.tokeniser)
        self._models.get(precision)

    @property
    def _max_length(self) -> int:
        return self._options.max_length or self._encoder.max_length

    def _path(self, source: Source) -> Path:
        return cache_path(self._cache, self._encoder, source.task.name, self._options)

    def _task(self, number: int, source: Source, sources: Sequence[Source]) -> tuple[FileResult, Future[None] | None]:
        request, missing = self._request(number, source)
        result = FileResult(
            task=source.task.name,
            file=str(request.path),
            splits=dict(request.splits),
            precision=request.attributes["precision"],
            path=str(request.attributes.get("path", "")),
        )
        if missing or self._force:
            return self._write(number, request, result, sources)
        check_reduced_width(request.path, request.datasets, self._options.reduce_size)
        say(f"{request.path}: up to date, nothing to do")
        return replace(result, up_to_date=True), None

    def _request(self, number: int, source: Source) -> tuple[TaskRequest, dict[str, tuple[str, ...]]]:
        """What a task needs, and what its file lacks of that; says what a person should know, once."""
        if number in self._ready:
            return self._ready[number]
        if number in self._readings:
            scanned = self._readings[number].scanned()
        else:
            with bar(f"{source.task.name}: reading", None, "rows") as progress:
                scanned = scan_task(source, self._max_length, progress.advance)
        for note in scanned.notes:
            say(note)
        if self._options.limit is None and source.description != "sample":
            for line in check_counts(source.task, scanned.rows):
                say(line)
        request = self._plan(source, scanned)
        for note in request.notes:
            say(f"{source.task.name}: {note}")
        missing = {} if self._force else missing_datasets(
            request.path, request.attributes, request.splits, request.datasets
        )  # fmt: skip
        self._ready[number] = request, missing
        return self._ready[number]

    def _plan(self, source: Source, scanned: Scanned) -> TaskRequest:
        """The request; `auto` precision is that of a file that is there, else the device's own."""

        def plan(precision: str) -> TaskRequest:
            return plan_task(
                self._encoder, source, scanned.rows, scanned.sha256, scanned.tokens, self._options, self._splits,
                self._cache, precision,
            )  # fmt: skip

        if self._asked_precision == "auto" and self._path(source).exists() and not self._force:
            with open_cache(self._path(source)) as there:
                return plan(there.attributes["precision"])
        return plan(self._models.default_precision)

    def _stream(self, number: int, request: TaskRequest, tokeniser: "Tokeniser", block_rows: int) -> "TokenStream":
        from pipeline.encode.stream import TokenStream

        stream = self._streams.pop(number, None)
        if stream is not None and stream.block_rows == block_rows:
            return stream
        if stream is not None:
            stream.close()
        workers = self._workers if self._models.device.type == "cuda" else None
        return TokenStream(
            request.source, request.splits, tokeniser, block_rows, workers, self._readings.get(number),
            siamese=request.siamese,
        )  # fmt: skip

    def _look_ahead(self, number: int, sources: Sequence[Source], tokeniser: "Tokeniser") -> None:
        """Begin to tokenise later tasks, where nothing has to be waited for; their faults show in their turn."""
        rows = 0
        while number < len(sources) and number in self._readings and self._readings[number].done():
            try:
                request, missing = self._request(number, sources[number])
            except KanglueError:
                return
            if (missing or self._force) and number not in self._streams:
                stream = self._stream(number, request, tokeniser, self._block_rows(request))
                stream.begin()
                self._streams[number] = stream
            rows += sum(request.splits.values())
            if rows >= ROWS_AHEAD:
                return
            number += 1

    def _block_rows(self, request: TaskRequest) -> int:
        rows = GPU_BLOCK_ROWS if self._models.device.type == "cuda" else CPU_BLOCK_ROWS
        if "last_hidden" in request.datasets:
            most = max(1, BLOCK_BYTES // (request.attributes["max_length"] * max(1, self._encoder.width) * 2))
            rows = min(rows, 1 << (most.bit_length() - 1))
        return rows

    def _write(
        self, number: int, request: TaskRequest, result: FileResult, sources: Sequence[Source]
    ) -> tuple[FileResult, Future[None]]:
        from pipeline.encode.blocks import default_batch_tokens
        from pipeline.encode.deviation import Deviation
        from pipeline.encode.write import encode_blocks

        if not self._models.has(result.precision) and work_folder(request.path).is_dir():
            # Who finds another process at work should not load an encoder first.
            Lock(work_folder(request.path)).release()
        loaded = self._models.get(result.precision)
        width, size = loaded.width, self._options.reduce_size
        widths = {"D": width, "S": loaded.sentence_width, "m": size}
        if request.siamese:
            widths["D"] = widths[POOLINGS[request.default_feature].width]
        began = time.perf_counter()
        writer = CacheWriter(
            request.path,
            dict(request.attributes) | {"path": loaded.forward.path, "device": loaded.device.type},
            request.splits,
            request.datasets,
            widths,
            plan={"batch_tokens": self._batch_tokens or default_batch_tokens(loaded.device, width)},
            force=self._force,
            block_rows=self._block_rows(request),
        )
        try:
            with self._stream(number, request, loaded.tokeniser, writer.block_rows) as stream:
                self._look_ahead(number + 1, sources, loaded.tokeniser)
                counts, finished = encode_blocks(
                    request, loaded, writer, stream, size, self._batch_tokens, self._behind
                )  # fmt: skip
        except BaseException:
            writer.__exit__(RuntimeError, None, None)
            raise
        if result.precision != "float32":
            self._deviations[number] = Deviation(self._models.exact, loaded, request, size, SAMPLE_ROWS)
        seconds = round(time.perf_counter() - began, 3)
        result = FileResult(**(asdict(result) | counts | {"seconds": seconds, "path": loaded.forward.path}))
        return result, finished

    def _with_deviation(self, number: int, result: FileResult) -> FileResult:
        if number not in self._deviations:
            return result
        found = self._deviations[number].result()
        for feature, (largest, cosine) in found.items():
            say(
                f"{result.file}: {feature} in {result.precision} deviates from float32 by at most {largest:.2g} "
                f"(cosine at least {cosine:.6f}) on {min(SAMPLE_ROWS, result.rows)} rows"
            )
        return replace(result, deviation=found)


def check_reduced_width(path: Path, datasets: Sequence[str], size: int) -> None:
    """Raise `CacheError` where a file that is up to date holds `reduced` in another width than asked for."""
    with open_cache(path) as there:
        width = there.widths.get("m", size)
    if "reduced" in datasets and width != size:
        raise CacheError(
            f"{path}: expected `reduced` {size} wide, found {width}; give "
            f"--reduce-size {width}, another --cache, or replace the file with --force"
        )
