"""What every source of rows looks like: a task, named splits, and a fresh stream of rows as often as one asks."""

import hashlib
import itertools
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from pipeline.errors import UnknownNameError
from pipeline.tasks import Task

__all__ = [
    "Limited",
    "Row",
    "Scan",
    "Source",
    "check_counts",
    "check_split",
    "float32",
    "no_label",
    "scan",
    "shortened",
]


class Row(NamedTuple):
    """One row of a split, in the task's own order.

    `label` is a class number or a float that float32 holds exactly; -1 (NaN for regression) where there is none.
    `text_pair` is `None` for tasks of single sentences.
    """

    text: str
    text_pair: str | None
    label: int | float


class Source(Protocol):
    """Where the rows of one task come from.

    `description` is short and holds no path of the machine (it goes into the cache as provenance): `hub`, `sample`,
    or a folder's or file's last name.
    """

    @property
    def task(self) -> Task:
        """The task whose rows these are."""

    @property
    def description(self) -> str:
        """Where the rows come from, in a word."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that this source has, in the task's order."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that a person should be told (rows left out, splits drawn); complete once all rows were read."""

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
        """The other source's task."""
        return self.source.task

    @property
    def description(self) -> str:
        """The other source's description."""
        return self.source.description

    @property
    def splits(self) -> tuple[str, ...]:
        """The other source's splits."""
        return self.source.splits

    @property
    def notes(self) -> tuple[str, ...]:
        """The other source's notes."""
        return self.source.notes

    def rows(self, split: str) -> Iterator[Row]:
        """At most `limit` rows of one split."""
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


def check_counts(task: Task, rows: Mapping[str, int]) -> list[str]:
    """One line for each split whose number of rows is not the task's own; none for tasks without official counts.

    `rows` maps splits to the rows found, as `scan` counts them; splits that it leaves out are not missed.
    """
    return [
        f"{task.name} {split}: expected {task.rows[split]} rows as GLUE's, found {found}; "
        "figures from these rows do not compare with published ones"
        for split, found in rows.items()
        if task.rows.get(split, found) != found
    ]


def check_split(split: str, splits: tuple[str, ...]) -> None:
    """Raise `UnknownNameError` unless `split` is one of `splits`."""
    if split not in splits:
        raise UnknownNameError("split", split, splits)


def no_label(task: Task) -> int | float:
    """The label of an unlabelled row: -1, or NaN for regression."""
    return -1 if task.labels is not None else float("nan")


def float32(value: float) -> float:
    """The nearest float32, as a Python float: labels are stored so, and a hub's file holds them so.

    Infinite where the value lies beyond float32's range.
    """
    try:
        return struct.unpack("f", struct.pack("f", float(value)))[0]
    except OverflowError:
        return inf if value > 0 else -inf


def shortened(text: str, width: int = 60) -> str:
    """The text's `repr`, cut to about `width` characters, for error messages of one line."""
    return repr(text if len(text) <= width else text[:width] + "...")
