"""The bundled sample: three tasks under GLUE's names, generated, the same bytes on every machine.

It shows the whole way from text to a table of heads without a network. Its figures say nothing about GLUE.
"""

import functools
from collections.abc import Iterator
from dataclasses import replace

from pipeline.errors import UnknownNameError
from pipeline.sources.base import Row, check_split
from pipeline.sources.grammar import GRAMMARS, Draws
from pipeline.tasks import TASKS

__all__ = ["SAMPLE_TASKS", "SampleSource"]

SAMPLE_TASKS = tuple(GRAMMARS)
_ROWS = {"train": 600, "validation": 300, "test": 200}
#: Of a hundred labels in train and validation, how many are turned round: no head is perfect.
_FLIPPED = 5


class SampleSource:
    """Rows of one of `SAMPLE_TASKS`, with that GLUE task's labels and metrics and counts of its own."""

    description = "sample"
    notes: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        if name not in GRAMMARS:
            raise UnknownNameError("task", name, SAMPLE_TASKS, "other tasks need --data hub or --data FOLDER")
        self.task = replace(TASKS[name], rows=dict(_ROWS))

    @property
    def splits(self) -> tuple[str, ...]:
        """Train, validation and test."""
        return tuple(_ROWS)

    def rows(self, split: str) -> Iterator[Row]:
        """A fresh stream of one split's rows; test is unlabelled."""
        check_split(split, self.splits)
        return iter(_generate(self.task.name)[split])


@functools.cache
def _generate(name: str) -> dict[str, tuple[Row, ...]]:
    """All splits of one task; no two rows of a task have the same texts."""
    seen: set[tuple[str, str | None]] = set()
    splits = {}
    for split, count in _ROWS.items():
        draws, rows = Draws(f"kanglue sample {name} {split}"), []
        while len(rows) < count:
            text, pair, label = GRAMMARS[name](draws)
            flipped = draws.percent(_FLIPPED)
            if (text, pair) not in seen:
                seen.add((text, pair))
                rows.append(Row(text, pair, -1 if split == "test" else label ^ flipped))
        splits[split] = tuple(rows)
    return splits
