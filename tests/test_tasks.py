import pytest

from pipeline.errors import UnknownNameError
from pipeline.tasks import TASKS, own_task, task_named

NAMES = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax"]


def test_all_ten_tasks_are_there():
    assert list(TASKS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_whole(name):
    task = task_named(name)
    assert task.name == name
    assert list(task.files) == list(task.rows)
    assert set(task.columns) == set(task.hub_columns) == {"text", "label"} | ({"text_pair"} if task.pair else set())
    assert task.main_metric in task.metrics or (name, task.main_metric) == ("stsb", "pearson_spearmanr")
    assert (task.kind == "regression") == (name == "stsb")


def test_label_numbers_are_the_hubs():
    assert TASKS["rte"].labels == TASKS["qnli"].labels == ("entailment", "not_entailment")
    assert TASKS["wnli"].labels == ("not_entailment", "entailment")
    assert TASKS["mnli"].labels == TASKS["ax"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["cola"].labels == ("unacceptable", "acceptable")


def test_main_metrics_are_glues():
    main = {name: task.main_metric for name, task in TASKS.items()}
    assert main["cola"] == "matthews_correlation"
    assert main["mrpc"] == main["qqp"] == "f1"
    assert main["mnli"] == main["sst2"] == "accuracy"


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"unknown task 'CoLA': expected one of cola, .*, ax; a file") as info:
        task_named("CoLA")
    assert "\n" not in str(info.value)


def test_own_tasks():
    classes = own_task("mine", ("a", "b"), pair=True)
    assert (classes.kind, classes.main_metric, classes.pair) == ("classification", "accuracy", True)
    numbers = own_task("mine", None, pair=False)
    assert (numbers.kind, numbers.metrics) == ("regression", ("pearson", "spearmanr", "rmse", "r2"))
