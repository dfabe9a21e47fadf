"""Which rows train and which select: groups, folds, draws of rows; and what cross-fitted heads are."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.fit.split import fold_replicates, replicate, whole_replicate
from pipeline.fit.train import train_pack
from pipeline.heads.resolve import resolve
from pipeline.metrics import classification_metrics, regression_metrics
from tests.helpers.synthetic_caches import fit_data

CPU = torch.device("cpu")


def grouped(rows=1000, groups=150, kind="sum"):
    """Rows in groups of about seven, some of them (-1) shared by several groups."""
    return replace(fit_data(kind, rows=rows), groups=np.random.default_rng(1).integers(-1, groups, rows))


@pytest.mark.parametrize("kind", ["sum", "three", "number"])
@pytest.mark.parametrize("rows", [None, 400])
def test_rows_of_a_group_are_held_out_together(kind, rows):
    data = grouped(kind=kind)
    for seed in range(5):
        one = replicate(data, seed, "clean", rows)
        held, trained = set(data.groups[one.selection]), set(data.groups[one.train])
        assert not held & trained
        assert -1 not in held
        count = rows or 1000
        assert len(one.train) + len(one.selection) == count
        assert 0.08 * count < len(one.selection) < 0.13 * count
        assert len(one.order(0)) == one.rows == replicate(data, 0, "clean", rows).rows


def test_held_out_groups_have_the_classes_shares():
    data = fit_data("three", rows=3000)
    data = replace(data, groups=np.random.default_rng(0).integers(0, 900, 3000))
    held, whole = (np.bincount(data.labels["train"][rows]) for rows in (replicate(data, 0, "clean").selection, ...))
    np.testing.assert_allclose(held / held.sum(), whole / whole.sum(), atol=0.04)


def test_a_group_of_most_rows_is_never_held_out():
    data = replace(fit_data(rows=100), groups=np.array([0] * 80 + list(range(1, 21))))
    for seed in range(10):
        assert 0 not in data.groups[replicate(data, seed, "clean").selection]


def test_an_epoch_has_as_many_rows_whatever_was_held_out():
    data = grouped()
    for seed in range(5):
        one = replicate(data, seed, "clean")
        counts = Counter(one.order(0))
        assert set(counts) <= set(one.train)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert sum(counts.values()) == one.rows


@pytest.mark.parametrize("kind", ["sum", "number"])
def test_draws_of_rows_are_nested_stratified_and_of_the_seed(kind):
    data = fit_data(kind, rows=500)
    small, large, other = (whole_replicate(data, seed, rows).train for seed, rows in ((3, 50), (3, 200), (4, 50)))
    assert (len(small), len(large)) == (50, 200)
    assert set(small) < set(large)
    assert set(small) != set(other)
    np.testing.assert_array_equal(whole_replicate(data, 3, 500).train, np.arange(500))
    labels = data.labels["train"]
    if kind == "sum":
        assert abs(labels[small].mean() - labels.mean()) <= 0.02
    else:
        assert np.bincount(labels.argsort().argsort()[small] // 50).tolist() == [5] * 10
    one = replicate(data, 3, "clean", 50)
    np.testing.assert_array_equal(np.sort(np.r_[one.train, one.selection]), small)


@pytest.mark.parametrize("data", [fit_data("three", rows=103), fit_data("number", rows=103), grouped()])
def test_every_row_that_is_not_shared_selects_in_one_fold(data):
    folds = fold_replicates(data, 2, 5)
    selection = np.concatenate([one.selection for one in folds])
    shared = set() if data.groups is None else set(np.flatnonzero(data.groups == -1))
    rows = len(data.labels["train"])
    assert len(selection) == len(set(selection)) == rows - len(shared)
    assert not set(selection) & shared
    for one in folds:
        np.testing.assert_array_equal(np.sort(np.r_[one.train, one.selection]), np.arange(rows))
        assert abs(len(one.selection) - len(selection) / 5) <= 3
        if data.groups is not None:
            assert not set(data.groups[one.train]) & set(data.groups[one.selection])
    assert len({one.rows for one in folds}) == 1


@pytest.mark.parametrize(
    ("changes", "call", "message"),
    [
        ({"groups": np.zeros(60, np.int64)}, lambda d: replicate(d, 0, "clean"), "at least 2 groups .* all 60 .* one"),
        ({}, lambda d: fold_replicates(d, 0, 40), "expected at most 2[0-9] folds, .*smallest class, found folds=40"),
        ({"groups": np.arange(60) % 3}, lambda d: fold_replicates(d, 0, 5), "at least 5 groups .* folds=5, found 3"),
    ],
)
def test_what_cannot_be_split_is_one_clear_line(changes, call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call(replace(fit_data(rows=60), **changes))
    assert "\n" not in str(caught.value)


def config(head="mlp", seed=0, **options):
    return resolve(head, seed=seed, features="pooled", options={"epochs": 4, "hidden": (6,), "lr": 0.02} | options)


@pytest.mark.parametrize("kind", ["sum", "number"])
def test_folds_choose_the_epoch_by_all_their_rows_together(kind):
    """Against heads trained fold by fold on data of their own, whose last-epoch outputs on held-out rows are pooled."""
    data, one = fit_data(kind, rows=90), config(folds=3)
    [found] = train_pack([one], data, CPU)
    labels, pooled = data.labels["train"], {}
    for part in fold_replicates(data, 0, 3):
        for epochs in range(1, 5):
            features = {"train": data.features["train"], "validation": data.features["train"][part.selection]}
            alone = replace(data, features=features, labels={"train": labels, "validation": labels[part.selection]})
            held = outputs_after(one, alone, part, epochs)
            pooled.setdefault(epochs, np.zeros((90, held.shape[1])))[part.selection] = held
    scores = []
    for values in pooled.values():
        if kind == "sum":
            scores.append(classification_metrics(values.argmax(1)[None], labels, 2)["accuracy"][0])
        else:
            scores.append(regression_metrics(values[:, 0][None], labels)["r2"][0])
    np.testing.assert_allclose([score for *_, score in found.curve], scores, atol=1e-6)
    assert scores[found.epoch - 1] == pytest.approx(max(scores), abs=1e-6)


def outputs_after(one, data, part, epochs):
    """Outputs on `validation` of the member of a fold after some epochs, by the engine's own steps."""
    from pipeline.fit.train import _Pack

    pack = _Pack([replace(one, folds=None)], data, CPU, None, [[part]])
    for epoch in range(epochs):
        pack.run_epoch(epoch)
    pack.best.keep(np.arange(1), pack.engine.tensors)
    return pack.outcomes(0.0)[0].outputs["validation"]


def test_cross_fitted_heads_are_trained_again_on_all_rows():
    data = fit_data(rows=90)
    [found] = train_pack([config(folds=3)], data, CPU)
    part = whole_replicate(data, 0)
    expected = outputs_after(config(), data, part, found.epoch)
    np.testing.assert_allclose(found.outputs["validation"], expected, atol=1e-6)
    assert len(found.curve) == 4


def test_cross_fitted_heads_do_not_depend_on_their_pack():
    data = grouped(rows=200, groups=60)
    configs = [config(seed=seed, lr=lr, folds=3) for lr in (0.01, 0.03) for seed in (5, 2)]
    for one, found in zip(configs, train_pack(configs, data, CPU), strict=True):
        [alone] = train_pack([one], data, CPU)
        assert (found.config, found.epoch) == (one, alone.epoch)
        np.testing.assert_allclose(found.outputs["validation"], alone.outputs["validation"], atol=1e-5)
        assert found.selection == pytest.approx(alone.selection)


def test_a_head_that_diverges_in_a_fold_has_diverged():
    [found, sound] = train_pack([config(lr=1e30, clip=1e30, folds=3), config(folds=3)], fit_data(rows=90), CPU)
    assert found.diverged_at is not None
    assert (found.metrics, found.outputs) == ({}, {})
    assert sound.diverged_at is None


def test_the_published_protocol_takes_no_folds():
    with pytest.raises(ConfigError, match="folds: expected 1 in the protocol published"):
        resolve("mlp", seed=0, features="pooled", protocol="published", options={"folds": 5})
    assert config("kan", hidden=None, folds=5).folds is None
    assert config(folds=1) == config()
