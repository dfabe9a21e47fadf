"""GLUE's metrics for many heads at once, from counts over a whole split, never from averages of batches.

scikit-learn has each of these for one head at a time; a sweep needs them for a thousand heads after every epoch, so
they are computed here along a leading head axis (and tested against scikit-learn and SciPy).
"""

from collections.abc import Sequence

import numpy as np

__all__ = [
    "METRICS",
    "classification_metrics",
    "confusion_counts",
    "count_metrics",
    "metric_value",
    "regression_metrics",
]

METRICS = ("accuracy", "f1", "matthews_correlation", "pearson", "spearmanr", "rmse", "r2")


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
