"""What every source of rows looks like: a task, named splits, and a fresh stream of rows as often as one asks."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pipeline.tasks import Task

__all__ = ["Limited", "Row", "Scan", "Source", "scan"]


class Row(NamedTuple):
    """One row of a split, in the task's own order.

    `label` is a class number or a float; -1 (NaN for regression) where there is none. `text_pair` is `None` for
    tasks of single sentences.
    """

    text: str
    text_pair: str | None
    label: int | float


class Source(Protocol):
    """Where the rows of one task come from.

    `description` is short and holds no path of the machine (it goes into the cache as provenance): `hub`, `sample`,
    or a folder's or file's last name.
    """

    task: Task
    description: str

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that this source has, in the task's order."""

    def rows(self, split: str) -> Iterator[Row]:
        """A fresh stream of one split's rows; memory does not grow with the split. Raises `SourceError`."""


@dataclass(frozen=True)
class Scan:
    """What one pass over a source found: rows by split, and the hash of all their texts and labels."""

    rows: dict[str, int]
    sha256: str


@dataclass(frozen=True)
class Limited:
    """The first `limit` rows of each split of another source."""

    source: Source
    limit: int

    @property
    def task(self) -> Task:
        return self.source.task

    @property
    def description(self) -> str:
        return self.source.description

    @property
    def splits(self) -> tuple[str, ...]:
        return self.source.splits

    def rows(self, split: str) -> Iterator[Row]:
        return itertools.islice(self.source.rows(split), self.limit)


def scan(source: Source) -> Scan:
    """Read every split once: count its rows and hash texts and labels.

    The hash does not depend on where rows came from, so the hub and a folder agree. Raises `SourceError`.
    """
    digest, rows = hashlib.sha256(), {}
    for split in source.splits:
        digest.update(f"split {split}\n".encode())
        count = 0
        for text, pair, label in source.rows(split):
            # Lengths in front keep ("ab", "c") apart from ("a", "bc"); surrogatepass lets lone surrogates through.
            fields = (text, "" if pair is None else pair, repr(label))
            digest.update("".join(f"{len(part)} {part}" for part in fields).encode("utf-8", "surrogatepass"))
            count += 1
        rows[split] = count
    return Scan(rows, digest.hexdigest())
