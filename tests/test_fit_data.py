"""What a pack trains on: scaling, targets, and the replicate that a seed fixes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from pipeline.errors import CacheError, ConfigError, UnknownNameError
from pipeline.fit.data import FitData, Scaling, fit_scaling
from pipeline.fit.split import replicate
from pipeline.models.caches import find_cache, load_data
from tests.helpers.synthetic_caches import arrays_of, fit_data, task_of, write_cache


def with_labels(labels, kind="sum"):
    labels = np.asarray(labels)
    features = np.zeros((len(labels), 2), np.float32)
    scaling = fit_scaling("none", features)
    return FitData(task_of(kind), "", {"train": features}, {"train": labels}, scaling)


def test_standard_scaling_is_scikit_learns():
    x = (np.random.default_rng(0).normal(size=(300, 5)) * [1, 10, 0.1, 1e-3, 1] + 100).astype(np.float32)
    found = fit_scaling("standard", x).apply(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, StandardScaler().fit_transform(x.astype(np.float64)), atol=2e-2)
    centred = (x - 100).astype(np.float32)
    expected = StandardScaler().fit_transform(centred.astype(np.float64))
    np.testing.assert_allclose(fit_scaling("standard", centred).apply(centred), expected, atol=1e-5)
    np.testing.assert_allclose(fit_scaling("tanh", centred).apply(centred), np.tanh(expected), atol=1e-5)


def test_no_scaling_changes_nothing():
    x = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    np.testing.assert_array_equal(fit_scaling("none", x).apply(x), x)


def test_a_feature_that_does_not_vary_is_only_centred():
    x = np.full((30, 2), 7.0, np.float32)
    x[:, 1] = np.arange(30)
    found = fit_scaling("standard", x)
    np.testing.assert_array_equal(found.apply(x)[:, 0], 0)
    assert found.factor[0] == 1


@pytest.mark.parametrize("scale", ["standard", "tanh"])
def test_scaling_knows_the_training_rows_alone(tmp_path, scale):
    path = write_cache(tmp_path)
    ref = find_cache(tmp_path, "rte", "tiny")
    data = load_data(ref, "pooled", scale)
    (train, train_labels), (validation, labels) = arrays_of(path, "train"), arrays_of(path, "validation")
    scaled = (validation.astype(np.float64) - train.mean(0, np.float64)) / train.std(0, dtype=np.float64)
    np.testing.assert_allclose(
        data.features["validation"], np.tanh(scaled) if scale == "tanh" else scaled, rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(data.labels["validation"], labels)
    np.testing.assert_array_equal(data.labels["train"], train_labels)
    assert data.reported == ("validation",)  # the test split has no labels
    assert isinstance(data.scaling, Scaling)


def test_rows_without_a_label_are_left_out(tmp_path):
    write_cache(tmp_path, rows={"train": 100, "validation": 40, "test": 10})
    data = load_data(find_cache(tmp_path, "rte", "tiny"), "mean", "none")
    assert {split: len(x) for split, x in data.features.items()} == {"train": 100, "validation": 40}


def test_a_cache_without_anything_to_train_or_report_on_is_one_clear_line(tmp_path):
    write_cache(tmp_path, "ax", kind="three", rows={"test": 20})
    with pytest.raises(CacheError, match="labelled rows in the split 'train'"):
        load_data(find_cache(tmp_path, "ax", "tiny"), "pooled", "none")
    write_cache(tmp_path, "wnli", rows={"train": 20, "test": 20})
    with pytest.raises(CacheError, match="besides 'train'"):
        load_data(find_cache(tmp_path, "wnli", "tiny"), "pooled", "none")


def test_a_feature_that_is_not_stored_lists_those_that_are(tmp_path):
    write_cache(tmp_path)
    ref = find_cache(tmp_path, "rte", "tiny")
    assert ref.feature(None) == "pooled"
    assert ref.feature("mean") == "mean"
    with pytest.raises(UnknownNameError, match=r"'cls'.*pooled, mean.*--store cls"):
        ref.feature("cls")


def test_regression_targets_are_standardised_by_the_training_rows():
    data = fit_data("number")
    labels = data.labels["train"].astype(np.float64)
    expected = (labels - labels.mean()) / labels.std()
    np.testing.assert_allclose(data.targets.numpy(), expected, atol=1e-5)
    assert data.target_scale == (pytest.approx(labels.mean()), pytest.approx(labels.std()))
    assert data.outputs == 1
    assert fit_data("three").targets.dtype == torch.int64
    assert fit_data("three").outputs == 3


@pytest.mark.parametrize("kind", ["sum", "three", "number"])
def test_a_replicate_holds_out_a_tenth_for_selection(kind):
    data = fit_data(kind, rows=400)
    one, again, other = (replicate(data, seed, "clean") for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.selection, again.selection)
    assert not np.array_equal(one.selection, other.selection)
    np.testing.assert_array_equal(np.sort(np.concatenate([one.train, one.selection])), np.arange(400))
    assert 38 <= len(one.selection) <= 42
    assert len(other.train) == len(one.train)
    if kind == "number":
        labels = data.labels["train"]
        ranks = labels.argsort().argsort()[one.selection] // 40
        assert np.bincount(ranks, minlength=10).tolist() == [4] * 10


def test_the_held_out_tenth_has_the_classes_shares():
    labels = np.repeat([0, 1, 2], [700, 253, 47])
    held = replicate(with_labels(labels, "three"), 0, "clean").selection
    assert np.bincount(labels[held]).tolist() == [70, 25, 5]


def test_a_rare_class_is_on_both_sides():
    labels = np.repeat([0, 1], [100, 2])
    one = replicate(with_labels(labels), 0, "clean")
    assert (labels[one.selection] == 1).sum() == 1
    assert (labels[one.train] == 1).sum() == 1


def test_too_few_rows_are_one_clear_line():
    with pytest.raises(ConfigError, match="hold out a tenth, found 1"):
        replicate(with_labels([0]), 0, "clean")


def test_the_published_protocol_trains_on_every_row():
    one = replicate(fit_data(rows=50), 0, "published")
    np.testing.assert_array_equal(one.train, np.arange(50))
    assert one.selection is None


@pytest.mark.parametrize("protocol", ["clean", "published"])
def test_each_epoch_has_its_own_order_fixed_by_the_seed(protocol):
    data = fit_data(rows=100)
    one, again, other = (replicate(data, seed, protocol) for seed in (0, 0, 1))
    orders = [one.order(epoch) for epoch in range(3)]
    for epoch, order in enumerate(orders):
        np.testing.assert_array_equal(np.sort(order), one.train)
        np.testing.assert_array_equal(order, again.order(epoch))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], other.order(0))


def test_a_seed_fixes_the_global_generators_for_nobody():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    replicate(fit_data(), 0, "clean").order(0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("name", ["features", "labels"])
def test_what_float32_does_not_hold_is_named_before_anything_trains(name):
    whole = fit_data("number")
    broken = {split: values.copy() for split, values in getattr(whole, name).items()}
    broken["train"][3] = np.inf
    with pytest.raises(ConfigError, match="of train within float32"):
        replace(whole, **{name: broken})
