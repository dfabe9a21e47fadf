"""The report's inference for anyone's predictions row by row: `fit_heads.py compare`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, SourceError, UnknownNameError
from pipeline.metrics import METRICS
from pipeline.report.contrasts import Contrasts, Setting, compare, contrast_table
from pipeline.report.inference import Scores
from pipeline.report.rows import guesses
from pipeline.report.verdict import interval
from pipeline.sources.tables import open_table
from pipeline.tasks import TASKS

__all__ = ["compare_files", "describe"]

_REQUIRED = ("id", "label")
_OPTIONAL = ("prediction", "scores", "seed", "task")
#: Columns of scores a class begin with this, and go on with the class.
_SCORE = "score_"


@dataclass
class _System:
    """One file: by task and seed (0 where there is none), the rows in the file's order."""

    name: str
    path: Path
    seeded: bool
    rows: dict[str, dict[int, dict[str, tuple[Any, Any]]]]


def compare_files(
    files: Sequence[str | Path],
    *,
    metric: str | None = None,
    baseline: Sequence[str] | None = None,
    margin: float = 2.0,
    all_pairs: bool = False,
) -> dict[str, Any]:
    """Compare systems by their predictions, a file each, as a plain document.

    A file (CSV, JSON lines, Parquet) has columns `id`, `label` and `prediction`, or `scores` (a list) or `score_CLASS`
    (numbers), whose largest is the prediction; perhaps `seed` and `task`. Without seeds intervals are over new rows
    alone, for these very predictions. Raises `SourceError` for rows, labels or columns that do not fit together.
    """
    if len(files) < 2:
        raise ConfigError(f"compare: expected at least two files of predictions, found {len(files)}")
    if not 0 <= margin < math.inf:
        raise ConfigError(f"`margin`: expected a number of points of at least 0, found {margin:g}")
    if metric is not None and metric not in METRICS:
        raise UnknownNameError("metric", metric, tuple(METRICS))
    paths = [Path(path) for path in files]
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise ConfigError("compare: expected different files, found one of them twice")
    for name in baseline or ():
        if name not in names:
            raise UnknownNameError("baseline among the files", name, tuple(names))
    systems = [_read(path, name) for path, name in zip(paths, names, strict=True)]
    tasks = list(dict.fromkeys(task for system in systems for task in system.rows))
    settings, metrics = {}, {}
    for task in tasks:
        settings[task], metrics[task] = _setting(task, systems, metric)
    contrasts = compare(settings, baseline or names[:1], every_pair=all_pairs)
    if not contrasts.planned:
        raise SourceError(f"compare: expected a task that two files share, found {', '.join(tasks)}")
    labels = {task: task for task in tasks}
    return {
        "systems": names,
        "tasks": {task: {"metric": metrics[task], "rows": _rows(settings[task])} for task in tasks},
        "baselines": list(contrasts.baselines),
        "margin": margin,
        "scores": _scores(contrasts, settings, metrics),
        "means": contrast_table(contrasts.means, labels, margin / 100),
        "differences": contrast_table(contrasts.planned, labels, margin / 100),
        "guesses": contrast_table(contrasts.guesses, labels, margin / 100),
        "sentences": _sentences(contrasts, margin),
    }


def _rows(setting: Setting) -> int:
    return next(iter(setting.scores.values())).influence.shape[1]


def _read(path: Path, name: str) -> _System:
    table = open_table(path)
    for column in _REQUIRED:
        if column not in table.columns:
            raise SourceError(f"{path}: expected a column {column!r}, found {', '.join(table.columns)}")
    scores = [column for column in table.columns if column.startswith(_SCORE)]
    if "prediction" not in table.columns and "scores" not in table.columns and len(scores) < 2:
        raise SourceError(
            f"{path}: expected a column 'prediction', 'scores', or a column {_SCORE}CLASS for each class, found "
            f"{', '.join(table.columns)}"
        )
    known = [column for column in (*_REQUIRED, *_OPTIONAL) if column in table.columns]
    rows: dict[str, dict[int, dict[str, tuple[Any, Any]]]] = {}
    for where, values in table.records([*known, *scores]):
        record = dict(zip(known, values, strict=False))
        task, key = _word(record.get("task")) or "rows", _word(record["id"])
        mine = rows.setdefault(task, {}).setdefault(_seed(record.get("seed"), where), {})
        if not key or key in mine:
            raise SourceError(f"{where}: expected a row id once for each task and seed, found {key or 'none'!r} again")
        mine[key] = record["label"], _answer(record, scores, values[len(known) :], where)
    if not rows:
        raise SourceError(f"{path}: expected at least one row of predictions, found none")
    return _System(name, path, "seed" in table.columns, rows)


def _word(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _seed(value: Any, where: str) -> int:
    try:
        return 0 if value is None else int(value)
    except (TypeError, ValueError):
        raise SourceError(f"{where}: expected a whole number in column 'seed', found {value!r}") from None


def _answer(record: Mapping[str, Any], names: Sequence[str], scores: Sequence[Any], where: str) -> Any:
    """What was predicted: a class name or value, or the number of the largest score as an `int`-keyed list."""
    if "prediction" in record:
        return record["prediction"]
    try:
        if "scores" in record:
            import json

            values = record["scores"]
            values = [float(value) for value in (json.loads(values) if isinstance(values, str) else values)]
            return {"class": int(np.argmax(values))}
        return names[int(np.argmax([float(value) for value in scores]))].removeprefix(_SCORE)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{where}: expected a number for every class in the scores, found {error}") from None


def _setting(task: str, systems: Sequence[_System], metric: str | None) -> tuple[Setting, str]:
    """All systems on one task, in the rows of the first that has it."""
    mine = [system for system in systems if task in system.rows]
    first = next(iter(mine[0].rows[task].values()))
    ids = list(first)
    words = [_word(label) for label, _ in first.values()]
    if not all(words):
        raise SourceError(f"{mine[0].path}: expected a label for every row, found none for {ids[words.index('')]!r}")
    numbers = _numbers(words)
    known = TASKS.get(task)
    if (
        metric is None
        and known is not None
        and (numbers is not None if known.labels is None else not _fractional(numbers))
    ):
        metric = known.main_metric
    regression = not METRICS[metric].classification if metric else _fractional(numbers)
    metric = metric or ("r2" if regression else "accuracy")
    if regression and numbers is None:
        raise SourceError(f"{mine[0].path}: expected numbers as labels for {metric}, found {words[0]!r}")
    classes = [] if regression else _classes(words)
    labels = numbers if regression else np.array([classes.index(word) for word in words])
    scores = {}
    for system in mine:
        predicted = [_predicted(system, task, seed, ids, words, classes, regression) for seed in system.rows[task]]
        seeds = tuple(system.rows[task]) if system.seeded else ()
        scores[system.name] = _scored(metric, np.stack(predicted), labels, max(len(classes), 1), seeds)
    floors = guesses(metric, labels, max(len(classes), 1), _majority(metric, labels, classes))
    return Setting(task, scores, floors), metric


def _numbers(words: Sequence[str]) -> np.ndarray | None:
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _fractional(numbers: np.ndarray | None) -> bool:
    return numbers is not None and bool((numbers != numbers.round()).any())


def _classes(words: Sequence[str]) -> list[str]:
    """The classes in order: by number where they are numbers (`1` and `1.0` are one class), else by name."""
    found = sorted(set(words))
    return sorted(found, key=float) if _numbers(found) is not None else found


def _majority(metric: str, labels: np.ndarray, classes: Sequence[str]) -> float | None:
    if not classes:
        return None
    guess = np.full((1, len(labels)), np.bincount(labels).argmax())
    return float(METRICS[metric].score(guess, labels, len(classes))[0])


def _scored(metric: str, predicted: np.ndarray, labels: np.ndarray, classes: int, seeds: tuple[int, ...]) -> Scores:
    record = METRICS[metric]
    sign = 1 if record.higher_is_better else -1
    score, influence = (sign * one(predicted, labels, classes) for one in (record.score, record.influence))
    return Scores(seeds, score, influence, record.step / len(labels))


def _predicted(
    system: _System,
    task: str,
    seed: int,
    ids: Sequence[str],
    words: Sequence[str],
    classes: list[str],
    regression: bool,
) -> np.ndarray:
    """A system's predictions for one seed, in the order of `ids`: class numbers, or values."""
    rows = system.rows[task][seed]
    where = f"{system.path}, task {task}" + (f", seed {seed}" if system.seeded else "")
    missing, more = [key for key in ids if key not in rows], len(rows) - len(ids)
    if missing or more:
        found = f"none for {missing[0]!r}" if missing else f"{more} more"
        raise SourceError(f"{where}: expected predictions for the same {len(ids)} rows as the others, found {found}")
    for key, word in zip(ids, words, strict=True):
        if _word(rows[key][0]) != word:
            raise SourceError(f"{where}: expected label {word!r} of row {key!r} as elsewhere, found {rows[key][0]!r}")
    answers = [rows[key][1] for key in ids]
    if regression:
        values = _numbers([_word(answer) for answer in answers])
        if values is None:
            raise SourceError(f"{where}: expected a finite number as every prediction")
        return values
    return np.array([_class_of(answer, classes, where) for answer in answers])


def _class_of(answer: Any, classes: list[str], where: str) -> int:
    if isinstance(answer, dict):
        number = answer["class"]
        if number >= len(classes):
            raise SourceError(f"{where}: expected scores of {len(classes)} classes, found more")
        return number
    word = _word(answer)
    if word not in classes:
        # A class that no row has may be predicted; it is wrong everywhere.
        raise SourceError(f"{where}: expected predictions among the labels {', '.join(classes[:8])}, found {word!r}")
    return classes.index(word)


def _scores(contrasts: Contrasts, settings: Mapping[str, Setting], metrics: Mapping[str, str]) -> list[dict[str, Any]]:
    found = []
    for (task, name), one in contrasts.alone.items():
        sign = 1 if METRICS[metrics[task]].higher_is_better else -1
        low, high = sorted((sign * one.low, sign * one.high))
        found.append({
            "task": task, "system": name, "seeds": len(settings[task].scores[name].seeds), "score": sign * one.value,
            "low": None if math.isnan(low) else low, "high": None if math.isnan(high) else high,
        })  # fmt: skip
    return found


def _sentences(contrasts: Contrasts, margin: float) -> list[str]:
    """A sentence for each mean over tasks, then for each difference."""
    sentences = []
    for one in (*contrasts.means, *contrasts.planned):
        where = f"over {len(one.tasks)} tasks" if one.setting is None else f"on {one.setting}"
        over = "new rows" if one.estimate.seeds == 0 and one.setting is not None else "new seeds and rows"
        word = one.estimate.word(margin / 100)
        more = f" within {margin:g} points" if word == "equivalent" else ""
        if math.isnan(one.estimate.low):
            sentences.append(f"{one.first} - {one.second}: no interval {where}: fewer than two shared seeds")
        else:
            sentences.append(
                f"{one.first} - {one.second}: {interval(one.estimate)} points {where}, over {over}: {word}{more}"
            )
    return sentences


def describe(document: Mapping[str, Any]) -> str:
    """The document in a few lines for a terminal."""
    lines = []
    for task, about in document["tasks"].items():
        lines.append(f"{task}: {about['metric']}, {about['rows']:,} rows")
        for one in document["scores"]:
            if one["task"] == task:
                ends = "" if one["low"] is None else f" [{one['low']:.4f}, {one['high']:.4f}]"
                seeds = f", {one['seeds']} seeds" if one["seeds"] else ""
                lines.append(f"  {one['system']}: {one['score']:.4f}{ends}{seeds}")
    planned = len(document["differences"])
    together = f"intervals of all {planned} comparisons hold together at 95%" if planned > 1 else "interval at 95%"
    return "\n".join([*lines, *document["sentences"], together])
