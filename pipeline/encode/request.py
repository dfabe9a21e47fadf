"""What a run is asked for, checked and resolved before anything heavy is imported."""

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.encode.encoders import Encoder
from pipeline.errors import ConfigError, UnknownNameError
from pipeline.poolings import POOLINGS
from pipeline.sources import Row, Source, scan
from pipeline.store import DATASETS
from pipeline.versions import version

__all__ = [
    "PRECISIONS",
    "Options",
    "Scanned",
    "TaskRequest",
    "cache_path",
    "estimated_tokens",
    "plan_task",
    "scan_task",
]

PRECISIONS = ("auto", "float32", "float16", "bfloat16")
#: `last_hidden` is stored unasked up to this size of a file.
LAST_HIDDEN_LIMIT = 2 << 30
VERSIONS = ("torch", "transformers", "tokenizers", "numpy", "h5py")
STORABLE = tuple(dict.fromkeys(name.split("/")[0] for name in DATASETS))
ALWAYS = ("idx", "label", "length")
SIAMESE = ("u", "v")


@dataclass(frozen=True)
class Options:
    """The options of a run that concern what a cache holds; `Options.checked` says what is wrong with them."""

    max_length: int | None = None
    store: tuple[str, ...] | None = None
    reduce_size: int = 8
    pairs: str = "joint"
    layers: tuple[int, ...] | None = None
    limit: int | None = None
    text: bool = True

    def checked(self, encoder: Encoder) -> "Options":
        """The same with layers in order; raises `ConfigError` for what the encoder cannot do or nothing can mean."""
        if self.max_length is not None and not 4 <= self.max_length <= encoder.max_length:
            raise ConfigError(
                f"--max-length: expected 4 to {encoder.max_length}, encoder {encoder.name!r}'s own, found "
                f"{self.max_length}; leave it out for the encoder's own"
            )
        if self.reduce_size < 1:
            raise ConfigError(f"--reduce-size: expected at least 1, found {self.reduce_size}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit: expected at least 1 row, found {self.limit}")
        if self.pairs not in ("joint", "siamese"):
            raise ConfigError(f"--pairs: expected joint or siamese, found {self.pairs!r}")
        for name in self.store or ():
            if name not in STORABLE:
                raise UnknownNameError("dataset", name, STORABLE)
        layers = tuple(sorted(set(self.layers))) if self.layers else None
        if layers and not 1 <= layers[0] <= layers[-1] <= encoder.layers:
            raise ConfigError(
                f"--layers: expected numbers from 1 to {encoder.layers}, encoder {encoder.name!r}'s own, found "
                f"{','.join(map(str, layers))}"
            )
        if layers == (encoder.layers,):
            layers = None
        return Options(**(self.__dict__ | {"layers": layers}))


@dataclass(frozen=True)
class TaskRequest:
    """One file to be made: where, from which rows, with which datasets, and the attributes that say so.

    `default_feature` is the pooling that `reduced` folds and that siamese pairs hold twice.
    """

    path: Path
    source: Source
    splits: Mapping[str, int]
    datasets: tuple[str, ...]
    default_feature: str
    attributes: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def siamese(self) -> bool:
        """Whether the sentences of a pair are encoded alone."""
        return self.attributes["pairs"] == "siamese"


@dataclass(frozen=True)
class Scanned:
    """What one pass over a source found: rows by split, the hash of all rows, about how many tokens, notes."""

    rows: dict[str, int]
    sha256: str
    tokens: int
    notes: tuple[str, ...]


class _Counted:
    """A source that counts, while it is read, about how many tokens its rows have; it stands in for it in a scan."""

    def __init__(self, source: Source, max_length: int, advance: Callable[[int], None]) -> None:
        self.source, self.max_length, self.tokens, self._advance = source, max_length, 0, advance
        self.splits = source.splits

    def rows(self, split: str) -> Iterator[Row]:
        for number, row in enumerate(self.source.rows(split), start=1):
            if number % 1000 == 0:
                self._advance(1000)
            self.tokens += estimated_tokens(row, self.max_length)
            yield row


def estimated_tokens(row: Row, max_length: int) -> int:
    """About how many tokens a row has: one is taken to be three characters, so that it depends on the data alone."""
    return min(max_length, 3 + (len(row.text) + len(row.text_pair or "")) // 3)


def scan_task(source: Source, max_length: int, advance: Callable[[int], None] = lambda _: None) -> Scanned:
    """Read all rows of a source once; `advance` is told of every thousand."""
    counted = _Counted(source, max_length, advance)
    found = scan(counted)
    return Scanned(found.rows, found.sha256, counted.tokens, tuple(source.notes))


def cache_path(cache: Path, encoder: Encoder, task: str, options: Options) -> Path:
    """Where a task's file lies: what is asked for besides the defaults stands in its name."""
    name = task
    if options.pairs != "joint":
        name += f".{options.pairs}"
    if options.layers:
        name += f".layers{'-'.join(map(str, options.layers))}"
    if options.max_length not in (None, encoder.max_length):
        name += f".len{options.max_length}"
    if options.limit is not None:
        name += f".limit{options.limit}"
    return cache / encoder.name / f"{name}.h5"


def plan_task(
    encoder: Encoder, source: Source, found: Mapping[str, int], sha256: str, tokens: int, options: Options,
    splits: tuple[str, ...], cache: Path, precision: str,
) -> TaskRequest:  # fmt: skip
    """Resolve one task: `found` maps all splits of the source to rows, `sha256` is the hash of all their rows.

    Raises `UnknownNameError` for a split that the source lacks, `ConfigError` for a dataset the encoder cannot give.
    """
    for split in splits:
        if split not in found:
            raise UnknownNameError(f"split of {source.task.name}", split, list(found))
    chosen = {split: rows for split, rows in found.items() if not splits or split in splits}
    features = [name for name in encoder.features if name != "pooled" or options.layers is None]
    default = encoder.default_feature if encoder.default_feature in features else "mean"
    notes = []
    if default != encoder.default_feature:
        notes.append(f"the pooler belongs to the last layer: `pooled` is left out, the default feature is `{default}`")
    siamese = options.pairs == "siamese"
    if siamese and not source.task.pair:
        raise ConfigError(
            f"--pairs siamese: expected a task of sentence pairs, found {source.task.name}, which has single "
            "sentences; leave --pairs out"
        )
    datasets, note = _siamese(options) if siamese else _datasets(encoder, source, options, features, default, tokens)
    max_length = options.max_length or encoder.max_length
    attributes = {
        "task": source.task.name,
        "labels": None if source.task.labels is None else list(source.task.labels),
        "encoder": encoder.name,
        "encoder_sha256": encoder.weights_sha256,
        "config_sha256": encoder.config_sha256,
        "tokenizer_sha256": encoder.tokenizer_sha256,
        "max_length": max_length,
        "precision": precision,
        "pairs": options.pairs,
        "layers": None if options.layers is None else list(options.layers),
        "limit": options.limit,
        "source": source.description,
        "source_sha256": sha256,
        "default_feature": "siamese" if siamese else default,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
    }
    if siamese:
        attributes["sentence_feature"] = default
    return TaskRequest(
        path=cache_path(cache, encoder, source.task.name, options),
        source=source,
        splits=chosen,
        datasets=datasets,
        default_feature=default,
        attributes=attributes,
        notes=(*notes, *note),
    )


def _siamese(options: Options) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The datasets of a file of siamese pairs: two vectors a row, and what needs no encoder."""
    wanted = {*ALWAYS, *SIAMESE, *(("text", "text_pair") if options.text else ())}
    for name in set(options.store or ()) - wanted:
        raise ConfigError(f"--store {name}: expected u and v, which --pairs siamese stores; leave --store out")
    return tuple(name for name in STORABLE if name in wanted), ()


def _datasets(
    encoder: Encoder, source: Source, options: Options, features: list[str], default: str, tokens: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The datasets to be stored, in the table's order, and a note where something is left out unasked."""
    texts = (("text", "text_pair") if source.task.pair else ("text",)) if options.text else ()
    wanted = {*ALWAYS, *texts}
    if options.store is not None:
        for name in set(options.store) - wanted:
            if name in SIAMESE:
                raise ConfigError(f"--store {name}: expected --pairs siamese with it, found joint; give both")
            if name in POOLINGS and name not in features:
                why = f"has no {POOLINGS[name].needs}" if name not in encoder.features else "gives no pooler of layers"
                raise ConfigError(
                    f"store {name}: expected one of {', '.join(features)}; encoder {encoder.name!r} {why}"
                )
            if name.startswith("text") and name not in texts:
                raise ConfigError(f"--store {name}: expected texts that the task has and --no-text keeps")
        wanted |= set(options.store)
        return tuple(name for name in STORABLE if name in wanted), ()
    features = [name for name in features if POOLINGS[name].stored or name == default]
    wanted |= {*features, "reduced", "last_hidden"}
    notes = ()
    size = tokens * encoder.width * 2
    if size > LAST_HIDDEN_LIMIT:
        wanted.remove("last_hidden")
        notes = (
            f"last_hidden would take about {size / 2**30:.1f} GiB and is left out; --store "
            f"{','.join((*features, 'reduced', 'last_hidden'))} keeps it",
        )
    return tuple(name for name in STORABLE if name in wanted), notes
