"""Comparisons of families that train on the same replicates and are judged on the same rows.

Two questions, two tests. Would other seeds say the same? A paired t test over replicates answers that for these rows,
and says nothing about new rows, since all seeds share the validation split. Would other rows say the same? McNemar's
exact test on the rows that the ensembles of seeds get right answers that. All p-values that are shown together are
corrected together (Holm), both kinds at once, and a difference counts as found where both tests find it in the same
direction: that is the intersection-union test, and its error is no larger than either test's.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

__all__ = ["ALPHA", "Comparison", "Sample", "compare", "equivalence", "holm"]

ALPHA = 0.05
#: The power at which a split is asked what it could show.
POWER = 0.8
#: Differences below this count as none in practice (baycomp's region of practical equivalence): one point.
EQUIVALENT = 0.01


@dataclass(frozen=True)
class Sample:
    """What the tests need to know of one family on one split.

    `seeds` and `scores` are the replicates' and their main metric's. `merit` [rows] says of each row whether the
    ensemble of seeds is right (bool), or its negative squared error (float, regression); `influence` [rows] is each
    row's part in the mean score (see `pipeline.report.rows.influence`). Both are `None` where labels are not to be had.
    """

    name: str
    seeds: Sequence[int]
    scores: Sequence[float]
    merit: np.ndarray | None = None
    influence: np.ndarray | None = None


@dataclass(frozen=True)
class Comparison:
    """Two families on one split; differences are first minus second, in units of the main metric.

    `difference` is the mean over the `n` shared replicates. `low` to `high` holds it for new seeds and new rows
    together, at 95% for all comparisons at once (Bonferroni); `visible` is the smallest difference that this split
    would have shown with 80% power. `effect` is Cohen's d of the paired differences over replicates; `wins` and
    `losses` are rows that only the first or only the second gets right. `p_seeds`, `p_rows` are the tests', `q_seeds`
    and `q_rows` the same corrected. `nan` where a number cannot be had.
    """

    place: Hashable
    first: str
    second: str
    n: int
    difference: float
    effect: float
    p_seeds: float
    p_rows: float
    wins: int
    losses: int
    row_sign: float
    error: float
    freedom: float
    q_seeds: float = math.nan
    q_rows: float = math.nan
    low: float = math.nan
    high: float = math.nan
    visible: float = math.nan

    @property
    def found(self) -> bool:
        """Whether both corrected tests find a difference, in the same direction."""
        same = self.difference * self.row_sign > 0
        return bool(self.q_seeds < ALPHA and self.q_rows < ALPHA and same)

    @property
    def bound(self) -> float:
        """The largest difference, either way, that the interval admits; `nan` without an interval."""
        return max(abs(self.low), abs(self.high))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's correction over the p-values that are there; `nan` stays `nan` and does not count."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, float)
    there = ~np.isnan(p)
    corrected = np.full(len(p), np.nan)
    if there.any():
        corrected[there] = multipletests(p[there], method="holm")[1]
    return corrected


def compare(places: Mapping[Hashable, Sequence[Sample]], steps: Mapping[Hashable, float]) -> list[Comparison]:
    """Every pair of samples within every place, corrected over all of them.

    `steps` is how far one row moves the score at a place: replicates' spread below the rounding to such steps is not
    believed (a handful of replicates that differ by the same single row are no proof).
    """
    from scipy import stats

    found = [
        _pair(place, first, second, steps.get(place, 0.0))
        for place, samples in places.items()
        for first, second in itertools.combinations(samples, 2)
    ]
    corrected = holm([one.p_seeds for one in found] + [one.p_rows for one in found])
    level = 1 - ALPHA / 2 / max(len(found), 1)
    freedom = np.array([one.freedom for one in found])
    quantiles = stats.t.ppf(level, freedom) if found else []
    # The strictest of all tests has to be passed by a difference that is to be seen with certainty.
    seen = stats.norm.ppf(1 - ALPHA / 2 / max(2 * len(found), 1)) + stats.norm.ppf(POWER)
    return [
        replace(
            one,
            q_seeds=float(corrected[index]),
            q_rows=float(corrected[len(found) + index]),
            low=float(one.difference - quantiles[index] * one.error),
            high=float(one.difference + quantiles[index] * one.error),
            visible=float(seen * one.error),
        )
        for index, one in enumerate(found)
    ]


def _pair(place: Hashable, first: Sample, second: Sample, step: float) -> Comparison:
    a, b = _shared(first, second)
    n = len(a)
    difference = float((a - b).mean()) if n else float(np.mean(first.scores) - np.mean(second.scores))
    p_seeds, effect, seed_variance = _over_seeds(a - b, step)
    p_rows, wins, losses, sign = _over_rows(first.merit, second.merit)
    row_variance, rows = math.nan, math.nan
    if first.influence is not None and second.influence is not None:
        rows = len(first.influence)
        row_variance = float(np.var(first.influence - second.influence, ddof=1)) / rows if rows > 1 else math.nan
    variance = seed_variance + row_variance
    # Welch and Satterthwaite's degrees of freedom of a sum of two variances.
    spread = seed_variance**2 / max(n - 1, 1) + row_variance**2 / max(rows - 1, 1)
    freedom = max(variance**2 / spread, 1.0) if spread > 0 else 1.0
    return Comparison(
        place, first.name, second.name, n, difference, effect, p_seeds, p_rows, wins, losses, sign,
        math.sqrt(variance) if variance >= 0 else math.nan, freedom if spread == spread else math.nan,
    )  # fmt: skip


def _shared(first: Sample, second: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the replicates that both have, in the same order."""
    if tuple(first.seeds) == tuple(second.seeds):
        return np.asarray(first.scores, float), np.asarray(second.scores, float)
    mine, theirs = (dict(zip(one.seeds, one.scores, strict=True)) for one in (first, second))
    shared = sorted(set(mine) & set(theirs))
    return np.array([mine[seed] for seed in shared]), np.array([theirs[seed] for seed in shared])


def _over_seeds(differences: np.ndarray, step: float) -> tuple[float, float, float]:
    """p-value of the paired t test, Cohen's d, and the variance of the mean difference."""
    from scipy.special import stdtr

    n = len(differences)
    if n < 2:
        return math.nan, math.nan, math.nan
    # Two scores rounded to steps: the difference of their rounding errors has the variance step^2 / 6.
    variance = max(float(differences.var(ddof=1)), step**2 / 6)
    mean = float(differences.mean())
    if variance == 0:
        return (1.0, 0.0, 0.0) if mean == 0 else (math.nan, math.nan, 0.0)
    t = mean / math.sqrt(variance / n)
    return float(2 * stdtr(n - 1, -abs(t))), mean / math.sqrt(variance), variance / n


def _over_rows(first: np.ndarray | None, second: np.ndarray | None) -> tuple[float, int, int, float]:
    """p-value, rows that only one of the two gets right (better, in regression), and the direction."""
    if first is None or second is None:
        return math.nan, 0, 0, 0.0
    wins, losses = int((first > second).sum()), int((first < second).sum())
    if first.dtype == bool:
        return _mcnemar(wins, losses), wins, losses, float(np.sign(wins - losses))
    gain = first - second
    if not gain.std():
        return (1.0 if not gain.any() else math.nan), wins, losses, float(np.sign(gain.mean()))
    from scipy import stats

    return float(stats.ttest_rel(first, second).pvalue), wins, losses, float(np.sign(gain.mean()))


@lru_cache(maxsize=100_000)
def _mcnemar(wins: int, losses: int) -> float:
    """McNemar's exact p-value; rows that both get right, or neither, do not enter it."""
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, wins], [losses, 0]], exact=True).pvalue)


def equivalence(first: Sample, second: Sample) -> float:
    """Probability (baycomp's correlated t test over shared replicates) that the two differ by less than a point."""
    a, b = _shared(first, second)
    if len(a) < 3 or np.ptp(a - b) == 0:
        return math.nan
    import baycomp

    return float(baycomp.two_on_single(a, b, rope=EQUIVALENT)[1])
