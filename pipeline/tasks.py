"""The nine GLUE tasks and the diagnostic set AX, as data.

Everything that differs from task to task stands here: columns, label words, splits with their official row counts,
metrics, and the layout of GLUE's own TSV files. Label numbers are the hub's (data set `glue`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import UnknownNameError

__all__ = ["TASKS", "Task", "TsvFile", "own_task", "task_named"]


@dataclass(frozen=True)
class TsvFile:
    """Where one split lies in a folder of GLUE's own layout.

    `columns` names the columns of a file without a header line; `None` says that the first line names them.
    `paths` are tried in order, relative to the folder that holds the tasks' folders.
    """

    paths: tuple[str, ...]
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Task:
    """One task: a sentence or a pair in, a class or a number out.

    `labels` are the class names in the hub's order, `None` for regression. `rows` maps each split, in the hub's
    naming, to its official number of rows. `metrics[0]` is reported first; `main_metric` selects. `columns` maps
    `text`, `text_pair` and `label` to the TSV's column names; `hub_columns` to the hub's.
    """

    name: str
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    main_metric: str
    pair: bool
    rows: Mapping[str, int] = field(default_factory=dict)
    folder: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    hub_columns: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, TsvFile] = field(default_factory=dict)
    #: The hub's copy leaves out QQP rows that lack a column; everywhere else such a row is an error.
    drops_short_rows: bool = False
    #: Training rows are phrases of one another.
    phrases: bool = False

    @property
    def kind(self) -> Literal["classification", "regression"]:
        """Whether labels are classes or numbers."""
        return "regression" if self.labels is None else "classification"


ACCURACY = ("accuracy",)
ACCURACY_F1 = ("f1", "accuracy")
CORRELATIONS = ("pearson", "spearmanr")
ENTAILMENT = ("entailment", "not_entailment")
INFERENCE = ("entailment", "neutral", "contradiction")


def _glue(
    name: str,
    folder: str,
    labels: tuple[str, ...] | None,
    rows: tuple[int, int, int],
    text: str,
    text_pair: str | None,
    label: str,
    *,
    metrics: tuple[str, ...] = ACCURACY,
    main_metric: str | None = None,
    hub_columns: Mapping[str, str] | None = None,
    headless: tuple[str, ...] | None = None,
    drops_short_rows: bool = False,
    phrases: bool = False,
) -> Task:
    """A task with the usual three files; `headless` names the columns of train and dev where they have no header."""
    columns = {"text": text, "label": label} | ({"text_pair": text_pair} if text_pair else {})
    return Task(
        name=name,
        labels=labels,
        metrics=metrics,
        main_metric=main_metric or metrics[0],
        pair=text_pair is not None,
        rows=dict(zip(("train", "validation", "test"), rows, strict=True)),
        folder=folder,
        columns=columns,
        hub_columns=hub_columns or (columns | {"label": "label"}),
        files={
            "train": TsvFile((f"{folder}/train.tsv",), headless),
            "validation": TsvFile((f"{folder}/dev.tsv",), headless),
            "test": TsvFile((f"{folder}/test.tsv",)),
        },
        drops_short_rows=drops_short_rows,
        phrases=phrases,
    )


_PAIR = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _glue(
            "cola", "CoLA", ("unacceptable", "acceptable"), (8551, 1043, 1063), "sentence", None, "label",
            metrics=("matthews_correlation", "accuracy"),
            headless=("source", "label", "mark", "sentence"),
        ),
        _glue(
            "sst2", "SST-2", ("negative", "positive"), (67349, 872, 1821), "sentence", None, "label", phrases=True,
        ),
        _glue(
            "mrpc", "MRPC", ("not_equivalent", "equivalent"), (3668, 408, 1725), "#1 String", "#2 String", "Quality",
            metrics=ACCURACY_F1, hub_columns=_PAIR,
        ),
        _glue(
            "stsb", "STS-B", None, (5749, 1500, 1379), "sentence1", "sentence2", "score",
            metrics=CORRELATIONS, main_metric="pearson_spearmanr",
        ),
        _glue(
            "qqp", "QQP", ("not_duplicate", "duplicate"), (363846, 40430, 390965),
            "question1", "question2", "is_duplicate", metrics=ACCURACY_F1, drops_short_rows=True,
        ),
        Task(
            name="mnli",
            labels=INFERENCE,
            metrics=ACCURACY,
            main_metric="accuracy",
            pair=True,
            rows={
                "train": 392702, "validation_matched": 9815, "validation_mismatched": 9832,
                "test_matched": 9796, "test_mismatched": 9847,
            },
            folder="MNLI",
            columns={"text": "sentence1", "text_pair": "sentence2", "label": "gold_label"},
            hub_columns={"text": "premise", "text_pair": "hypothesis", "label": "label"},
            files={
                "train": TsvFile(("MNLI/train.tsv",)),
                "validation_matched": TsvFile(("MNLI/dev_matched.tsv",)),
                "validation_mismatched": TsvFile(("MNLI/dev_mismatched.tsv",)),
                "test_matched": TsvFile(("MNLI/test_matched.tsv",)),
                "test_mismatched": TsvFile(("MNLI/test_mismatched.tsv",)),
            },
        ),
        _glue("qnli", "QNLI", ENTAILMENT, (104743, 5463, 5463), "question", "sentence", "label"),
        _glue("rte", "RTE", ENTAILMENT, (2490, 277, 3000), "sentence1", "sentence2", "label"),
        _glue("wnli", "WNLI", ("not_entailment", "entailment"), (635, 71, 146), "sentence1", "sentence2", "label"),
        Task(
            name="ax",
            labels=INFERENCE,
            metrics=("matthews_correlation",),
            main_metric="matthews_correlation",
            pair=True,
            rows={"test": 1104},
            folder="AX",
            columns={"text": "sentence1", "text_pair": "sentence2", "label": "label"},
            hub_columns={"text": "premise", "text_pair": "hypothesis", "label": "label"},
            files={
                "test": TsvFile(
                    ("AX/AX.tsv", "AX/test.tsv", "AX/diagnostic.tsv", "diagnostic/diagnostic.tsv", "AX.tsv")
                )
            },
        ),
    )
}  # fmt: skip


def task_named(name: str) -> Task:
    """The GLUE task of that name; the error for any other name lists the valid ones."""
    if name not in TASKS:
        raise UnknownNameError("task", name, tuple(TASKS), "a file of your own needs `data=FILE`")
    return TASKS[name]


def own_task(name: str, labels: tuple[str, ...] | None, *, pair: bool) -> Task:
    """A task of the user's own; `labels` are its class names, `None` for regression.

    A regression of one's own is about values, not about ranks as STS-B is, so R2 selects.
    """
    if labels is None:
        return Task(name, None, (*CORRELATIONS, "rmse", "r2"), "r2", pair)
    return Task(name, labels, ACCURACY, "accuracy", pair)
