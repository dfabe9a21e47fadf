"""Vectors made elsewhere as a cache, so that stage two treats them like any task."""

import hashlib
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.encode.arrays import fold
from pipeline.encode.run import EmbedResult, FileResult
from pipeline.encode.session import check_reduced_width
from pipeline.errors import ConfigError
from pipeline.hashing import canonical_json, hash_json
from pipeline.progress import say
from pipeline.sources import check_task_name, read_vectors
from pipeline.sources.toys import ToyOptions, make_toy
from pipeline.store import CacheWriter, missing_datasets
from pipeline.tasks import Task
from pipeline.versions import version

__all__ = ["import_vectors", "write_toy"]

DATASETS = ("idx", "label", "pooled", "reduced")


def import_vectors(
    name: str,
    file: str | Path,
    *,
    label: str = "label",
    split_column: str | None = None,
    features: str | None = None,
    cache: str | Path = "cache",
    reduce_size: int = 8,
    force: bool = False,
) -> EmbedResult:
    """Write `<cache>/import/<name>.h5`: the vectors as `pooled`, their fold as `reduced`, and the labels.

    `file` is an npz or a Parquet file as `pipeline.sources.read_vectors` describes them. Raises a `KanglueError`.
    """
    began = time.perf_counter()
    check_task_name(name)
    if reduce_size < 1:
        raise ConfigError(f"--reduce-size: expected at least 1, found {reduce_size}")
    file = Path(file)
    task, splits = read_vectors(file, name, label=label, split_column=split_column, features=features, say=say)
    path = Path(cache) / "import" / f"{name}.h5"
    return _write(path, task, splits, "import", file.name, {}, reduce_size, force, began)


def write_toy(
    name: str,
    options: ToyOptions,
    *,
    save_as: str | None = None,
    cache: str | Path = "cache",
    force: bool = False,
) -> EmbedResult:
    """Write `<cache>/toy/<name>.h5` (or `<save_as>.h5`): a toy's inputs as `pooled`, their fold to 8 as `reduced`.

    Inputs up to 8 wide are their own fold. The attribute `columns` names them. Raises a `KanglueError`.
    """
    began = time.perf_counter()
    check_task_name(save_as or name)
    toy = make_toy(name, options, say)
    task = replace(toy.task, name=save_as or toy.task.name)
    path = Path(cache) / "toy" / f"{task.name}.h5"
    width = next(iter(toy.splits.values()))[0].shape[1]
    columns = {"columns": canonical_json(toy.columns)} if toy.columns else {}
    return _write(path, task, toy.splits, "toy", toy.source, columns, min(8, width), force, began)


def _write(
    path: Path, task: Task, splits: dict[str, tuple[np.ndarray, np.ndarray]], kind: str, source: str,
    extra: dict[str, str], reduce_size: int, force: bool, began: float,
) -> EmbedResult:  # fmt: skip
    """Write vectors and labels to `path`, unless they are there."""
    name = task.name
    attributes = _attributes(task, splits, kind, source) | extra
    rows = {split: len(x) for split, (x, _) in splits.items()}
    result = FileResult(name, str(path), rows, precision="float32", path=kind)
    if not force and not missing_datasets(path, attributes, rows, DATASETS):
        check_reduced_width(path, DATASETS, reduce_size)
        say(f"{path}: up to date, nothing to do")
        result = FileResult(name, str(path), rows, precision="float32", path=kind, up_to_date=True)
    else:
        widths = {"D": next(iter(splits.values()))[0].shape[1], "m": reduce_size}
        with CacheWriter(path, attributes, rows, DATASETS, widths, force=force) as writer:
            for block in writer.todo():
                x, y = (part[block.start : block.stop] for part in splits[block.split])
                writer.write(block, {
                    "idx": np.arange(block.start, block.stop, dtype=np.int64),
                    "label": y,
                    "pooled": x,
                    "reduced": fold(x, reduce_size),
                })  # fmt: skip
            writer.finish()
        seconds = round(time.perf_counter() - began, 3)
        result = FileResult(
            name, str(path), rows, rows=sum(rows.values()), seconds=seconds, precision="float32", path=kind
        )
    total = round(time.perf_counter() - began, 3)
    return EmbedResult((str(path),), result.rows, 0, 0, total, (result,))


def _attributes(
    task: Task, splits: dict[str, tuple[np.ndarray, np.ndarray]], kind: str, source: str
) -> dict[str, object]:
    """The root attributes; the vectors' hash stands for the encoder that nobody here knows."""
    vectors, labels = hashlib.sha256(), hashlib.sha256()
    for split, (x, y) in splits.items():
        vectors.update(f"{split} {x.shape}\n".encode() + np.ascontiguousarray(x).tobytes())
        labels.update(f"{split} {y.shape}\n".encode() + np.ascontiguousarray(y).tobytes())
    vectors_sha256 = vectors.hexdigest()
    return {
        "task": task.name,
        "labels": None if task.labels is None else list(task.labels),
        "encoder": kind,
        "encoder_sha256": vectors_sha256,
        "config_sha256": hash_json({}),
        "tokenizer_sha256": hash_json({}),
        "max_length": 0,
        "precision": "float32",
        "pairs": "joint",
        "layers": None,
        "limit": None,
        "source": source,
        "source_sha256": hash_json({"vectors": vectors_sha256, "labels": labels.hexdigest()}),
        "default_feature": "pooled",
        "versions": {"python": platform.python_version(), "numpy": version("numpy"), "h5py": version("h5py")},
    }
