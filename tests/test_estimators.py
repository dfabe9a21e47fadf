"""Heads as scikit-learn estimators: its own checks, its tools, and the same training as a sweep's."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import pipeline
from pipeline import HeadClassifier, HeadRegressor
from pipeline.errors import ConfigError, UnknownNameError
from pipeline.fit.data import FitData, fit_scaling
from pipeline.fit.train import train_pack
from pipeline.heads.families import FAMILIES
from pipeline.heads.resolve import resolve
from pipeline.sweep.spec import HEAD_OPTIONS
from pipeline.tasks import own_task

PACKABLE = [name for name, family in FAMILIES.items() if not family.own_loop]


@pytest.mark.parametrize("estimator", [HeadClassifier(hidden=(8,)), HeadRegressor()], ids=["classifier", "regressor"])
def test_scikit_learns_own_checks(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its checks warn of what they skip and of what they provoke
        found = check_estimator(estimator, on_fail="raise")
    assert len(found) > 40
    skipped = {check["check_name"] for check in found if check["status"] != "passed"}
    assert skipped <= {"check_array_api_input"}  # needs another environment variable before SciPy is imported


def test_in_a_pipeline_a_search_and_cross_validation():
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    head = HeadClassifier(hidden=(8,), lr=0.02, batch_size=16, random_state=0)
    steps = make_pipeline(StandardScaler(), head)
    scores = cross_val_score(steps, x, names, cv=3)
    assert scores.min() > 0.85
    search = GridSearchCV(steps, {"headclassifier__head": ["mlp", "effi_kan"], "headclassifier__epochs": [1, 20]}, cv=3)
    search.fit(x, names)
    assert search.best_params_["headclassifier__epochs"] == 20
    assert set(search.predict(x)) == set(names)
    assert search.best_score_ > 0.9


@pytest.mark.parametrize("family", PACKABLE)
def test_every_packable_family_learns(family):
    x = np.random.default_rng(0).normal(size=(300, 4))
    y = x[:, 0] * x[:, 1] > 0  # nothing for a line
    head = HeadClassifier(family, hidden=(8,), lr=0.02, random_state=0).fit(x, y)
    line = LogisticRegression().fit(x, y).score(x, y)
    assert head.score(x, y) > (line + 0.15 if family != "linear" else line - 0.05)
    assert head.n_parameters_ == sum(tensor.numel() for tensor in head.head_.tensors.values())


def test_pykans_family_too():
    x = np.random.default_rng(0).normal(size=(200, 2))
    head = HeadClassifier("kan", hidden=(2,), epochs=8, grid=3, random_state=0).fit(x, x[:, 0] * x[:, 1] > 0)
    assert head.score(x, x[:, 0] * x[:, 1] > 0) > 0.8


def test_every_option_of_a_head_is_a_parameter():
    assert set(HeadRegressor().get_params()) == {*HEAD_OPTIONS, "head", "random_state", "device"}
    with pytest.raises(UnknownNameError, match="unknown parameter 'depth'"):
        HeadClassifier(depth=3)


def test_a_regressor_learns():
    x, y = load_diabetes(return_X_y=True)
    head = HeadRegressor("mlp", hidden=(16,), random_state=0).fit(x, y)
    assert head.score(x, y) > 0.9 * LinearRegression().fit(x, y).score(x, y)
    assert 100 < head.predict(x).mean() < 200


@pytest.mark.parametrize(
    "names",
    [np.array(["b", "a", "c"]), np.array([7, -3, 100]), np.array([0.5, 1.5, 2.5]), np.array(["x", "yy", "z"], object)],
)
def test_labels_of_any_type(names):
    if names.dtype == float:
        with pytest.raises(ValueError, match="Unknown label type"):
            HeadClassifier().fit(np.zeros((30, 2)), np.resize(names, 30))
        return
    x, y = load_iris(return_X_y=True)
    head = HeadClassifier("linear", lr=0.05, random_state=0).fit(x, names[y])
    assert list(head.classes_) == sorted(names)
    assert head.score(x, names[y]) > 0.85
    chance = head.predict_proba(x)
    assert chance.shape == (150, 3)
    np.testing.assert_allclose(chance.sum(1), 1)
    np.testing.assert_array_equal(head.classes_[chance.argmax(1)], head.predict(x))
    np.testing.assert_array_equal(head.decision_function(x).argmax(1), chance.argmax(1))


def test_two_classes_have_one_decision():
    x, y = make_moons(100, random_state=0)
    head = HeadClassifier("mlp", hidden=(4,), random_state=0).fit(x, y > 0)
    assert head.classes_.dtype == bool
    np.testing.assert_array_equal(head.decision_function(x) > 0, head.predict(x))
    np.testing.assert_allclose(1 / (1 + np.exp(-head.decision_function(x))), head.predict_proba(x)[:, 1])


@pytest.mark.parametrize("scale", ["standard", "none", "tanh"])
def test_the_same_head_as_a_packs(scale):
    """Trained among others in a pack, a head has the estimator's weights up to float rounding."""
    x, y = make_moons(120, noise=0.2, random_state=1)
    head = HeadClassifier(hidden=(6,), scale=scale, random_state=3, epochs=4).fit(x, y)
    features = x.astype(np.float32)
    scaling = fit_scaling(scale, features)
    data = FitData(own_task("t", ("0", "1"), pair=False), "", {"train": scaling.apply(features)}, {"train": y}, scaling)
    options = {"hidden": (6,), "scale": scale, "epochs": 4}
    configs = [resolve("effi_kan", seed=s, features="pooled", options=options) for s in (1, 3, 5)]
    import torch

    expected = train_pack(configs, data, torch.device("cpu"))[1]
    assert (head.epoch_, len(head.curve_)) == (expected.epoch, 4)
    for name, tensor in expected.tensors.items():
        np.testing.assert_allclose(head.head_.tensors[name].numpy(), tensor.numpy(), rtol=1e-4, atol=1e-5)


def test_random_states():
    x, y = make_moons(80, random_state=0)

    def fitted(state):
        return HeadClassifier("linear", epochs=2, random_state=state).fit(x, y).head_.tensors["layers.0.weight"].numpy()

    np.testing.assert_array_equal(fitted(4), fitted(np.int64(4)))
    np.testing.assert_array_equal(fitted(np.random.RandomState(4)), fitted(np.random.RandomState(4)))
    assert not np.array_equal(fitted(4), fitted(5))
    assert not np.array_equal(fitted(None), fitted(None))


def test_a_fitted_head_can_be_pickled_by_its_user_and_cloned():
    x, y = make_moons(80, random_state=0)
    head = HeadClassifier(hidden=(3,), epochs=2, random_state=0).fit(x, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(head)).predict(x), head.predict(x))
    fresh = clone(head)
    assert fresh.get_params() == head.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(x)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"head": "efi_kan"}, UnknownNameError, "unknown head 'efi_kan': expected one of linear, mlp"),
        ({"lr": -1.0}, ConfigError, "--lr: expected a number above 0, found -1"),
        ({"hidden": "wide"}, ConfigError, "--hidden: expected a whole number"),
        ({"grid": 0}, ConfigError, "--grid: expected at least 1"),
        ({"lr": 1e30}, ConfigError, "it diverged at step"),
    ],
)
def test_options_that_cannot_be(options, error, words):
    x, y = make_moons(60, random_state=0)
    with pytest.raises(error) as caught:
        HeadClassifier(**options).fit(x, y)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", range(2, 26))
def test_few_rows(rows):
    rng = np.random.default_rng(rows)
    x, y = rng.normal(size=(rows, 3)), rng.normal(size=rows)
    assert np.isfinite(HeadRegressor("linear", epochs=1, random_state=0).fit(x, y).predict(x)).all()
    assert set(HeadClassifier("linear", epochs=1).fit(x, np.arange(rows) % 2 if rows > 2 else [0, 0]).predict(x)) <= {
        0,
        1,
    }


def test_the_package_offers_them():
    assert (pipeline.HeadClassifier, pipeline.HeadRegressor) == (HeadClassifier, HeadRegressor)
