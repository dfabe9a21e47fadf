"""One interval for a difference of scores, over new seeds and new rows, from which every word of a report follows.

Heads of two families share their seeds and their rows, so a difference is a table seeds x rows, and its mean varies
with both, crossed. The table's entries are pseudo-values: the difference that a seed shows, plus the row's influence on
it (`pipeline.metrics`). From the mean squares of its two-way analysis of variance, the variance of the grand mean is

    (MS_rows - MS_residual) / (seeds rows)  +  MS_seeds / (seeds rows),

what new rows add and what new seeds add, residual included: every variance is counted once (the variance over seeds and
that over rows, simply added, count the residual twice). The second part is the variance of the seeds' mean and has as
few degrees of freedom, so each part has its own quantile of Student's t (Cochran's approximation; one quantile of
Satterthwaite's degrees of freedom is too small wherever a handful of seeds happen to agree).

Everything that was planned together is corrected together (Bonferroni): the interval that is shown is the corrected
one, and the words follow from it alone. A difference is *found* where the interval leaves out 0, *equivalent* where it
lies within the margin, and *open* otherwise. benchmarks/inference.md has how often that is right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["ALPHA", "Estimate", "Scores", "constant", "corrected", "difference", "pool"]

ALPHA = 0.05
#: The power at which a comparison is asked what it could show.
POWER = 0.8


@dataclass(frozen=True)
class Scores:
    """One family on one split, in units of the main metric, larger being better.

    `scores` [seeds] are those of the heads of `seeds`, `influence` [seeds, rows] each row's (`Metric.influence`); one
    line of it, and no seeds, for a predictor that knows none (see `constant`). `None` where labels are not to be had.
    `step` is how far one row moves a score.
    """

    seeds: tuple[int, ...]
    scores: np.ndarray
    influence: np.ndarray | None
    step: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """A difference with what is known of it; `nan` where that cannot be had.

    `parts` are the (variance, degrees of freedom) that sum up to the variance of `value`: of new rows and of new seeds.
    It was seen on `seeds` shared seeds and `rows` rows. `low` to `high` is the interval at 95% for all `planned`
    comparisons together (`corrected`), `detectable` the true difference at which such an interval leaves out 0 with 80%
    power.
    """

    value: float
    parts: tuple[tuple[float, float], ...]
    seeds: int
    rows: int
    planned: int = 1
    low: float = math.nan
    high: float = math.nan
    detectable: float = math.nan

    @property
    def error(self) -> float:
        """The standard error of `value`."""
        return math.sqrt(sum(variance for variance, _ in self.parts)) if self.parts else math.nan

    @property
    def found(self) -> bool:
        """Whether the interval leaves out 0."""
        return bool(self.low > 0 or self.high < 0)

    def within(self, margin: float) -> bool:
        """Whether the interval lies inside -margin to margin."""
        return bool(-margin < self.low and self.high < margin)

    def word(self, margin: float) -> str:
        """`found`, `equivalent` or `open`."""
        return "found" if self.found else "equivalent" if self.within(margin) else "open"


def constant(score: float, influence: np.ndarray, step: float) -> Scores:
    """A predictor without seeds, such as the majority class: one score, and its influence [rows]."""
    return Scores((), np.array([score]), influence[None], step)


def difference(first: Scores, second: Scores) -> Estimate:
    """First minus second, over the seeds that both have; not yet corrected for anything.

    Two predictors without seeds are compared over new rows alone: nothing tells how they would come out again.
    """
    mine, theirs = _shared(first.seeds, second.seeds)
    gaps = first.scores[mine] - second.scores[theirs]
    value = float(gaps.mean()) if len(gaps) else float(first.scores.mean() - second.scores.mean())
    seeds = 0 if not first.seeds and not second.seeds else len(gaps)
    if first.influence is None or second.influence is None or seeds == 1 or not len(gaps):
        return Estimate(value, (), seeds, 0 if first.influence is None else first.influence.shape[1])
    moved = first.influence[mine].astype(float) - second.influence[theirs]
    parts = _two_way(gaps, moved, max(first.step, second.step))
    return Estimate(value, parts, seeds, moved.shape[1])


def _shared(first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
    """Positions of the seeds that both have, in the same order; a predictor without seeds has every one."""
    if not first or not second:
        count = max(len(first), len(second), 1)
        return (list(range(len(first))) or [0] * count), (list(range(len(second))) or [0] * count)
    mine, theirs = ({seed: at for at, seed in enumerate(seeds)} for seeds in (first, second))
    both = [seed for seed in mine if seed in theirs]
    return [mine[seed] for seed in both], [theirs[seed] for seed in both]


def _two_way(gaps: np.ndarray, moved: np.ndarray, step: float) -> tuple[tuple[float, float], ...]:
    """(variance, degrees of freedom) of the mean, over new rows and over new seeds.

    `gaps` [seeds] are the differences, `moved` [seeds, rows] the influences on them. Predictions that hardly differ on
    these rows may do so on others: the variance over rows is at least that of one row, `step` squared.
    """
    seeds, rows = moved.shape
    if rows < 2:
        return ()
    moved = moved - moved.mean(1, keepdims=True)
    of_rows = moved.mean(0)
    between = seeds * float(of_rows @ of_rows) / (rows - 1)  # mean square of rows
    if seeds == 1:
        return ((max(between / rows, step**2), rows - 1.0),)
    residual = max(float(np.vdot(moved, moved)) - (rows - 1) * between, 0.0) / ((seeds - 1) * (rows - 1))
    over_rows = max(between - residual, 0.0) / (seeds * rows)
    over_seeds = float(gaps.var(ddof=1)) / seeds
    return (over_rows + max(step**2 - over_rows - over_seeds, 0.0), rows - 1.0), (over_seeds, seeds - 1.0)


def corrected(estimates: Sequence[Estimate], planned: int | None = None) -> list[Estimate]:
    """The estimates with intervals that hold for all of them together, or for as many as are `planned`.

    `detectable` comes from the power of the t test whose quantile is as wide.
    """
    from scipy.special import nctdtrinc, stdtridf, stdtrit

    planned, intervals = planned or len(estimates), []
    level = 1 - ALPHA / 2 / max(planned, 1)
    for one in estimates:
        if not one.error >= 0:
            intervals.append(replace(one, planned=planned))
            continue
        variance, freedom = np.array(one.parts).T
        half = float(np.sqrt((stdtrit(freedom, level) ** 2 * variance).sum()))
        wide = min(float(stdtridf(level, half / one.error)) if one.error else 1.0, 1e6)
        shift = float(nctdtrinc(wide, 1 - POWER, half / one.error)) if one.error else 0.0
        intervals.append(
            replace(one, planned=planned, low=one.value - half, high=one.value + half, detectable=shift * one.error)
        )
    return intervals


def pool(estimates: Sequence[Estimate]) -> Estimate | None:
    """The mean difference over tasks like these: random effects, with Hartung and Knapp's interval.

    Between-task variance after DerSimonian and Laird (1986); the standard error after Hartung and Knapp (2001), never
    below that of a fixed effect (Rover, Knapp and Friede 2015). `None` for fewer than two usable estimates.
    """
    usable = [one for one in estimates if one.error > 0]
    k = len(usable)
    if k < 2:
        return None
    values, variances = np.array([(one.value, one.error**2) for one in usable]).T
    weights = 1 / variances
    fixed = float(weights @ values / weights.sum())
    scatter = float(weights @ (values - fixed) ** 2)
    between = max(scatter - (k - 1), 0.0) / float(weights.sum() - (weights**2).sum() / weights.sum())
    weights = 1 / (variances + between)
    mean = float(weights @ values / weights.sum())
    inflation = max(float(weights @ (values - mean) ** 2) / (k - 1), 1.0)
    return Estimate(mean, ((inflation / float(weights.sum()), k - 1.0),), min(one.seeds for one in usable), 0)
