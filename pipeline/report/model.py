"""What a report is made of, as data: settings in which families may be compared, and all findings together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.heads.families import FAMILIES
from pipeline.report.contrasts import Contrast, Contrasts
from pipeline.report.inference import Estimate, Scores
from pipeline.report.ranks import Ranking
from pipeline.report.rows import RowSummary
from pipeline.sweep.table import PLACE, Line

__all__ = ["Compared", "Disagreement", "Findings", "is_kan", "ordered"]


def is_kan(family: str) -> bool:
    """Whether a family is a Kolmogorov-Arnold network (`bspline_mlp` is an MLP with learned activations)."""
    return family in FAMILIES and FAMILIES[family].is_kan


@dataclass(frozen=True)
class Disagreement:
    """A row that families see differently: its texts, its label, and each family's probability of that label."""

    row: int
    texts: tuple[str, ...]
    label: str
    chances: Mapping[str, float]


@dataclass
class Compared:
    """One split of one task with one encoder, feature, protocol and number of training rows: what may be compared.

    `chosen` has for each family the line that its selection rows chose among its configurations, in the order of the
    registry; `scores`, `summaries`, `curves` [heads, epochs, 3] (training loss, selection loss, selection score) and
    `coverage` (shares of activations outside their grids, and of dead units, in the worst layer) are of these.
    `problem` says why there is nothing of them.
    """

    key: tuple[Any, ...]
    lines: list[Line]
    chosen: dict[str, Line]
    label: str = ""
    rows: int = 0
    labels: np.ndarray | None = None
    guesses: dict[str, Scores] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    summaries: dict[str, RowSummary] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    coverage: dict[str, tuple[float, float]] = field(default_factory=dict)
    improving: dict[str, float] = field(default_factory=dict)
    disagreements: list[Disagreement] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)
    against_guesses: list[Contrast] = field(default_factory=list)
    intervals: dict[str, Estimate] = field(default_factory=dict)
    problem: str = ""

    def __getattr__(self, name: str) -> Any:
        """The parts of the key by name: `compared.task`, `compared.encoder` ..."""
        if name in PLACE:
            return self.key[PLACE.index(name)]
        raise AttributeError(name)

    @property
    def train_rows(self) -> int:
        """Labelled training rows that its heads had."""
        return self.lines[0].train_rows

    @property
    def metric(self) -> str:
        """The task's main metric."""
        return self.lines[0].metric

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, `None` in regression."""
        return self.lines[0].class_names

    def guess(self, name: str) -> float | None:
        """What `majority` or `chance` scores; `None` where that means nothing."""
        return float(self.guesses[name].scores[0]) if name in self.guesses else None

    @property
    def optimistic(self) -> bool:
        """Whether the reported split itself chose the epochs."""
        return self.protocol == "published"


@dataclass(frozen=True)
class Findings:
    """All that the report shows; `rankings` by what their tasks have in common, `caches` by fingerprint.

    `margin` is the difference of scores that counts as none.
    """

    path: Path
    heads: int
    lines: list[Line]
    settings: list[Compared]
    contrasts: Contrasts
    margin: float
    rankings: dict[str, Ranking]
    caches: dict[str, Mapping[str, Any]]
    files: dict[str, Path]
    runs: list[dict[str, Any]]

    @property
    def families(self) -> tuple[str, ...]:
        """All families, in the registry's order."""
        return ordered({line.head for line in self.lines})


def ordered(names: set[str]) -> tuple[str, ...]:
    """Families in the registry's order, others behind them."""
    known = list(FAMILIES)
    return tuple(sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name)))
