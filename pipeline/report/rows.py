"""What a family's heads say row by row: their scores with each row's influence, confusion, calibration."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.metrics import METRICS, confusion_counts
from pipeline.report.inference import Scores, constant
from pipeline.sweep.results import Results

__all__ = ["BINS", "RowSummary", "guesses", "read_rows"]

#: Bins of the reliability diagram, of equal width from 0 to 1.
BINS = 10
#: Numbers of outputs held at once while heads are read.
CHUNK_NUMBERS = 1 << 22


@dataclass(frozen=True)
class RowSummary:
    """A line's heads on the labelled rows of its split.

    `mean` [rows, classes] is the mean probability over seeds (the mean value [rows, 1] in regression). Of
    classification: `counts` [true, predicted] is the mean confusion over seeds, `error` the mean expected calibration
    error over seeds (Guo et al. 2017, ten bins), and `bins` [3, bins] the rows, summed confidence and correct answers
    in each bin, over all seeds.
    """

    mean: np.ndarray
    counts: np.ndarray | None = None
    error: float | None = None
    bins: np.ndarray | None = None


def read_rows(
    results: Results, ids: Sequence[str], seeds: Sequence[int], split: str, metric: str, labels: np.ndarray
) -> tuple[Scores, RowSummary]:
    """Scores and row summary of a line's heads, whose outputs are read a bounded number at a time.

    Raises `ValueError` where outputs and labels differ in their rows.
    """
    shape = results.outputs(ids[0], split).shape
    if shape[0] != len(labels):
        raise ValueError(f"expected outputs for {len(labels)} labelled rows, found {shape[0]}")
    record, classes, influence, total = METRICS[metric], shape[1], [], 0.0
    scores: list[np.ndarray] = []
    counts, errors, bins = 0, 0.0, np.zeros((3, BINS))
    for outputs in _chunks(results, ids, split, shape[0] * shape[1]):
        predicted = outputs.argmax(2) if record.classification else outputs[:, :, 0].astype(np.float64)
        scores.append(record.score(predicted, labels, classes))
        influence.append(record.influence(predicted, labels, classes).astype(np.float32))
        if record.classification:
            outputs = softmax(outputs.astype(np.float64))
            counts = counts + confusion_counts(predicted, labels, classes).sum(0)
            each = _bins(outputs, labels)
            bins += each.sum(0)
            errors += np.abs(each[:, 1] - each[:, 2]).sum() / len(labels)
        total = total + outputs.sum(0)
    sign = 1 if record.higher_is_better else -1
    own = Scores(
        tuple(seeds), sign * np.concatenate(scores), sign * np.concatenate(influence), record.step / len(labels)
    )
    mean, heads = np.asarray(total) / len(ids), len(ids)
    if not record.classification:
        return own, RowSummary(mean)
    return own, RowSummary(mean, np.asarray(counts) / heads, errors / heads, bins)


def guesses(metric: str, labels: np.ndarray, classes: int, majority: float | None) -> dict[str, Scores]:
    """What always answering the training split's largest class (it scores `majority` here) and chance score.

    In regression there is no majority, and chance is the mean of the labels.
    """
    record = METRICS[metric]
    step = record.step / len(labels)
    score, influence = record.chance(labels, classes)
    named = {"chance": (score, influence)}
    if record.classification and majority is not None:
        constants = np.tile(np.arange(classes)[:, None], len(labels))
        scores = record.score(constants, labels, classes)
        # Which class it was is not stored; another one that scores the same here is as good.
        at = int(np.abs(scores - majority).argmin())
        named = {"majority": (float(scores[at]), record.influence(constants, labels, classes)[at])} | named
    sign = 1 if record.higher_is_better else -1
    return {name: constant(sign * value, sign * moved, step) for name, (value, moved) in named.items()}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    grown = np.exp(logits - logits.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def _chunks(results: Results, ids: Sequence[str], split: str, size: int) -> Iterator[np.ndarray]:
    step = max(1, CHUNK_NUMBERS // max(size, 1))
    for start in range(0, len(ids), step):
        yield np.stack([results.outputs(one, split) for one in ids[start : start + step]])


def _bins(chance: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[heads, 3, bins]: rows, their summed confidence, their correct answers."""
    heads = len(chance)
    confidence, correct = chance.max(2), chance.argmax(2) == labels
    cell = np.minimum((confidence * BINS).astype(np.int64), BINS - 1) + np.arange(heads)[:, None] * BINS
    weights = (np.ones_like(confidence), confidence, correct.astype(np.float64))
    counts = [np.bincount(cell.ravel(), weight.ravel(), heads * BINS).reshape(heads, BINS) for weight in weights]
    return np.stack(counts, 1)
