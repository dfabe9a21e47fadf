"""What a report is made of, as data: places where families may be compared, and all findings together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.heads.families import FAMILIES
from pipeline.report.ranks import Ranking
from pipeline.report.rows import RowSummary
from pipeline.report.statistics import Comparison
from pipeline.sweep.table import PLACE, Line

__all__ = ["Disagreement", "Findings", "Place", "is_kan", "ordered"]


def is_kan(family: str) -> bool:
    """Whether a family is a Kolmogorov-Arnold network (`bspline_mlp` is an MLP with learned activations)."""
    return family == "kan" or family.endswith("_kan")


@dataclass(frozen=True)
class Disagreement:
    """A row that families see differently: its texts, its label, and each family's probability of that label."""

    row: int
    texts: tuple[str, ...]
    label: str
    chances: Mapping[str, float]


@dataclass
class Place:
    """One split of one task with one encoder, feature and protocol: where families may be compared.

    `chosen` has for each family the line that its selection rows chose among its configurations, in the order of the
    registry; `summaries`, `curves` [heads, epochs, 3] (training loss, selection loss, selection score) are of these.
    """

    key: tuple[str, ...]
    lines: list[Line]
    chosen: dict[str, Line]
    label: str = ""
    rows: int = 0
    labels: np.ndarray | None = None
    words: tuple[str, ...] | None = None
    chance: float | None = None
    summaries: dict[str, RowSummary] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    disagreements: list[Disagreement] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        """The parts of the key by name: `place.task`, `place.encoder` ..."""
        if name in PLACE:
            return self.key[PLACE.index(name)]
        raise AttributeError(name)

    @property
    def metric(self) -> str:
        """The task's main metric."""
        return self.lines[0].metric

    @property
    def majority(self) -> float | None:
        """What always guessing the largest class scores."""
        return self.lines[0].majority

    @property
    def optimistic(self) -> bool:
        """Whether the reported split itself chose the epochs."""
        return self.protocol == "published"


@dataclass(frozen=True)
class Findings:
    """All that the report shows; `rankings` by what their tasks have in common, `caches` by fingerprint."""

    path: Path
    heads: int
    lines: list[Line]
    places: list[Place]
    rankings: dict[str, Ranking]
    caches: dict[str, Mapping[str, Any]]
    runs: list[dict[str, Any]]

    @property
    def families(self) -> tuple[str, ...]:
        """All families, in the registry's order."""
        return ordered({line.head for line in self.lines})

    @property
    def comparisons(self) -> list[Comparison]:
        """All that are shown."""
        return [one for place in self.places for one in place.comparisons]


def ordered(names: set[str]) -> tuple[str, ...]:
    """Families in the registry's order, others behind them."""
    known = list(FAMILIES)
    return tuple(sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name)))
