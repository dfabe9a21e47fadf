"""Labels and splits of the user's own data: what a column's values mean, found in one pass over them."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan, nan
from typing import Any, cast

from pipeline.errors import SourceError
from pipeline.sources.base import float32, shortened

__all__ = ["DRAWN", "NUMBER", "Coding", "LabelCensus", "drawn_split", "ordered_splits", "plain_name", "split_named"]

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: What people are told where splits were drawn.
DRAWN = "no split column: rows are drawn by a hash of their content, 80% train and 20% validation"

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_SPLIT_WORDS = {"dev": "validation", "valid": "validation", "val": "validation"}
_FIRST_SPLITS = ("train", "validation", "test")
_MOST_CLASSES = 1000
_MOST_SPLITS = 100


@dataclass(frozen=True)
class Coding:
    """What a column's values become: `labels` names the classes (`None` for regression)."""

    labels: tuple[str, ...] | None
    codes: Mapping[str | int, int]
    #: Splits where every label is -1 while others have labels: they are unlabelled, as GLUE's test splits are.
    unlabelled: frozenset[str]

    def label(self, value: Any, split: str, where: str) -> int | float:
        """The class number or float of one value; -1 (NaN for regression) where there is none."""
        known = _read(value, where)
        if known is None or (known == -1 and split in self.unlabelled):
            return nan if self.labels is None else -1
        return float32(cast(float, known)) if self.labels is None else self.codes[cast(str | int, known)]


@dataclass
class LabelCensus:
    """Collects the values of a label column; memory grows with the classes, not with the rows.

    `column` names the column in error messages.
    """

    column: str
    _words: dict[str, str] = field(default_factory=dict)
    _integers: dict[str, set[int]] = field(default_factory=dict)
    _fractions: set[str] = field(default_factory=set)
    _first_number: tuple[int | float, str] | None = None
    _crowded: bool = False

    def add(self, value: Any, split: str, where: str) -> None:
        """Count one value; `where` names its place in error messages. Raises `SourceError`."""
        known = _read(value, where)
        if known is None:
            return
        if isinstance(known, str):
            self._words.setdefault(known, where)
            self._crowded |= len(self._words) > _MOST_CLASSES
            if self._crowded:
                raise self._too_many("words")
            return
        self._first_number = self._first_number or (known, where)
        if isinstance(known, float):
            self._fractions.add(split)
            return
        integers = self._integers.setdefault(split, set())
        if len(integers) <= _MOST_CLASSES:
            integers.add(known)

    def coding(self) -> Coding:
        """What the values mean, once all have been added. Raises `SourceError` for a mixture or for none at all."""
        if self._words and self._first_number:
            word, place = next(iter(self._words.items()))
            raise SourceError(
                f"label column {self.column!r}: expected all numbers or all words, found {self._first_number[0]} "
                f"({self._first_number[1]}) and {shortened(word)} ({place}); mend the labels (a missing one is empty)"
            )
        if not self._words and not self._first_number:
            raise SourceError(
                f"label column {self.column!r}: expected a label in some row, found all empty; name another column"
            )
        unlabelled = frozenset(s for s, found in self._integers.items() if found == {-1} and s not in self._fractions)
        if len(unlabelled) == len(self._integers.keys() | self._fractions):
            unlabelled = frozenset()
        if self._fractions:
            return Coding(None, {}, unlabelled)
        if self._words:
            words = sorted(self._words)
            return Coding(tuple(words), {word: code for code, word in enumerate(words)}, frozenset())
        numbers = sorted(set().union(*(found for split, found in self._integers.items() if split not in unlabelled)))
        if len(numbers) > _MOST_CLASSES:
            raise self._too_many("integers")
        return Coding(tuple(map(str, numbers)), {number: code for code, number in enumerate(numbers)}, unlabelled)

    def _too_many(self, kind: str) -> SourceError:
        return SourceError(
            f"label column {self.column!r}: expected at most {_MOST_CLASSES} classes, or numbers with a fraction for "
            f"regression, found more different {kind}; name another column"
        )


def _read(value: Any, where: str) -> int | float | str | None:
    """A value as an integer, a float with a fraction, a word, or `None` where it is missing."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        value = value.strip()
        if not NUMBER.fullmatch(value):
            return value or None
        value = int(value) if len(value) < 20 and value.lstrip("+-").isdecimal() else float(value)
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    if isinstance(value, float) and isnan(value):
        return None
    if isinstance(value, int | float) and isfinite(float32(value)):
        return int(value) if value == int(value) else value
    raise SourceError(f"{where}: expected a label, a number or a word, found {shortened(repr(value))}; mend it")


#: Names under which results keep metrics of rows of the training split.
RESERVED_SPLITS = ("selection",)


def split_named(value: Any, where: str) -> str:
    """The split that a value of a split column names; `dev`, `valid` and `val` are `validation`."""
    name = value.strip() if isinstance(value, str) else value
    if not isinstance(name, str) or not plain_name(name):
        raise SourceError(
            f"{where}: expected the name of a split such as train, validation or test, found {shortened(str(value))}; "
            "mend it or name another split column"
        )
    if name in RESERVED_SPLITS:
        raise SourceError(
            f"{where}: expected a split of your own, found {name}, which results name rows of the training split by; "
            "give it another name"
        )
    return _SPLIT_WORDS.get(name, name)


def drawn_split(*parts: bytes) -> str:
    """`train` for four of five contents, `validation` for the fifth; equal contents never part."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return "validation" if int.from_bytes(digest.digest(), "little") % 5 == 0 else "train"


def ordered_splits(found: Iterable[str], where: str) -> tuple[str, ...]:
    """Different split names: train, validation and test first, then the others as they came."""
    names = list(dict.fromkeys(found))
    if len(names) > _MOST_SPLITS:
        raise SourceError(
            f"{where}: expected at most {_MOST_SPLITS} splits, found more ({', '.join(names[:3])}, ...); "
            "name another split column"
        )
    return tuple(name for name in _FIRST_SPLITS if name in names) + tuple(n for n in names if n not in _FIRST_SPLITS)


def plain_name(name: str) -> bool:
    """Whether a name is letters, digits, `.`, `_` and `-` alone, not a path and not an option."""
    return _PLAIN.fullmatch(name) is not None
