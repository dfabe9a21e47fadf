"""The rows that a seed trains on, those that select for it, and the order in which rows come."""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError
from pipeline.fit.data import FitData
from pipeline.sources.groups import SHARED

__all__ = ["Replicate", "fold_replicates", "replicate", "whole_replicate"]

#: One row in ten of the training split selects epochs and hyper-parameters in the clean protocol.
SELECTION_SHARE = 0.1


@dataclass(frozen=True)
class Replicate:
    """What a seed fixes, the same for every family and hyper-parameter.

    `train` and `selection` are row numbers of the training split; `selection` is `None` where none of them selects: in
    the protocol `published` (the validation split does), and in the fit on all rows that follows cross-fitting.
    `rows` is the length of an epoch. It does not depend on the seed, so that all seeds fit into one pack: where groups
    make a hold-out a few rows larger or smaller than others, an epoch repeats or leaves out as many rows, each time
    others.
    """

    seed: int
    train: np.ndarray
    selection: np.ndarray | None
    rows: int

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers of one epoch (from 0) in their order [rows]."""
        return np.resize(np.random.default_rng((self.seed, epoch, 1)).permutation(self.train), self.rows)


def replicate(data: FitData, seed: int, protocol: str, rows: int | None = None) -> Replicate:
    """The replicate of a seed, on all training rows or on `rows` of them.

    In the clean protocol about a tenth of the rows is held out for selection, stratified: of each class (or decile of
    the target) a tenth, rounded half up, at least one row where there are two. Rows of a group are held out together.
    Raises `ConfigError` where there are too few rows or groups.
    """
    chosen = _subset(data, seed, rows)
    if protocol == "published":
        return Replicate(seed, chosen, None, len(chosen))
    groups, strata = _groups(data, chosen), _strata_of_groups(data, chosen)
    if len(chosen) > 1 and groups.min() == groups.max():
        raise ConfigError(
            f"{data.task.name}: expected at least 2 groups of rows, to hold one out, found all {len(chosen):,} "
            "training rows in one; name another column with group, or none"
        )
    held = np.zeros(groups.max() + 2, bool)  # the last is `SHARED`'s
    held[_held_out(strata, np.random.default_rng((seed, 0)))] = True
    selection, train = chosen[held[groups]], chosen[~held[groups]]
    if not len(selection) or not len(train):
        raise ConfigError(
            f"{data.task.name}: expected training rows enough to hold out a tenth, found {len(chosen)}; embed more rows"
        )
    count = len(data.labels["train"])
    if rows is not None:  # how many rows the strata of a draw's groups have may depend on the seed, the split's do not
        strata = _strata_of_groups(data, np.arange(count))
    return Replicate(seed, train, selection, len(chosen) - round(sum(t for *_, t in strata) * len(chosen) / count))


def fold_replicates(data: FitData, seed: int, folds: int, rows: int | None = None) -> list[Replicate]:
    """A replicate for each fold: every row selects in one of them and is trained on in the others.

    Folds are stratified and keep groups together; rows of the group `SHARED` are trained on in every fold. Raises
    `ConfigError` for more folds than rows of the smallest class, or than groups.
    """
    chosen = _subset(data, seed, rows)
    labels = data.labels["train"][chosen]
    fewest = int(np.unique(labels, return_counts=True)[1].min()) if data.task.labels is not None else len(chosen)
    if folds > fewest:
        raise ConfigError(
            f"{data.task.name}: expected at most {fewest} folds, the training rows of the smallest class, found "
            f"folds={folds}"
        )
    generator, groups = np.random.default_rng((seed, 0)), _groups(data, chosen)
    fold_of_group, loads = np.full(groups.max() + 2, -1), np.zeros(folds)  # the last is `SHARED`'s
    for members, sizes, _ in _strata_of_groups(data, chosen):
        order = generator.permutation(len(members))
        of_stratum = np.zeros(folds)
        for at in order[np.argsort(-sizes[order], kind="stable")]:
            fold = np.lexsort((loads, of_stratum))[0]
            fold_of_group[members[at]] = fold
            loads[fold] += sizes[at]
            of_stratum[fold] += sizes[at]
    fold_of = fold_of_group[groups]
    parts = [chosen[fold_of == fold] for fold in range(folds)]
    if not all(map(len, parts)):
        raise ConfigError(
            f"{data.task.name}: expected at least {folds} groups of rows for folds={folds}, found "
            f"{len(np.unique(groups[groups != SHARED]))}; give fewer folds"
        )
    length = len(chosen) - round((fold_of >= 0).sum() / folds)
    return [Replicate(seed, np.setdiff1d(chosen, part), part, length) for part in parts]


def whole_replicate(data: FitData, seed: int, rows: int | None = None) -> Replicate:
    """The replicate that trains on every row, after folds have chosen."""
    chosen = _subset(data, seed, rows)
    return Replicate(seed, chosen, None, len(chosen))


def _strata(data: FitData) -> np.ndarray:
    """The stratum of every training row: its class, or the decile of its target for regression."""
    labels = data.labels["train"]
    if data.task.labels is not None:
        return labels.astype(np.int64)
    # Of deciles with one row each nothing could be held out.
    count = 10 if len(labels) >= 20 else max(1, len(labels) // 2)
    return np.searchsorted(np.quantile(labels, np.arange(1, count) / count), labels, side="right")


def _subset(data: FitData, seed: int, rows: int | None) -> np.ndarray:
    """Row numbers, ascending, of a stratified draw of `rows` training rows; a larger draw of a seed holds a smaller."""
    everything = np.arange(len(data.labels["train"]))
    if rows is None or rows >= len(everything):
        return everything
    # The k-th row of a stratum of n comes at (k + 1/2) / n: every beginning of the list has the strata's shares.
    strata, generator = _strata(data), np.random.default_rng((seed, 2))
    position = np.empty(len(everything))
    for stratum in np.unique(strata):
        members = generator.permutation(everything[strata == stratum])
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.lexsort((strata, position))[:rows])


def _groups(data: FitData, chosen: np.ndarray) -> np.ndarray:
    """The group of every chosen row: a number from 0, or `SHARED`."""
    if data.groups is None:
        return np.arange(len(chosen))
    groups = data.groups[chosen]
    numbered = np.unique(groups, return_inverse=True)[1]
    return np.where(groups == SHARED, SHARED, numbered)


def _strata_of_groups(data: FitData, chosen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Groups by the stratum that most of their rows are of: (group numbers, their rows, rows to hold out)."""
    groups, strata = _groups(data, chosen), np.unique(_strata(data), return_inverse=True)[1][chosen]
    groups, strata = groups[groups != SHARED], strata[groups != SHARED]
    if not len(groups):
        return []
    counts = np.bincount(groups * (strata.max() + 1) + strata, minlength=(groups.max() + 1) * (strata.max() + 1))
    counts = counts.reshape(groups.max() + 1, -1)
    sizes, home = counts.sum(1), counts.argmax(1)
    result = []
    for stratum in np.unique(home[sizes > 0]):
        members = np.flatnonzero((home == stratum) & (sizes > 0))
        target = int(sizes[members].sum() * SELECTION_SHARE + 0.5) or int(len(members) > 1)
        result.append((members, sizes[members], target))
    return result


def _held_out(strata: list[tuple[np.ndarray, np.ndarray, int]], generator: np.random.Generator) -> np.ndarray:
    """Groups to hold out: of each stratum some in random order, as near to a tenth of its rows as they come."""
    held = [np.arange(0)]
    for members, sizes, target in strata:
        order = generator.permutation(len(members))
        # A group with most of the rows comes last, and the last one always stays.
        order = order[np.argsort(2 * sizes[order] > sizes.sum(), kind="stable")]
        count = int(np.abs(np.cumsum(sizes[order]) - target).argmin()) + 1 if target else 0
        held.append(members[order[: min(count, len(members) - 1)]])
    if not sum(map(len, held)) and len(strata) > 1:  # a group in each stratum: the one nearest to a tenth of all rows
        members, sizes = (np.concatenate(parts) for parts in list(zip(*strata, strict=True))[:2])
        held.append(members[[np.abs(sizes - sizes.sum() / 10).argmin()]])
    return np.concatenate(held)
