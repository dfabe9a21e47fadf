"""What a family's heads say row by row: ensembles of seeds, calibration, confusion, each row's part in the score."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.metrics import confusion_counts, count_metrics, metric_value
from pipeline.sweep.results import Results

__all__ = ["BINS", "RowSummary", "influence", "step_of", "summarise_rows"]

#: Bins of the reliability diagram, of equal width from 0 to 1.
BINS = 10
#: Numbers of outputs held at once while heads are read.
CHUNK_NUMBERS = 1 << 22


@dataclass(frozen=True)
class RowSummary:
    """A line's heads on the labelled rows of its split.

    `mean` [rows, classes] is the mean probability over seeds (the mean value [rows, 1] in regression), `merit` [rows]
    whether that ensemble is right (minus its squared error), `influence` [rows] as below. Of classification: `counts`
    [true, predicted] is the mean confusion over seeds, `error` the mean expected calibration error over seeds (Guo et
    al. 2017, ten bins), and `bins` [3, bins] the rows, summed confidence and right answers in each bin, over all seeds.
    """

    mean: np.ndarray
    merit: np.ndarray
    influence: np.ndarray
    counts: np.ndarray | None
    error: float | None
    bins: np.ndarray | None


def step_of(metric: str, rows: int) -> float:
    """How far one row moves a score, about: Matthews correlation runs from -1 to 1; correlations have no steps."""
    if metric == "pearson_spearmanr" or not rows:
        return 0.0
    return (2 if metric == "matthews_correlation" else 1) / rows


def influence(metric: str, found: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each row's part in a score, averaged over heads: [rows], sums to about 0; its spread over rows gives the error.

    The jackknife's (N - 1) (score - score without the row) for classification (`found` [heads, rows, classes], labels
    as int64), the influence functions of Pearson's correlation of values and of ranks for regression (Devlin,
    Gnanadesikan and Kettenring 1975).
    """
    rows = len(labels)
    if metric == "pearson_spearmanr":
        return np.mean([_correlation_influence(head[:, 0], labels) for head in found], 0)
    classes = found.shape[2]
    predicted = found.argmax(2)
    counts = confusion_counts(predicted, labels, classes).reshape(len(found), -1)
    score = metric_value(count_metrics(counts.reshape(-1, classes, classes)), metric)
    without = counts[:, None] - np.eye(classes**2, dtype=np.int64)
    there = without.min(2) >= 0
    scores = metric_value(count_metrics(np.maximum(without, 0).reshape(-1, classes, classes)), metric)
    part = np.where(there, (rows - 1) * (score[:, None] - scores.reshape(there.shape)), 0.0)
    return np.take_along_axis(part, labels[None] * classes + predicted, 1).mean(0)


def _correlation_influence(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    parts = []
    for x, y in ((values, labels), (rankdata(values), rankdata(labels))):
        x, y = (np.asarray(one, np.float64) for one in (x, y))
        if not x.std() or not y.std():
            parts.append(np.zeros(len(x)))
            continue
        x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
        parts.append(x * y - (x * y).mean() * (x**2 + y**2) / 2)
    return np.mean(parts, 0)


def _softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def _chunks(results: Results, ids: Sequence[str], split: str, size: int) -> Iterator[np.ndarray]:
    step = max(1, CHUNK_NUMBERS // max(size, 1))
    for start in range(0, len(ids), step):
        yield np.stack([results.outputs(one, split) for one in ids[start : start + step]])


def summarise_rows(
    results: Results, ids: Sequence[str], split: str, metric: str, labels: np.ndarray
) -> RowSummary | None:
    """Read the outputs of a line's heads, a bounded number at a time; `None` where they do not fit the labels."""
    first = results.outputs(ids[0], split)
    if len(first) != len(labels):
        return None
    total, part, heads = 0.0, 0.0, len(ids)
    if metric == "pearson_spearmanr":
        for found in _chunks(results, ids, split, first.size):
            total, part = total + found.sum(0), part + influence(metric, found, labels) * len(found)
        mean = np.asarray(total) / heads
        return RowSummary(mean, -((mean[:, 0] - labels) ** 2), np.asarray(part) / heads, None, None, None)
    labels = labels.astype(np.int64)
    counts, errors, bins = 0, 0.0, np.zeros((3, BINS))
    for found in _chunks(results, ids, split, first.size):
        chance = _softmax(found.astype(np.float64))
        total, part = total + chance.sum(0), part + influence(metric, found, labels) * len(found)
        counts = counts + confusion_counts(found.argmax(2), labels, found.shape[2]).sum(0)
        mine = _bins(chance, labels)
        bins += mine.sum(0)
        errors += np.abs(mine[:, 1] - mine[:, 2]).sum() / len(labels)
    mean = np.asarray(total) / heads
    return RowSummary(
        mean, mean.argmax(1) == labels, np.asarray(part) / heads, np.asarray(counts) / heads, errors / heads, bins
    )


def _bins(chance: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[heads, 3, bins]: rows, their summed confidence, their right answers."""
    heads = len(chance)
    confidence, right = chance.max(2), chance.argmax(2) == labels
    cell = np.minimum((confidence * BINS).astype(np.int64), BINS - 1) + np.arange(heads)[:, None] * BINS
    shape = (heads, BINS)
    return np.stack(
        [
            np.bincount(cell.ravel(), weight.ravel(), heads * BINS).reshape(shape)
            for weight in (np.ones_like(confidence), confidence, right.astype(np.float64))
        ],
        1,
    )
