"""Small made-up tasks for stage two: as arrays in memory, and as cache files."""

import hashlib

import numpy as np

from pipeline.fit.data import FitData, fit_scaling
from pipeline.store import CacheWriter
from pipeline.tasks import TASKS, own_task

CLASSES = ("no", "yes", "maybe")


def made_up(rows, width, kind, seed=0):
    """Features [rows, width] and labels [rows] of a rule: `sum` (a plane), `xor`, `three` classes, or `number`."""
    rng = np.random.default_rng((seed, rows, width))
    x = rng.normal(size=(rows, width)).astype(np.float32)
    noise = rng.normal(size=rows)
    if kind == "sum":
        return x, (x[:, 0] + x[:, 1] + 0.5 * noise > 0.3).astype(np.int64)
    if kind == "xor":
        return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    if kind == "three":
        return x, np.digitize(x[:, 0] + 0.3 * noise, (-0.5, 0.5)).astype(np.int64)
    return x, (50 + 10 * (x[:, 0] - x[:, 1] ** 2) + noise).astype(np.float32)


def task_of(kind):
    return own_task(kind, {"three": CLASSES, "number": None}.get(kind, CLASSES[:2]), pair=False)


def fit_data(kind="sum", rows=200, width=6, scale="standard", seed=0):
    """A made-up task as packs train on it: `rows` training rows and a hundred to report on."""
    x, y = made_up(rows + 100, width, kind, seed)
    scaling = fit_scaling(scale, x[:rows])
    features = {"train": scaling.apply(x[:rows]), "validation": scaling.apply(x[rows:])}
    return FitData(task_of(kind), "0" * 64, features, {"train": y[:rows], "validation": y[rows:]}, scaling)


def write_cache(
    root, task="rte", encoder="tiny", kind="sum", width=16, rows=None, features=("pooled", "mean"), seed=0, labels=None,
    encoder_seed=0, replace=False, tokens=False,
):  # fmt: skip
    """A cache file `<encoder>/<task>.h5` under `root`, with unlabelled test splits; returns its path.

    `encoder_seed` stands for another encoder of the same name; `replace` writes over a file that is there. With
    `tokens` there is `last_hidden`: 1 to 7 tokens a row, one of which holds the row's features and a large last value.
    """
    rows = {"train": 200, "validation": 80, "test": 20} if rows is None else rows
    if labels is None:
        labels = TASKS[task].labels if task in TASKS else task_of(kind).labels
    sha = hashlib.sha256(f"{task} {encoder} {kind} {width} {rows} {seed}".encode()).hexdigest()
    made_by = hashlib.sha256(f"{encoder} {encoder_seed}".encode()).hexdigest()
    attributes = {
        "task": task, "labels": None if labels is None else list(labels), "encoder": encoder,
        "encoder_sha256": made_by, "config_sha256": made_by, "tokenizer_sha256": made_by,
        "max_length": 128, "precision": "float32", "pairs": "joint",
        "layers": None, "limit": None, "source": "synthetic", "source_sha256": sha, "default_feature": features[0],
        "versions": {"numpy": np.__version__},
    }  # fmt: skip
    x, y = made_up(sum(rows.values()), width, kind, seed)
    starts = dict(zip(rows, np.cumsum([0, *rows.values()]), strict=False))
    path = root / encoder / f"{task}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("idx", "label", "length", *features, *(("last_hidden",) if tokens else ()))
    lengths = (
        np.random.default_rng(seed).integers(1, 8, len(x)).astype(np.int32) if tokens else np.full(len(x), 7, "i4")
    )
    with CacheWriter(path, attributes, rows, names, {"D": width}, force=replace) as writer:
        for block in writer.todo():
            at = slice(starts[block.split] + block.start, starts[block.split] + block.stop)
            hidden = np.full(block.rows, np.nan if labels is None else -1, y.dtype)
            arrays = {
                "idx": np.arange(block.start, block.stop, dtype=np.int64),
                "label": hidden if block.split.startswith("test") else y[at],
                "length": lengths[at],
            }
            if tokens:
                arrays["last_hidden"] = np.concatenate(
                    [_tokens_of(*one) for one in zip(x[at], lengths[at], strict=True)]
                )
            writer.write(block, arrays | {name: x[at] * (1 + place) for place, name in enumerate(features)})
        writer.finish()
    return path


def _tokens_of(row, length):
    rng = np.random.default_rng((int(abs(row[0]) * 1e6), length))
    values = rng.normal(scale=0.5, size=(length, len(row))).astype(np.float16)
    values[:, -1] = 0
    at = rng.integers(length)
    values[at], values[at, -1] = row, 3 + rng.random()
    return values


def arrays_of(path, split, feature="pooled"):
    """One feature and the labels of a split, as the cache file holds them."""
    from pipeline.store import open_cache

    with open_cache(path) as cache:
        return np.asarray(cache[split][feature]), np.asarray(cache[split]["label"])
