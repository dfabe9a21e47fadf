"""GLUE's metrics against scikit-learn and SciPy, for several heads at once."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from pipeline.metrics import classification_metrics, metric_value, regression_metrics


def reference(labels, predicted, classes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where only one class occurs
        found = {
            "accuracy": sk.accuracy_score(labels, predicted),
            "matthews_correlation": sk.matthews_corrcoef(labels, predicted),
        }
        if classes == 2:
            found["f1"] = sk.f1_score(labels, predicted, zero_division=0)
    return found


def assert_agree(predicted, labels, classes):
    found = classification_metrics(predicted, labels, classes)
    for head, row in enumerate(predicted):
        expected = reference(labels, row, classes)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name].shape == (len(predicted),)
            assert found[name][head] == pytest.approx(value, abs=1e-12), (name, head)


@pytest.mark.parametrize("classes", [2, 3])
def test_classification_equals_scikit_learn_for_every_head(classes):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 277)
    noisy = np.where(rng.random((6, 277)) < 0.3, rng.integers(0, classes, (6, 277)), labels)
    constant = np.tile(np.arange(classes)[:, None], 277)
    assert_agree(np.concatenate([noisy, constant, labels[None], (labels[None] + 1) % classes]), labels, classes)


@pytest.mark.parametrize("only", [0, 1])
def test_classification_where_the_labels_are_all_one_class(only):
    rng = np.random.default_rng(0)
    predicted = np.stack([np.zeros(50, int), np.ones(50, int), rng.integers(0, 2, 50)])
    assert_agree(predicted, np.full(50, only), 2)


@given(st.integers(2, 4), st.data())
@settings(max_examples=40, deadline=None)
def test_classification_equals_scikit_learn_on_tiny_splits(classes, data):
    rows = data.draw(st.integers(1, 8))
    row = st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)
    labels, predicted = data.draw(row), data.draw(st.lists(row, min_size=1, max_size=3))
    assert_agree(np.array(predicted), np.array(labels), classes)


def test_accuracy_is_a_count_over_the_whole_split():
    labels = np.zeros(277, int)
    predicted = np.stack([np.arange(277) >= right for right in range(0, 278, 23)]).astype(int)
    assert (classification_metrics(predicted, labels, 2)["accuracy"] * 277).round(9).tolist() == [*range(0, 278, 23)]


def check_regression(predicted, labels):
    found = regression_metrics(predicted, labels)
    for head, row in enumerate(predicted.astype(np.float64)):
        assert found["rmse"][head] == pytest.approx(sk.root_mean_squared_error(labels, row), rel=1e-12)
        assert found["r2"][head] == pytest.approx(sk.r2_score(labels, row), rel=1e-9, abs=1e-12)
        varied = np.ptp(row) > 0 and np.ptp(labels) > 0
        for name, score in (("pearson", stats.pearsonr), ("spearmanr", stats.spearmanr)):
            expected = score(labels.astype(np.float64), row).statistic if varied else 0.0
            assert found[name][head] == pytest.approx(expected, abs=1e-9), name


def test_regression_equals_scipy_with_ties_and_constant_heads():
    rng = np.random.default_rng(0)
    labels = (rng.integers(0, 26, 300) / 5).astype(np.float32)
    near = labels + rng.normal(size=(4, 300))
    heads = [near, near.round(), -labels[None], labels[None], np.full((1, 300), 0.1), np.zeros((1, 300))]
    check_regression(np.concatenate(heads).astype(np.float32), labels)


def test_regression_on_labels_that_do_not_vary():
    rng = np.random.default_rng(0)
    labels = np.full(40, 2.5, np.float32)
    check_regression(np.stack([rng.normal(size=40).astype(np.float32), labels, labels + 1]), labels)


def test_a_far_shift_does_not_hurt_correlation():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=100)
    predicted = (labels + 0.1 * rng.normal(size=100))[None]
    here, there = regression_metrics(predicted, labels), regression_metrics(predicted + 1e6, labels)
    assert there["pearson"] == pytest.approx(here["pearson"], abs=1e-8)


def test_stsb_is_scored_by_the_mean_of_pearson_and_spearman():
    assert metric_value({"pearson": 0.5, "spearmanr": 0.7, "rmse": 3.0}, "pearson_spearmanr") == pytest.approx(0.6)
    both = metric_value({"pearson": np.array([0.0, 1.0]), "spearmanr": np.array([1.0, 1.0])}, "pearson_spearmanr")
    assert both.tolist() == [0.5, 1.0]
    assert metric_value({"f1": 0.25, "accuracy": 0.5}, "f1") == 0.25


def test_heads_with_labels_of_their_own_score_as_each_does_alone():
    rng = np.random.default_rng(1)
    predicted, labels = rng.integers(0, 3, (4, 30)), rng.integers(0, 3, (4, 30))
    together = classification_metrics(predicted, labels, 3)
    for head in range(4):
        alone = classification_metrics(predicted[head : head + 1], labels[head], 3)
        assert {name: value[head] for name, value in together.items()} == {n: v[0] for n, v in alone.items()}
    values, targets = rng.normal(size=(4, 30)), rng.normal(size=(4, 30))
    together = regression_metrics(values, targets)
    for head in range(4):
        alone = regression_metrics(values[head : head + 1], targets[head])
        for name, value in together.items():
            assert value[head] == pytest.approx(alone[name][0], rel=1e-12)
