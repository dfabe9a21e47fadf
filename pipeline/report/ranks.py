"""Ranks of families over tasks: Friedman's test, Nemenyi's critical difference, and whether there are tasks enough."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.inference import ALPHA

__all__ = ["Ranking", "rank_families"]

#: Fewer tasks than this say nothing about tasks in general, whatever the critical difference (Demsar 2006 asks for more
#: than five where it comes to few families).
ENOUGH_TASKS = 5
#: Share of the largest possible difference of mean ranks that the critical difference may take.
ENOUGH_SHARE = 2 / 3


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over tasks, best (1) first.

    `critical` is Nemenyi's critical difference at 5%, `p` Friedman's test (`nan` for fewer than three families),
    `alike` groups (runs of `names`) whose ranks lie closer than that
    (all of them where there are too few tasks to tell). `enough` says whether a picture means anything.
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    tasks: tuple[str, ...]
    critical: float
    p: float
    alike: tuple[tuple[str, ...], ...]

    @property
    def enough(self) -> bool:
        """Whether there are tasks enough for a critical-difference picture."""
        return _enough(len(self.names), len(self.tasks), self.critical)

    @property
    def sentence(self) -> str:
        """The plain word on the ranks."""
        k, n = len(self.names), len(self.tasks)
        where = f"{k} families on {n} task{'s' if n != 1 else ''}"
        if self.enough:
            return (
                f"{where}: mean ranks that differ by less than {self.critical:.1f} cannot be told apart "
                "(Nemenyi, 5%); a bar joins such families."
            )
        return (
            f"Too few tasks to rank families: {where} would need mean ranks {self.critical:.1f} apart, of "
            f"{k - 1} at most, before chance is ruled out (Nemenyi, 5%). The ranks below are a description, no test."
        )


def _enough(families: int, tasks: int, critical: float) -> bool:
    return tasks >= ENOUGH_TASKS and critical <= ENOUGH_SHARE * (families - 1)


def rank_families(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> Ranking | None:
    """Rank families on tasks: `scores[task]` has the mean scores by family of every setting of a task.

    Only families that every setting has are ranked. A task counts once: its settings give one mean rank. `None` for
    fewer than two families.
    """
    from scipy import stats

    settings = [one for mine in scores.values() for one in mine]
    names = sorted(set.intersection(*map(set, settings))) if settings else []
    if len(names) < 2:
        return None
    table = np.array(
        [stats.rankdata(np.mean([stats.rankdata([-one[name] for name in names]) for one in mine], 0))
         for mine in scores.values()]
    )  # fmt: skip
    k, n = len(names), len(table)
    critical = stats.studentized_range.ppf(1 - ALPHA, k, np.inf) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    mean = table.mean(0)
    order = np.argsort(mean, kind="stable")
    p = float(stats.friedmanchisquare(*table.T).pvalue) if k > 2 and n > 1 and np.ptp(table, 1).any() else math.nan
    ordered, ranks = tuple(names[i] for i in order), tuple(map(float, mean[order]))
    alike = _alike(ordered, ranks, critical) if _enough(k, n, critical) else (ordered,)
    return Ranking(ordered, ranks, tuple(scores), float(critical), p, alike)


def _alike(names: Sequence[str], ranks: Sequence[float], critical: float) -> tuple[tuple[str, ...], ...]:
    """Longest runs of neighbouring families whose ranks lie closer than the critical difference."""
    runs: list[tuple[int, int]] = []
    for start, low in enumerate(ranks):
        stop = max(at for at, rank in enumerate(ranks) if at == start or 0 <= rank - low < critical)
        if stop > start and not any(stop <= end for _, end in runs):
            runs.append((start, stop))
    return tuple(tuple(names[a : b + 1]) for a, b in runs)
