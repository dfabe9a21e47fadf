"""Everything the report shows, read from a results database and, if they are there, its caches and saved heads."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, KanglueError, ResultsError, UnknownNameError
from pipeline.report.contrasts import Setting, compare
from pipeline.report.model import Compared, Disagreement, Findings, ordered
from pipeline.report.ranks import Ranking, rank_families
from pipeline.report.rows import guesses, read_rows
from pipeline.store import Cache, open_cache
from pipeline.sweep.results import Results
from pipeline.sweep.table import Line, summarise

__all__ = ["MARGIN", "gather"]

#: Points within which two families count as equivalent.
MARGIN = 2.0
#: Heads of a line whose learning curves are read.
CURVES = 40
#: Rows on which families disagree that are shown of a setting, and the longest text of one.
DISAGREEMENTS, TEXT = 6, 600


def gather(
    results: Path,
    cache: Path,
    where: Mapping[str, Any] | None = None,
    *,
    baselines: Sequence[str] | None = None,
    margin: float = MARGIN,
    every_pair: bool = False,
) -> Findings:
    """Read it all; caches and saved heads may be missing.

    `margin` is in points (hundredths of a score). Raises `ResultsError` for a file that is no results database,
    `UnknownNameError` for a baseline that no head has, `ConfigError` for a margin below zero.
    """
    if not 0 <= margin < float("inf"):
        raise ConfigError(f"`margin`: expected a number of points of at least 0, found {margin:g}")
    with Results(results) as store:
        lines = summarise(store, where)
        families = ordered({line.head for line in lines})
        for name in baselines or () if lines else ():
            if name not in families:
                raise UnknownNameError(f"baseline in {results}", name, families)
        settings = _settings(lines)
        heads = {head["id"]: head for head in store.heads(where)}
        files = _find_caches(cache, {one.fingerprint for one in settings})
        for one in settings:
            try:
                _fill(one, store, heads, files.get(one.fingerprint))
            except (KanglueError, ValueError, LookupError, ArithmeticError) as error:
                one.problem = str(error) if isinstance(error, KanglueError) else f"{type(error).__name__}: {error}"
        plans, runs = store.plans(), store.runs(line.fingerprint for line in lines)
    _label(settings)
    pooled = _pooled(settings)
    contrasts = compare(
        {
            one.key: Setting(one.task, one.scores, one.guesses, plans.get(one.fingerprint), one.key in pooled)
            for one in settings
        },
        baselines,
        every_pair=every_pair,
    )
    for one in settings:
        one.contrasts = contrasts.of(one.key)
        one.against_guesses = [other for other in contrasts.guesses if other.setting == one.key]
        one.intervals = {family: contrasts.alone[one.key, family] for family in one.scores}
    trained = {id(line.config): line for line in lines}.values()  # a line for each split shares its configuration
    return Findings(
        path=results,
        heads=sum(line.n + line.diverged for line in trained),
        lines=lines,
        settings=settings,
        contrasts=contrasts,
        margin=margin / 100,
        rankings=_rankings([one for one in settings if one.key in pooled]),
        caches={key: attributes for key, (_, attributes) in files.items()},
        files={key: path for key, (path, _) in files.items()},
        runs=runs,
    )


def _settings(lines: Sequence[Line]) -> list[Compared]:
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        if line.split:
            groups.setdefault((*line.place, line.train_rows), []).append(line)
    return [Compared(key, mine, _chosen(mine)) for key, mine in groups.items()]


def _chosen(lines: Sequence[Line]) -> dict[str, Line]:
    """For each family the line that is best on the selection rows, those with several seeds first."""
    best: dict[str, Line] = {}
    for line in lines:
        if line.n and (line.head not in best or _merit(line) > _merit(best[line.head])):
            best[line.head] = line
    return {name: best[name] for name in ordered(set(best))}


def _merit(line: Line) -> tuple[bool, float]:
    return line.n > 1, line.mean if line.selection is None else line.selection


def _pooled(settings: Sequence[Compared]) -> set[tuple[Any, ...]]:
    """Settings that enter means over tasks: of the clean protocol, if there is one, with the most training rows."""
    clean = any(not one.optimistic for one in settings)
    most: dict[tuple[Any, ...], int] = {}
    for one in settings:
        most[one.key[:-1]] = max(one.train_rows, most.get(one.key[:-1], 0))
    return {one.key for one in settings if one.train_rows == most[one.key[:-1]] and not (clean and one.optimistic)}


def _find_caches(root: Path, fingerprints: set[str]) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    """Cache files under `root` by fingerprint; a file that cannot be read is no cache of ours."""
    files: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for path in sorted(root.rglob("*.h5")) if root.is_dir() else ():
        if len(files) == len(fingerprints):
            break
        try:
            with open_cache(path) as cache:
                if cache.fingerprint in fingerprints:
                    files.setdefault(cache.fingerprint, (path, dict(cache.attributes)))
        except (KanglueError, OSError):
            continue
    return files


def _fill(
    one: Compared, store: Results, heads: Mapping[str, Mapping[str, Any]], file: tuple[Path, Mapping[str, Any]] | None
) -> None:
    """Labels, scores by row, curves, coverage and disagreements of a setting."""
    for family, line in one.chosen.items():
        one.curves[family] = _curves(store.curves(line.ids[:CURVES]).values())
        _training(one, family, [heads[head] for head in line.ids])
    one.labels = store.labels(one.fingerprint, one.split)
    if one.labels is None:
        raise ResultsError("its labels are not in the results")
    one.rows = len(one.labels)
    for family, line in one.chosen.items():
        one.scores[family], one.summaries[family] = read_rows(
            store, line.ids, line.seeds, one.split, one.metric, one.labels
        )
    classes = 1 if one.class_names is None else len(one.class_names)
    one.guesses = guesses(one.metric, one.labels, classes, one.lines[0].majority)
    one.disagreements = _disagreements(one, file)


def _training(one: Compared, family: str, heads: Sequence[Mapping[str, Any]]) -> None:
    """Mean coverage of the worst layer, and the share of heads that were still improving, where these are known."""
    layers = [head["coverage"] for head in heads if head["coverage"]]
    if layers:
        worst = [[max(float(layer.get(name) or 0) for layer in mine) for name in ("outside", "dead")]
                 for mine in layers]  # fmt: skip
        one.coverage[family] = tuple(np.mean(worst, 0).tolist())
    known = [head["still_improving"] for head in heads if head["still_improving"] is not None]
    if known:
        one.improving[family] = sum(known) / len(known)


def _labelled(cache: Cache, split: str) -> np.ndarray:
    """Row numbers of a split's labelled rows."""
    if split not in cache:
        return np.arange(0)
    labels = np.asarray(cache[split]["label"])
    return np.flatnonzero(~np.isnan(labels) if labels.dtype.kind == "f" else labels >= 0)


def _curves(heads: Iterable[Sequence[tuple[float | None, ...]]]) -> np.ndarray:
    """[heads, epochs, 3]: training loss, selection loss, selection score; `nan` where a number was not finite."""
    curves = [np.array(curve, float) for curve in heads]
    epochs = min(map(len, curves), default=0)
    return np.array([curve[:epochs] for curve in curves]).reshape(len(curves), epochs, 3)


def _disagreements(one: Compared, file: tuple[Path, Mapping[str, Any]] | None) -> list[Disagreement]:
    """Rows where the families' probabilities of the true label differ most, with their texts if there are any."""
    seen = {name: summary for name, summary in one.summaries.items() if summary.counts is not None}
    if len(seen) < 2:
        return []
    truth = one.labels
    chances = np.array([summary.mean[np.arange(len(truth)), truth] for summary in seen.values()])
    worst = np.argsort(-chances.std(0), kind="stable")[:DISAGREEMENTS]
    texts: dict[int, tuple[str, ...]] = {}
    rows = np.arange(len(truth))
    if file is not None:
        with open_cache(file[0]) as cache:
            labelled = _labelled(cache, one.split)
            if len(labelled) == len(truth):
                rows, view = labelled, cache[one.split]
                names = [name for name in ("text", "text_pair") if name in view]
                for at in worst:
                    row = int(rows[at])
                    texts[at] = tuple(_short(view.read(name, row, row + 1)[0]) for name in names)
    return [
        Disagreement(
            int(rows[at]), texts.get(at, ()), one.class_names[truth[at]] if one.class_names else str(truth[at]),
            dict(zip(seen, map(float, chances[:, at]), strict=True)),
        )
        for at in worst
    ]  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= TEXT else text[:TEXT] + " …"


def _label(settings: Sequence[Compared]) -> None:
    """Name the settings by whatever tells them apart."""
    tasks = {one.cache for one in settings}
    varied = [name for name in ("split", "encoder", "features", "protocol", "source", "train_rows", "fingerprint")
              if len({(one.cache, getattr(one, name)) for one in settings}) > len(tasks)
              or (name == "encoder" and len({one.encoder for one in settings}) > 1)]  # fmt: skip
    if len({one.key[:-1] for one in settings}) == len(settings):
        varied = [name for name in varied if name != "train_rows"]
    without = {tuple(getattr(one, name) for name in ("cache", *varied) if name != "fingerprint") for one in settings}
    if len(without) == len(settings):
        varied = [name for name in varied if name != "fingerprint"]
    for one in settings:
        parts = [
            f"{one.train_rows:,} rows" if name == "train_rows"
            else "published (optimistic)" if name == "protocol" and one.optimistic
            else str(getattr(one, name))[: 8 if name == "fingerprint" else None]
            for name in varied
        ]  # fmt: skip
        if one.optimistic and "protocol" not in varied:
            parts.append("published (optimistic)")
        one.label = " · ".join([one.cache, *parts])


def _rankings(settings: Sequence[Compared]) -> dict[str, Ranking]:
    """A ranking for each encoder and protocol: tasks under different ones are not ranks of the same thing."""
    groups: dict[tuple[str, str], dict[str, list[dict[str, float]]]] = {}
    for one in settings:
        tasks = groups.setdefault((one.encoder, one.protocol), {})
        tasks.setdefault(one.task, []).append({family: line.mean for family, line in one.chosen.items()})
    rankings = {key: rank_families(tasks) for key, tasks in groups.items()}
    return {" · ".join(key): ranking for key, ranking in rankings.items() if ranking is not None}
