"""Ranks of families over tasks: Friedman's test, Nemenyi's critical difference, and whether there are tasks enough."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.statistics import ALPHA

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


def rank_families(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Ranking | None:
    """Rank families on tasks: `scores[task][family]` are mean scores (several where a task was posed in several ways).

    Only families that every task has are ranked; several scores of one task give one mean rank of that task, so that a
    task counts once. `None` for fewer than two families.
    """
    from scipy import stats

    names = sorted(set.intersection(*(set(found) for found in scores.values()))) if scores else []
    if len(names) < 2:
        return None
    blocks = []
    for found in scores.values():
        ways = min(len(found[name]) for name in names)
        each = [stats.rankdata([-found[name][way] for name in names]) for way in range(ways)]
        blocks.append(stats.rankdata(np.mean(each, 0)))
    table = np.array(blocks)
    k, n = len(names), len(blocks)
    critical = stats.studentized_range.ppf(1 - ALPHA, k, np.inf) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    mean = table.mean(0)
    order = np.argsort(mean, kind="stable")
    ordered, ranks = [names[i] for i in order], mean[order]
    p = float(stats.friedmanchisquare(*table.T).pvalue) if k > 2 and n > 1 and np.ptp(table, 1).any() else math.nan
    alike = _alike(ordered, table[:, order]) if _enough(k, n, critical) else (tuple(ordered),)
    return Ranking(tuple(ordered), tuple(map(float, ranks)), tuple(scores), float(critical), p, alike)


def _alike(names: Sequence[str], table: np.ndarray) -> tuple[tuple[str, ...], ...]:
    """Longest runs of neighbouring families that Nemenyi's test does not tell apart; `table` is [tasks, families]."""
    import scikit_posthocs

    p = np.asarray(scikit_posthocs.posthoc_nemenyi_friedman(table))
    runs: list[tuple[int, int]] = []
    for start in range(len(names)):
        stop = max(j for j in range(start, len(names)) if j == start or p[start, j] >= ALPHA)
        if stop > start and not any(a <= start and stop <= b for a, b in runs):
            runs.append((start, stop))
    return tuple(tuple(names[a : b + 1]) for a, b in runs)
