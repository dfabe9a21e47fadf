"""From a task and an encoder to the cache that heads train on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import CacheError, ConfigError, UnknownNameError
from pipeline.fit.tokens import Tokens, pooled_tokens
from pipeline.heads.config import FEATURES, TOKENS
from pipeline.paths import check_name
from pipeline.sources.groups import row_groups
from pipeline.store import Cache, SplitView, open_cache
from pipeline.tasks import TASKS, Task, own_task

if TYPE_CHECKING:
    from pipeline.fit.data import FitData

__all__ = ["CacheRef", "assemble", "find_cache", "load_data", "load_labels"]

#: Folders whose caches are found by their name alone.
NAMED_FOLDERS = ("toy", "import")
DEFAULT_ENCODER = "bert-base-cased"


@dataclass(frozen=True)
class CacheRef:
    """A cache that was opened and checked once: what a sweep needs to name its heads, and to size them.

    `features` are the features that it holds for every split, `widths` how wide each is, `train_rows` the
    rows of the training split.
    """

    path: Path
    task: Task
    encoder: str
    fingerprint: str
    default_feature: str
    features: tuple[str, ...]
    widths: Mapping[str, int]
    train_rows: int
    attributes: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What `--task` calls it: the task's name, with the suffix of options other than the defaults."""
        return self.path.name.removesuffix(".h5")

    @property
    def outputs(self) -> int:
        """Outputs of a head: classes, or 1 for regression."""
        return 1 if self.task.labels is None else len(self.task.labels)

    def feature(self, name: str | None) -> str:
        """The feature that `name` means, the encoder's default for `None`; `UnknownNameError` if it is not stored."""
        name = name or self.default_feature
        if name not in self.features:
            known = name in FEATURES
            hint = f"python embed.py run {self.task.name} --encoder ... --store {name} adds it" if known else ""
            if name == "siamese":
                hint = f"it is that of {self.task.name}.siamese, after python embed.py run ... --pairs siamese"
            raise UnknownNameError(f"feature of {self.path}", name, self.features, hint)
        return name


def find_cache(root: Path, task: str, encoder: str | None) -> CacheRef:
    """The cache of a task under `root`: `<encoder>/<task>.h5`, or by name alone for imported and toy data.

    `task` may carry a cache's suffix (`mrpc.len128`). Raises `CacheError` naming the command that makes the cache.
    """
    file = f"{check_name(task, 'task')}.h5"
    places = [root / folder / file for folder in NAMED_FOLDERS] if encoder is None else []
    places.append(root / _folder(encoder or DEFAULT_ENCODER) / file)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        name = next((known for known in TASKS if task == known or task.startswith(f"{known}.")), task)
        if name not in TASKS and encoder is None:
            raise UnknownNameError(
                "task",
                task,
                tuple(TASKS),
                f"or make its cache in {root}: `python embed.py toy {task}` or `python embed.py import {task} FILE`",
            )
        flag = f" --encoder {encoder}" if encoder else ""
        sample = root / "sample"
        there = (sample / _folder(encoder or DEFAULT_ENCODER) / file).is_file()
        other = f"take the bundled sample's with `cache` {sample}" if there else "name another folder with `cache`"
        raise CacheError(
            f"{task}: expected the cache {places[-1]}, found none; run `python embed.py run {name}{flag}` (or `make "
            f"embed`), or {other}"
        )
    with open_cache(path) as cache:
        attributes = cache.attributes
        labels = attributes["labels"]
        names = cache[cache.splits[0]].names
        pair = "text_pair" in names or "u" in names
        known = TASKS.get(attributes["task"])
        # A task of the user's own may bear a GLUE task's name; its labels tell.
        if known is None or known.labels != (None if labels is None else tuple(labels)):
            known = own_task(attributes["task"], None if labels is None else tuple(labels), pair=pair)
        features = tuple(
            name
            for name, parts in FEATURES.items()
            if all(part in cache[split].names for split in cache.splits for part in parts)
        )
        return CacheRef(
            path=path,
            task=known,
            encoder=attributes["encoder"],
            fingerprint=attributes["fingerprint"],
            default_feature=attributes["default_feature"],
            features=features,
            train_rows=cache["train"].rows if "train" in cache.splits else 0,
            widths={name: _width(cache[cache.splits[0]], name) for name in features},
            # What a saved head must know to take texts; without texts in the cache nothing tells.
            attributes=attributes | {"pair": known.pair if pair or known.rows or "text" in names else None},
        )


def _folder(encoder: str) -> str:
    if Path(encoder).is_dir():
        from pipeline.encode.encoders import resolve

        return resolve(encoder).name
    return check_name(encoder.replace("/", "--"), "encoder")


def _width(split: SplitView, name: str) -> int:
    """How wide a feature is, without reading it."""
    path = f"{TOKENS}/values" if name == TOKENS else FEATURES[name][0]
    width = split.datasets[path].shape[1]
    return 4 * width if name == "siamese" else width


def assemble(name: str, read: Callable[[str], Any], pool: str | None = None) -> np.ndarray | Tokens:
    """Features [rows, inputs] by name, where `read` gives the datasets [rows, ...] that they are made of.

    `siamese` is u, v, |u - v|, u * v side by side (SentEval's pair features). Of `last_hidden`, `read` gives `Tokens`
    or a `Ragged`, and a row is its tokens' `pool`, or these where that trains.
    """
    if name == TOKENS:
        return pooled_tokens(read(name), pool)
    if name != "siamese":
        return np.asarray(read(name))
    u, v = np.asarray(read("u")), np.asarray(read("v"))
    return np.concatenate([u, v, np.abs(u - v), u * v], axis=1)


def load_labels(ref: CacheRef) -> dict[str, np.ndarray]:
    """Labels of a cache's labelled rows by split, `train` among them; splits without labels are left out.

    Raises `CacheError` where there is nothing to train on, or where the file is no longer the one that was found.
    """
    with open_cache(ref.path) as cache:
        return {split: labels[rows] for split, (labels, rows) in _labelled(ref, cache).items()}


def _labelled(ref: CacheRef, cache: Cache) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels of every split that has any, and which of its rows have one."""
    if cache.fingerprint != ref.fingerprint:
        raise CacheError(
            f"{ref.path}: expected the cache of fingerprint {ref.fingerprint[:8]}, found {cache.fingerprint[:8]}; it "
            "was replaced since: run the command again"
        )
    labelled: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in cache.splits:
        labels, rows = np.asarray(cache[split]["label"]), _labelled_rows(ref.task, cache[split])
        if not rows.any():
            continue
        labelled[split] = labels, rows
        if ref.task.labels is not None and labels.max() >= len(ref.task.labels):
            raise ConfigError(
                f"{ref.path}: expected labels below {len(ref.task.labels)} in {split!r}, found {labels.max()}"
            )
    if "train" not in labelled:
        raise CacheError(
            f"{ref.path}: expected labelled rows in the split 'train', found splits {', '.join(cache.splits)}; "
            f"embed the training split too (AX has none: its heads are MNLI's)"
        )
    if len(labelled) < 2:
        raise CacheError(f"{ref.path}: expected a labelled split to report on besides 'train', found none; embed one")
    return labelled


def _labelled_rows(task: Task, split: SplitView) -> np.ndarray:
    """Which rows of a split have a label, bool [rows]."""
    labels = np.asarray(split["label"])
    return ~np.isnan(labels) if task.labels is None else labels >= 0


def load_data(ref: CacheRef, feature: str, scale: str, pool: str | None = None) -> "FitData":
    """Read a cache's labelled rows as scaled embeddings, tokens as their `pool`.

    Raises `CacheError` as `load_labels` does.
    """
    from pipeline.fit.data import FitData, fit_scaling  # imports PyTorch, which finding a cache does without

    features, labels = {}, {}
    with open_cache(ref.path) as cache:
        for split, (values, rows) in _labelled(ref, cache).items():
            labels[split] = values[rows]
            x = assemble(feature, cache[split].__getitem__, pool)
            features[split] = x.select(rows) if isinstance(x, Tokens) else x[rows]
        groups = _train_groups(ref.task, cache["train"])
        groups = None if groups is None else groups[_labelled_rows(ref.task, cache["train"])]
    scaling = fit_scaling(scale, features["train"])
    features = {split: scaling.apply(x) for split, x in features.items()}
    return FitData(ref.task, ref.fingerprint, features, labels, scaling, groups)


def _train_groups(task: Task, train: SplitView) -> np.ndarray | None:
    """The group of every training row, int64 [rows]: as stored, else by the texts, `None` without either."""
    if "group" in train:
        return np.asarray(train["group"])
    if "text" not in train:
        return None
    return row_groups(train["text"], train["text_pair"] if task.pair else None, phrases=task.phrases)
