"""Everything the report shows, read from a results database and, where they are, its caches and saved heads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import KanglueError
from pipeline.report.model import Disagreement, Findings, Place, ordered
from pipeline.report.ranks import Ranking, rank_families
from pipeline.report.rows import step_of, summarise_rows
from pipeline.report.statistics import Sample, compare
from pipeline.store import Cache, open_cache
from pipeline.sweep.query import query
from pipeline.sweep.results import Results
from pipeline.sweep.table import Line, summarise

__all__ = ["gather"]

#: Heads of a line whose learning curves are read.
CURVES = 40
#: Rows on which families disagree that are shown for a place.
DISAGREEMENTS = 6
#: Longest text that is shown of a row.
TEXT = 600


def _chosen(lines: Sequence[Line]) -> dict[str, Line]:
    """For each family the line that is best on the selection rows, those with several replicates first."""
    best: dict[str, Line] = {}
    for line in lines:
        if line.n and (line.head not in best or _merit(line) > _merit(best[line.head])):
            best[line.head] = line
    return {name: best[name] for name in ordered(set(best))}


def _merit(line: Line) -> tuple[bool, float]:
    return line.n > 1, line.mean if line.selection is None else line.selection


def gather(results: Path, cache: Path, where: Mapping[str, Any] | None = None) -> Findings:
    """Read it all. Raises `ResultsError` for a file that is no results database; caches and heads may be missing."""
    with Results(results) as store:
        lines = summarise(store, where)
        places = _places(lines)
        files = _find_caches(cache, {place.fingerprint for place in places})
        for place in places:
            _fill(place, store, files.get(place.fingerprint))
        _name(places)
        _compare(places)
        counts = query(
            results,
            "SELECT fingerprint, device, versions, count(*), min(created), max(created), sum(fit_seconds) FROM heads "
            "GROUP BY fingerprint, device, versions ORDER BY min(created)",
        )[1]
    names = ("fingerprint", "device", "versions", "heads", "first", "last", "seconds")
    runs = [dict(zip(names, row, strict=True)) for row in counts]
    shown = {line.fingerprint for line in lines}
    trained = {id(line.config): line for line in lines}.values()  # a line for each split shares its configuration
    return Findings(
        path=results,
        heads=sum(line.n + line.diverged for line in trained),
        lines=lines,
        places=places,
        rankings=_rankings(places),
        caches={key: attributes for key, (_, attributes) in files.items()},
        runs=[run for run in runs if run["fingerprint"] in shown],
    )


def _places(lines: Sequence[Line]) -> list[Place]:
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault(line.place, []).append(line)
    return [Place(key, found, _chosen(found)) for key, found in groups.items() if key[-1]]


def _find_caches(root: Path, fingerprints: set[str]) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    """Cache files under `root` by the fingerprints asked for; a file that cannot be read is no cache of ours."""
    found: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for path in sorted(root.rglob("*.h5")) if root.is_dir() else ():
        if len(found) == len(fingerprints):
            break
        try:
            with open_cache(path) as cache:
                if cache.fingerprint in fingerprints:
                    found.setdefault(cache.fingerprint, (path, dict(cache.attributes)))
        except (KanglueError, OSError):
            continue
    return found


def _fill(place: Place, store: Results, file: tuple[Path, Mapping[str, Any]] | None) -> None:
    """Labels, row summaries, curves and disagreements of a place."""
    place.words = place.lines[0].class_names
    place.labels = store.labels(place.fingerprint, place.split)
    place.rows = store.reported_rows().get((place.fingerprint, place.split), 0)
    if place.labels is not None:
        place.rows = len(place.labels)
        for family, line in place.chosen.items():
            summary = summarise_rows(store, line.ids, place.split, place.metric, place.labels)
            if summary is not None:
                place.summaries[family] = summary
    place.chance = _chance(place)
    for family, line in place.chosen.items():
        place.curves[family] = _curves(store.path, line.ids[:CURVES])
    place.disagreements = _disagreements(place, file)


def _labelled(cache: Cache, place: Place) -> np.ndarray:
    """Row numbers of a split's labelled rows."""
    if place.split not in cache:
        return np.arange(0)
    labels = np.asarray(cache[place.split]["label"])
    return np.flatnonzero(~np.isnan(labels) if labels.dtype.kind == "f" else labels >= 0)


def _chance(place: Place) -> float | None:
    """What guessing every class equally often scores."""
    classes = next((s.counts.shape[0] for s in place.summaries.values() if s.counts is not None), 0)
    if place.metric in ("matthews_correlation", "pearson_spearmanr"):
        return 0.0
    if place.metric == "accuracy" and (classes or place.words):
        return 1 / (classes or len(place.words))
    if place.metric == "f1" and place.labels is not None:
        share = float((place.labels == 1).mean())
        return share / (share + 0.5)
    return None


def _curves(path: Path, ids: Sequence[str]) -> np.ndarray:
    """[heads, epochs, 3]: training loss, selection loss, selection score; `nan` where a number was not finite."""
    places = ", ".join("?" * len(ids))
    rows = query(
        path,
        "SELECT head_id, epoch, training_loss, selection_loss, selection_score FROM curves "
        f"WHERE head_id IN ({places}) ORDER BY head_id, epoch",
        ids,
    )[1]
    heads: dict[str, list[tuple[float, ...]]] = {}
    for head, _, *numbers in rows:
        heads.setdefault(head, []).append(tuple(np.nan if one is None else one for one in numbers))
    epochs = min(map(len, heads.values()), default=0)
    return np.array([one[:epochs] for one in heads.values()], float).reshape(len(heads), epochs, 3)


def _disagreements(place: Place, file: tuple[Path, Mapping[str, Any]] | None) -> list[Disagreement]:
    """Rows where the families' probabilities of the right label lie furthest apart, with texts where there are any."""
    seen = {name: summary for name, summary in place.summaries.items() if summary.counts is not None}
    if len(seen) < 2 or place.labels is None:
        return []
    truth = place.labels.astype(np.int64)
    chances = np.array([summary.mean[np.arange(len(truth)), truth] for summary in seen.values()])
    worst = np.argsort(-chances.std(0), kind="stable")[:DISAGREEMENTS]
    texts: dict[int, tuple[str, ...]] = {}
    rows = np.arange(len(truth))
    if file is not None:
        with open_cache(file[0]) as cache:
            found = _labelled(cache, place)
            if len(found) == len(truth):
                rows, view = found, cache[place.split]
                names = [name for name in ("text", "text_pair") if name in view]
                for at in worst:
                    row = int(rows[at])
                    texts[at] = tuple(_short(view.read(name, row, row + 1)[0]) for name in names)
    return [
        Disagreement(
            int(rows[at]), texts.get(at, ()), place.words[truth[at]] if place.words else str(truth[at]),
            dict(zip(seen, map(float, chances[:, at]), strict=True)),
        )
        for at in worst
    ]  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= TEXT else text[:TEXT] + " …"


def _name(places: Sequence[Place]) -> None:
    """Label the places with whatever tells them apart."""
    varied = [name for name in ("split", "encoder", "features", "protocol", "source", "fingerprint")
              if len({(place.task, getattr(place, name)) for place in places}) > len({place.task for place in places})
              or (name == "encoder" and len({place.encoder for place in places}) > 1)]  # fmt: skip
    for place in places:
        parts = [getattr(place, name)[: 8 if name == "fingerprint" else None] for name in varied]
        if place.optimistic and "protocol" not in varied:
            parts.append("published")
        place.label = " · ".join([place.cache, *parts]).replace("published", "published (optimistic)")


def _compare(places: Sequence[Place]) -> None:
    samples = {
        place.key: [
            Sample(
                family, line.seeds, line.scores,
                *((place.summaries[family].merit, place.summaries[family].influence)
                  if family in place.summaries else (None, None)),
            )
            for family, line in place.chosen.items()
        ]
        for place in places
    }  # fmt: skip
    found = compare(samples, {place.key: step_of(place.metric, place.rows) for place in places})
    for place in places:
        place.comparisons = [one for one in found if one.place == place.key]


def _rankings(places: Sequence[Place]) -> dict[str, Ranking]:
    """One ranking for each encoder and protocol: tasks under different ones are not ranks of the same thing."""
    groups: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    for place in places:
        tasks = groups.setdefault((place.encoder, place.protocol), {})
        scores = tasks.setdefault(place.task, {})
        for family, line in place.chosen.items():
            scores.setdefault(family, []).append(line.mean)
    found = {key: rank_families(tasks) for key, tasks in groups.items()}
    return {" · ".join(key): ranking for key, ranking in found.items() if ranking is not None}
