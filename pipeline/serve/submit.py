"""Files for GLUE's leaderboard: eleven TSVs with a header, from chosen heads on the test splits.

The format is GLUE's own (gluebenchmark.com, FAQ): a file a test set, a
header `index<TAB>prediction`, rows in the test set's order counted from 0; words for MNLI, QNLI, RTE and AX, class
numbers for the other classifications, a score from 0 to 5 for STS-B.
"""

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial as bound
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import CacheError, ConfigError, KanglueError, ResultsError
from pipeline.fit.tokens import Tokens
from pipeline.heads.config import TOKENS
from pipeline.metrics import metric_value
from pipeline.models.caches import assemble
from pipeline.publish import publish
from pipeline.serve.leaderboard import FILES, TestFile, constant, validate, words
from pipeline.store import Cache, SplitView, open_cache
from pipeline.store.schema import FINGERPRINT, difference
from pipeline.sweep.results import Results
from pipeline.tasks import TASKS

if TYPE_CHECKING:
    from pipeline.models.saved import SavedHead

__all__ = ["FILES", "Submission", "SubmittedFile", "TestFile", "submit"]

#: Rows that are predicted at a time.
CHUNK_ROWS = 4096


@dataclass(frozen=True)
class SubmittedFile:
    """One file that was written; `head` is `None` where it was filled, `selection` its head's score there."""

    file: str
    rows: int
    head: str | None = None
    family: str | None = None
    encoder: str | None = None
    selection: float | None = None


@dataclass(frozen=True)
class Submission:
    """What was written (document of `fit_heads.py submit --json`); `missing` says why files have no head."""

    folder: str
    zip: str | None
    files: tuple[SubmittedFile, ...]
    missing: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"missing": dict(self.missing)}


def submit(
    heads: Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    encoder: Sequence[str] | None = None,
    partial: bool = False,
    fill: bool = False,
    zip: bool = False,  # noqa: A002 - the option's name
    force: bool = False,
    cache: str | Path = "cache",
    results: str | Path = "runs/results.sqlite",
) -> Submission:
    """Write a submission; `heads` (ids or folders) predict their tasks, the best by selection the others.

    The best is the one of the clean protocol with the highest main metric on its selection rows, of `encoder`s alone
    where some are named. Without `partial` (write what there is, whatever its number of rows) or `fill` (constants for
    the rest), anything that is missing is an error. All is checked before anything is written. Raises a `KanglueError`.
    """
    results, cache = Path(results), Path(cache)
    place = Path(out) if out is not None else results.parent / "submission"
    _check_place(place, force)
    chosen = _chosen(heads, results, encoder, partial)
    lines: dict[str, list[str]] = {}
    done: list[SubmittedFile] = []
    missing: dict[str, str] = {}
    for file in FILES:
        try:
            one = chosen.get(file.head_task)
            if one is None:
                raise ResultsError(f"no head of {file.head_task}")
            lines[file.name] = _predicted(file, one.head, cache, partial)
        except KanglueError as error:
            missing[file.name] = str(error)
            continue
        head = one.head
        done.append(
            SubmittedFile(
                file.name, len(lines[file.name]), head.id, head.config.head, head.provenance["encoder"], one.selection
            )
        )
    if missing and fill:
        for file in FILES:
            if file.name in missing:
                lines[file.name] = constant(file)
                done.append(SubmittedFile(file.name, file.rows))
    elif missing and not (partial and done):
        said = "; ".join(f"{name}: {why}" for name, why in missing.items())
        raise ResultsError(
            f"submit: expected predictions for all {len(FILES)} files, found none for {len(missing)} ({said}); train "
            "these heads, or give `fill=True` (constants, as the leaderboard wants all files) or `partial=True`"
        )
    for file in FILES:
        if file.name in lines:
            validate(file, lines[file.name], partial)
    archive = _write(place, lines, zip)
    order = [file.name for file in FILES]
    done.sort(key=lambda one: order.index(one.file))
    return Submission(str(place), archive, tuple(done), missing)


@dataclass(frozen=True)
class _Choice:
    head: "SavedHead"
    selection: float | None


def _chosen(
    heads: Sequence[str | Path], results: Path, encoders: Sequence[str] | None, partial: bool
) -> dict[str, _Choice]:
    """The head of every task that has one."""
    from pipeline.models.saved import load_head

    found: dict[str, _Choice] = {}
    for name in dict.fromkeys(heads):
        head = load_head(name, results=results).usable()
        task = head.provenance["task"]
        if task not in {file.head_task for file in FILES} or head.labels != TASKS[task].labels:
            raise ConfigError(f"head {head.id}: expected a head of a GLUE task, found one of {task!r}")
        if task in found:
            raise ConfigError(f"head {head.id}: expected one head for {task}, found two ({found[task].head.id})")
        found[task] = _Choice(head, None)
    if heads and not results.is_file():
        return found
    best: dict[str, tuple[tuple[float, int, str], dict[str, Any]]] = {}
    with Results(results) as store:
        for one in store.heads({"protocol": "clean", "status": "trained"}):
            task = one["task"]
            limited = one["row_limit"] is not None and not partial
            if task not in TASKS or not one["selection"] or limited or (encoders and one["encoder"] not in encoders):
                continue
            # Ties: fewer parameters, then the id, so that the choice does not depend on the order of training.
            rank = (-float(metric_value(one["selection"], one["main_metric"])), one["parameters"], one["id"])
            if task not in best or rank < best[task][0]:
                best[task] = rank, one
    for task, (rank, one) in best.items():
        if task not in found:
            head = load_head(one["id"], results=results)
            if head.labels == TASKS[task].labels:
                found[task] = _Choice(head, -rank[0])
    return found


def _predicted(file: TestFile, head: "SavedHead", root: Path, partial: bool) -> list[str]:
    """A file's predictions in order. Raises `CacheError` where the rows are not there or are not the test set's."""
    with open_cache(_cache_path(file, head, root)) as cache:
        if file.split not in cache:
            raise CacheError(
                f"{cache.path}: expected the split {file.split!r}, found {', '.join(cache.splits)}; embed it too"
            )
        rows = cache[file.split].rows
        if rows != file.rows and not partial:
            raise CacheError(
                f"{cache.path}: expected {file.rows:,} rows of {file.split} as GLUE's, found {rows:,}, which the "
                "leaderboard refuses; embed the whole split, or give `partial=True`"
            )
        return [line for outputs in _outputs(cache, file.split, head) for line in words(file, outputs)]


def _cache_path(file: TestFile, head: "SavedHead", root: Path) -> Path:
    """The cache of a file: the head's own, or for AX one that was encoded as the head's was."""
    about = head.provenance
    folder = root / about["encoder"]
    own = file.task == about["task"]
    names = ("fingerprint",) if own else tuple(n for n in FINGERPRINT if n not in ("task", "source_sha256", "limit"))
    differs = ""
    for path in sorted(folder.glob(f"{file.task}*.h5")):
        with open_cache(path) as cache:
            if cache.attributes["task"] != file.task:
                continue
            found = difference(about, cache.attributes, names)
        if not found:
            return path
        differs = f" ({path.name} has {found})"
    wanted = f"the cache of head {head.id}" if own else f"{file.task} encoded as the cache of head {head.id}"
    raise CacheError(
        f"{folder}: expected {wanted}, found none{differs}; run `python embed.py run {file.task} --encoder "
        f"{about['encoder']}` with the options of the head's, or name another folder with `cache`"
    )


def _outputs(cache: Cache, split: str, head: "SavedHead") -> Iterator[np.ndarray]:
    """Outputs of a split's rows, some at a time."""
    view, config = cache[split], head.config
    for start in range(0, view.rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, view.rows)
        if not np.array_equal(view.read("idx", start, stop), np.arange(start, stop)):
            raise CacheError(f"{view.where}: expected idx from 0 on, found others; embed the split again")
        outputs = head.predict(assemble(config.features, bound(_rows, view, start, stop), config.token_pool))
        if not np.isfinite(outputs).all():
            raise ResultsError(f"head {head.id}: expected finite outputs on {split}, found others; choose another head")
        yield outputs


def _rows(view: SplitView, start: int, stop: int, name: str) -> np.ndarray | Tokens:
    return Tokens(*view[name][start:stop]) if name == TOKENS else np.asarray(view.read(name, start, stop))


def _check_place(place: Path, force: bool) -> None:
    if not place.exists():
        return
    ours = place.is_dir() and {entry.name for entry in place.iterdir()} <= {file.name for file in FILES}
    if not ours:
        raise ConfigError(f"`out` {place}: expected a new folder, found other things there; name another")
    if any(place.iterdir()) and not force:
        raise ConfigError(f"`out` {place}: expected a new folder, found a submission there; `force=True` replaces it")


def _write(place: Path, files: Mapping[str, Sequence[str]], archive: bool) -> str | None:
    """Write all files at once, and a zip of them beside the folder if `archive`; returns the zip's path."""
    packed = place.with_name(f"{place.name}.zip")
    with publish(place, "a submission", own=tuple(file.name for file in FILES)) as work:
        for name, lines in files.items():
            text = "".join(f"{index}\t{line}\n" for index, line in enumerate(lines))
            (work / name).write_text(f"index\tprediction\n{text}", encoding="utf-8")
        if archive:
            with zipfile.ZipFile(work / packed.name, "w", zipfile.ZIP_DEFLATED) as target:
                for name in files:
                    target.write(work / name, name)
            os.replace(work / packed.name, packed)
    return str(packed) if archive else None
