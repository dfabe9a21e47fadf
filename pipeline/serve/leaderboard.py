"""What GLUE's leaderboard reads: the files of a submission as data, and what a line of each may say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ResultsError
from pipeline.tasks import TASKS

__all__ = ["FILES", "TestFile", "constant", "validate", "words"]

LOWEST, HIGHEST = 0.0, 5.0


@dataclass(frozen=True)
class TestFile:
    """One file of a submission: the task whose head predicts it, and the cache's task and split that it predicts."""

    name: str
    head_task: str
    task: str
    split: str = "test"
    words: bool = False

    @property
    def rows(self) -> int:
        """GLUE's number of rows."""
        return TASKS[self.task].rows[self.split]

    @property
    def predictions(self) -> tuple[str, ...] | None:
        """What a line may say; `None` for scores."""
        labels = TASKS[self.head_task].labels
        if labels is None:
            return None
        return labels if self.words else tuple(str(number) for number in range(len(labels)))


FILES: tuple[TestFile, ...] = (
    TestFile("CoLA.tsv", "cola", "cola"),
    TestFile("SST-2.tsv", "sst2", "sst2"),
    TestFile("MRPC.tsv", "mrpc", "mrpc"),
    TestFile("STS-B.tsv", "stsb", "stsb"),
    TestFile("MNLI-m.tsv", "mnli", "mnli", "test_matched", words=True),
    TestFile("MNLI-mm.tsv", "mnli", "mnli", "test_mismatched", words=True),
    TestFile("QNLI.tsv", "qnli", "qnli", words=True),
    TestFile("RTE.tsv", "rte", "rte", words=True),
    TestFile("WNLI.tsv", "wnli", "wnli"),
    TestFile("QQP.tsv", "qqp", "qqp"),
    TestFile("AX.tsv", "mnli", "ax", words=True),
)


def words(file: TestFile, outputs: np.ndarray) -> list[str]:
    """A head's outputs [rows, classes] as a file's predictions."""
    allowed = file.predictions
    if allowed is None:
        return [f"{value:.5f}" for value in outputs[:, 0].clip(LOWEST, HIGHEST)]
    return [allowed[best] for best in outputs.argmax(1)]


def constant(file: TestFile) -> list[str]:
    """What fills a file: the first label, or scores in turn, since constant scores have no correlation at all."""
    if file.predictions is None:
        return [f"{place % (int(HIGHEST) + 1):.5f}" for place in range(file.rows)]
    return [file.predictions[0]] * file.rows


def validate(file: TestFile, lines: Sequence[str], partial: bool) -> None:
    """Raise `ResultsError` for anything that the leaderboard would not read."""
    if len(lines) != file.rows and not partial:
        raise ResultsError(f"{file.name}: expected {file.rows:,} predictions, found {len(lines):,}")
    allowed = file.predictions
    wrong = [line for line in set(lines) if (line not in allowed if allowed else not LOWEST <= float(line) <= HIGHEST)]
    if wrong:
        expected = ", ".join(allowed) if allowed else f"scores from {LOWEST:g} to {HIGHEST:g}"
        raise ResultsError(f"{file.name}: expected {expected}, found {wrong[0]!r}")
