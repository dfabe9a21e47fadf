"""GLUE's metrics for many heads at once, from counts over a whole split, never from averages of batches.

scikit-learn has each of these for one head at a time; a sweep needs them for a thousand heads after every epoch, so
they are computed here along a leading head axis (and tested against scikit-learn and SciPy). `METRICS` has one record a
metric with all that selection, tables and the report need to know of it: a new metric is one more entry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "METRICS",
    "Metric",
    "classification_metrics",
    "confusion_counts",
    "count_metrics",
    "metric_value",
    "regression_metrics",
]


def confusion_counts(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Confusion counts [heads, true class, predicted class] from predictions [heads, rows] and labels [rows].

    Labels may differ from head to head [heads, rows], here and below.
    """
    heads = len(predicted)
    cell = labels * classes + predicted
    cell = cell + np.arange(heads)[:, None] * classes * classes
    return np.bincount(cell.ravel(), minlength=heads * classes**2).reshape(heads, classes, classes)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, 0 where the bottom is 0: the convention of GLUE's scikit-learn metrics."""
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=bottom != 0)


def classification_metrics(predicted: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Accuracy, Matthews correlation and, for two classes, F1 of class 1; each [heads].

    `predicted` is [heads, rows] and `labels` [rows], both class numbers; every row must be labelled.
    Matthews correlation for any number of classes after Gorodkin (2004), as scikit-learn computes it.
    """
    return count_metrics(confusion_counts(predicted, labels, classes))


def count_metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of :func:`classification_metrics` from confusion counts [heads, true class, predicted class]."""
    counts = counts.astype(np.float64)
    total = counts.sum((1, 2))
    right = np.trace(counts, axis1=1, axis2=2)
    true, guessed = counts.sum(2), counts.sum(1)
    covariance = right * total - (true * guessed).sum(1)
    spread = np.sqrt((total**2 - (true**2).sum(1)) * (total**2 - (guessed**2).sum(1)))
    found = {"accuracy": _ratio(right, total), "matthews_correlation": _ratio(covariance, spread)}
    if counts.shape[1] == 2:
        hits = counts[:, 1, 1]
        found["f1"] = _ratio(2 * hits, true[:, 1] + guessed[:, 1])
    return found


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row of a [heads, rows] with b, [rows] or a row each; 0 where either does not vary."""
    a = a - a.mean(-1, keepdims=True)
    b = b - b.mean(-1, keepdims=True)
    return _ratio((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


def regression_metrics(predicted: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Pearson, Spearman, root of the mean squared error and R2; each [heads].

    `predicted` is [heads, rows], `labels` [rows], in the task's own units.
    """
    from scipy.stats import rankdata

    predicted, labels = predicted.astype(np.float64), labels.astype(np.float64)
    error = ((predicted - labels) ** 2).mean(1)
    spread = np.broadcast_to(labels.var(-1), len(predicted))
    return {
        "pearson": _correlation(predicted, labels),
        "spearmanr": _correlation(rankdata(predicted, axis=1), rankdata(labels, axis=-1)),
        "rmse": np.sqrt(error),
        # Against labels that do not vary only a perfect prediction explains anything (as in scikit-learn).
        "r2": np.where(spread > 0, 1 - _ratio(error, spread), error == 0),
    }


def metric_value(metrics: dict[str, float] | dict[str, np.ndarray], name: str) -> float | np.ndarray:
    """One metric by name; `pearson_spearmanr` is the mean of the two, as GLUE scores STS-B."""
    parts: Sequence[str] = ("pearson", "spearmanr") if name == "pearson_spearmanr" else (name,)
    return sum(metrics[part] for part in parts) / len(parts)


@dataclass(frozen=True)
class Metric:
    """One metric.

    `score` takes predictions [heads, rows] (class numbers, or values in the task's units), labels [rows] and the number
    of classes, and returns [heads]. `influence` takes the same and returns [heads, rows]: how much each row moves the
    score, times the number of rows, so that the mean over rows is about 0 and the standard error of the score over new
    rows is the standard deviation over sqrt(rows). `chance` takes labels and classes and returns what guessing scores
    (every class equally often; the labels' mean in regression) and that guess's influence [rows]. `step` is how far
    one row moves a score, times the number of rows; 0 for scores without steps. `lowest` and `highest` bound a score.
    """

    name: str
    classification: bool
    score: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    influence: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    chance: Callable[[np.ndarray, int], tuple[float, np.ndarray]]
    step: float = 0.0
    lowest: float = 0.0
    highest: float = 1.0
    higher_is_better: bool = True


def _from_counts(name: str, step: float, lowest: float = 0.0) -> Metric:
    """A metric of confusion counts; its influence is the jackknife's, (rows - 1) (score - score without the row)."""

    def of(counts: np.ndarray) -> np.ndarray:
        return count_metrics(counts)[name]

    def score(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
        return of(confusion_counts(predicted, labels, classes))

    def influence(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
        counts = confusion_counts(predicted, labels, classes)
        heads, cells = len(counts), classes**2
        without = counts.reshape(heads, 1, cells) - np.eye(cells, dtype=np.int64)
        there = without.min(2) >= 0  # only cells with a row can lose one
        scores = of(np.maximum(without, 0).reshape(-1, classes, classes)).reshape(heads, cells)
        moved = np.where(there, (len(labels) - 1) * (of(counts)[:, None] - scores), 0.0)
        return np.take_along_axis(moved, labels * classes + predicted, 1)

    def chance(labels: np.ndarray, classes: int) -> tuple[float, np.ndarray]:
        expected = np.bincount(labels, minlength=classes)[:, None] / np.full(classes, classes)
        without = expected - np.eye(classes)[:, :, None] / classes
        whole = float(of(expected[None])[0])
        return whole, ((len(labels) - 1) * (whole - of(np.maximum(without, 0))))[labels]

    return Metric(name, True, score, influence, chance, step, lowest)


def _standardised(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    values = values - values.mean(-1, keepdims=True)
    return _ratio(values, np.broadcast_to(values.std(-1, keepdims=True), values.shape))


def _pearson_influence(predicted: np.ndarray, labels: np.ndarray, classes: int = 1) -> np.ndarray:  # noqa: ARG001
    """The influence function of Pearson's correlation (Devlin, Gnanadesikan and Kettenring 1975)."""
    x, y = _standardised(predicted), _standardised(labels)
    products = x * y
    return products - products.mean(-1, keepdims=True) * (x**2 + y**2) / 2


def _spearman_influence(predicted: np.ndarray, labels: np.ndarray, classes: int = 1) -> np.ndarray:  # noqa: ARG001
    """That of Pearson's correlation of ranks: a row counts by its own ranks and by those that it shifts."""
    from scipy.stats import rankdata

    x, move_x = _ranked(predicted, rankdata)
    y, move_y = _ranked(labels[None], rankdata)
    products = x * y
    spreads = x**2 + 2 * move_x(x) + y**2 + 2 * move_y(y)
    influence = products + move_x(y) + move_y(x) - products.mean(1, keepdims=True) * spreads / 2
    return influence - influence.mean(1, keepdims=True)


def _ranked(values: np.ndarray, rankdata: Callable[..., np.ndarray]) -> tuple[np.ndarray, Callable[..., np.ndarray]]:
    """Standardised ranks, and what a row adds to their mean product with something by raising the ranks above it.

    A row raises larger ones by 1 and its equals by 1/2.
    """
    ranks, rows = rankdata(values, axis=1), values.shape[1]
    first, last = (rankdata(values, method, axis=1).astype(np.int64) for method in ("min", "max"))
    order, spread = np.argsort(values, 1, kind="stable"), ranks.std(1, keepdims=True)

    def moved(others: np.ndarray) -> np.ndarray:
        others = np.broadcast_to(others, (max(len(others), len(values)), rows))
        at = np.broadcast_to(order, others.shape)
        sums = np.concatenate([np.zeros((len(others), 1)), np.take_along_axis(others, at, 1).cumsum(1)], 1)
        below, upto = (np.take_along_axis(sums, np.broadcast_to(k, others.shape), 1) for k in (first - 1, last))
        return _ratio(sums[:, -1:] - (below + upto) / 2, np.broadcast_to(spread, others.shape))

    return _standardised(ranks), moved


def _errors(predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Squared errors [heads, rows] and their means [heads, 1]; squared deviations of labels [rows] and their mean."""
    labels = labels.astype(np.float64)
    errors, spread = (predicted - labels) ** 2, (labels - labels.mean()) ** 2
    return errors, errors.mean(1, keepdims=True), spread, float(spread.mean())


def _r2_influence(predicted: np.ndarray, labels: np.ndarray, classes: int = 1) -> np.ndarray:  # noqa: ARG001
    errors, error, spread, variance = _errors(predicted, labels)
    if not variance:
        return np.zeros(predicted.shape)
    return (error * spread / variance - errors) / variance


def _rmse_influence(predicted: np.ndarray, labels: np.ndarray, classes: int = 1) -> np.ndarray:  # noqa: ARG001
    errors, error, _, _ = _errors(predicted, labels)
    return _ratio(errors - error, 2 * np.sqrt(np.broadcast_to(error, errors.shape)))


def _of_values(name: str, influence: Callable[..., np.ndarray], lowest: float, *, falling: bool = False) -> Metric:
    def score(predicted: np.ndarray, labels: np.ndarray, classes: int = 1) -> np.ndarray:  # noqa: ARG001
        return np.asarray(metric_value(regression_metrics(predicted, labels), name))

    def chance(labels: np.ndarray, classes: int = 1) -> tuple[float, np.ndarray]:  # noqa: ARG001
        guess = np.full((1, len(labels)), labels.astype(np.float64).mean())
        if name == "rmse":
            return float(score(guess, labels)[0]), influence(guess, labels)[0]
        return 0.0, np.zeros(len(labels))

    highest = np.inf if falling else 1.0
    return Metric(name, False, score, influence, chance, 0.0, lowest, highest, not falling)


def _both_influences(predicted: np.ndarray, labels: np.ndarray, classes: int = 1) -> np.ndarray:
    return (_pearson_influence(predicted, labels, classes) + _spearman_influence(predicted, labels, classes)) / 2


#: Every metric that can be a task's main one, by name.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _from_counts("accuracy", 1.0),
        _from_counts("f1", 1.0),
        _from_counts("matthews_correlation", 2.0, -1.0),
        _of_values("pearson", _pearson_influence, -1.0),
        _of_values("spearmanr", _spearman_influence, -1.0),
        _of_values("pearson_spearmanr", _both_influences, -1.0),
        _of_values("r2", _r2_influence, -np.inf),
        _of_values("rmse", _rmse_influence, 0.0, falling=True),
    )
}
