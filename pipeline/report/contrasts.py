"""What is compared with what: planned before any score is looked at, and corrected over what was planned."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from pipeline.report.inference import Estimate, Scores, constant, corrected, difference, pool

__all__ = ["BASELINES", "Contrast", "Contrasts", "Setting", "compare", "contrast_table"]

#: Families that every other one is held against where nothing else is planned, as far as there are heads of them.
BASELINES = ("mlp", "linear")
#: Means over tasks are corrected for so many times their number: with few seeds and tasks their errors are least
#: certain, and a report is to find nothing in 19 of 20 cases where nothing is.
STRICTER = 2
#: Predictors that know nothing of the rows.
FLOORS = ("majority", "chance")


@dataclass(frozen=True)
class Setting:
    """What can be compared in one setting: families' scores on the same rows, and those of guesses (`FLOORS`).

    Settings of one `task` count once in a mean over tasks, and those that are not `pooled` not at all; those of one
    `plan` are corrected together.
    """

    task: str
    scores: Mapping[str, Scores]
    guesses: Mapping[str, Scores]
    plan: Hashable = None
    pooled: bool = True


@dataclass(frozen=True)
class Contrast:
    """`first` minus `second` in a setting (`None`: the mean over `tasks`)."""

    setting: Hashable
    first: str
    second: str
    estimate: Estimate
    tasks: tuple[str, ...] = ()

    def above(self, name: str) -> Estimate:
        """How far `name`, one of the two, lies above the other."""
        one = self.estimate
        return one if name == self.first else replace(one, value=-one.value, low=-one.high, high=-one.low)

    def other(self, name: str) -> str:
        """The family that `name` is compared with."""
        return self.second if name == self.first else self.first


@dataclass(frozen=True)
class Contrasts:
    """All comparisons: the planned ones in their settings, their means over tasks, and those with guesses.

    `alone` has every family's own score with its 95% interval over new seeds and rows, by (setting, family); `plans`
    the settings that are corrected together.
    """

    baselines: tuple[str, ...]
    planned: list[Contrast]
    means: list[Contrast]
    guesses: list[Contrast]
    alone: dict[tuple[Hashable, str], Estimate]
    plans: list[list[Hashable]]

    def of(self, setting: Hashable) -> list[Contrast]:
        """The planned contrasts of a setting."""
        return [one for one in self.planned if one.setting == setting]


def compare(
    settings: Mapping[Hashable, Setting], baselines: Sequence[str] | None = None, *, every_pair: bool = False
) -> Contrasts:
    """Hold every family against the baselines (against every other one with `every_pair`), and against guesses.

    Three questions are planned, each corrected for itself: what holds on average over tasks (against the first
    baseline, at 97.5%), what holds in each setting (within its plan), and what is better than guessing.
    """
    families = dict.fromkeys(name for setting in settings.values() for name in setting.scores)
    if baselines is None:
        baselines = [name for name in BASELINES if name in families] or list(families)[:1]
    baselines = tuple(baselines)
    plans: dict[Hashable, list[Hashable]] = {}
    planned: dict[Hashable, list[Contrast]] = {}
    for key, setting in settings.items():
        plans.setdefault(setting.plan, []).append(key)
        pairs = combinations(setting.scores, 2) if every_pair else _against(setting.scores, baselines)
        planned.setdefault(setting.plan, []).extend(
            Contrast(key, first, second, difference(setting.scores[first], setting.scores[second]))
            for first, second in pairs
        )
    means = _means(
        settings,
        [one for mine in planned.values() for one in mine if every_pair or baselines[0] in (one.first, one.second)],
    )
    guesses = [
        Contrast(key, family, name, difference(scores, guess))
        for key, setting in settings.items()
        for name, guess in setting.guesses.items()
        for family, scores in setting.scores.items()
    ]
    alone = {
        (key, family): corrected([difference(scores, _nothing(scores))])[0]
        for key, setting in settings.items()
        for family, scores in setting.scores.items()
    }
    order = list(settings)
    found = [_corrected(mine) for mine in planned.values()]
    return Contrasts(
        baselines,
        sorted((one for mine in found for one in mine), key=lambda one: order.index(one.setting)),
        _corrected(means, STRICTER * len(means)),
        _corrected(guesses),
        alone,
        list(plans.values()),
    )


def _against(families: Mapping[str, Scores], baselines: Sequence[str]) -> list[tuple[str, str]]:
    """(family, baseline) for every baseline that is there; two baselines make one pair."""
    there = [name for name in baselines if name in families]
    return [
        (family, baseline)
        for at, baseline in enumerate(there)
        for family in families
        if family != baseline and family not in there[:at]
    ]


def _corrected(contrasts: Sequence[Contrast], planned: int | None = None) -> list[Contrast]:
    estimates = corrected([one.estimate for one in contrasts], planned)
    return [replace(one, estimate=estimate) for one, estimate in zip(contrasts, estimates, strict=True)]


def _nothing(scores: Scores) -> Scores:
    rows = 0 if scores.influence is None else scores.influence.shape[1]
    return constant(0.0, np.zeros(rows), 0.0)


def _means(settings: Mapping[Hashable, Setting], contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Means over tasks of every pair that at least two tasks have.

    Settings of one task (two encoders, two features) share its rows: together they are no surer than one of them.
    """
    pairs: dict[tuple[str, str], dict[str, list[Estimate]]] = {}
    for one in contrasts:
        setting = settings[one.setting]
        if setting.pooled and one.estimate.error > 0:
            mine = pairs.setdefault((one.first, one.second), {})
            mine.setdefault(setting.task, []).append(one.estimate)
    means = []
    for (first, second), tasks in pairs.items():
        estimate = pool([_one_task(estimates) for estimates in tasks.values()])
        if estimate is not None:
            means.append(Contrast(None, first, second, estimate, tuple(tasks)))
    return means


def _one_task(estimates: Sequence[Estimate]) -> Estimate:
    value, error = (float(np.mean([getattr(one, name) for one in estimates])) for name in ("value", "error"))
    return Estimate(value, ((error**2, 1.0),), min(one.seeds for one in estimates), estimates[0].rows)


def contrast_table(contrasts: Sequence[Contrast], labels: Mapping[Any, str], margin: float) -> list[dict[str, Any]]:
    """Contrasts as plain documents; differences in points, `None` where a number cannot be had."""
    return [
        {
            "setting": labels.get(one.setting, ""),
            "first": one.first,
            "second": one.second,
            **{name: _points(getattr(one.estimate, name))
               for name in ("value", "low", "high", "detectable")},
            "word": one.estimate.word(margin),
            "planned": one.estimate.planned,
            "seeds": one.estimate.seeds,
            "rows": one.estimate.rows,
            "tasks": list(one.tasks),
        }
        for one in contrasts
    ]  # fmt: skip


def _points(value: float) -> float | None:
    return None if math.isnan(value) else 100 * value
