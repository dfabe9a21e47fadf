"""Heads as scikit-learn estimators over feature arrays, trained as packs of one.

They follow scikit-learn's conventions, so that they work in its pipelines, searches and cross-validation.
"""

from inspect import Parameter, Signature
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.heads.config import HeadConfig
from pipeline.heads.resolve import resolve
from pipeline.sweep.spec import HEAD_OPTIONS
from pipeline.tasks import Task, own_task

__all__ = ["HeadClassifier", "HeadRegressor"]

#: Options of a head that are parameters of an estimator; `None` means the clean protocol's default.
_OPTIONS = HEAD_OPTIONS


class _Head(BaseEstimator):
    """What both estimators share: parameters, and one head trained through the packs."""

    def __init__(
        self, head: str = "effi_kan", *, random_state: Any = None, device: str = "cpu", **options: Any
    ) -> None:
        self.head, self.random_state, self.device = head, random_state, device
        for name in _OPTIONS:
            setattr(self, name, options.pop(name, None))
        if options:
            raise UnknownNameError("parameter", next(iter(options)), _OPTIONS)

    # scikit-learn reads an estimator's parameters from here: every option of a head is one, later ones too.
    __init__.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter("self", Parameter.POSITIONAL_OR_KEYWORD),
            Parameter("head", Parameter.POSITIONAL_OR_KEYWORD, default="effi_kan"),
            *(Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in (*_OPTIONS, "random_state")),
            Parameter("device", Parameter.KEYWORD_ONLY, default="cpu"),
        ]
    )

    def _config(self) -> HeadConfig:
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31)
        options = {name: getattr(self, name) for name in _OPTIONS}
        return resolve(self.head, seed=int(seed), features="pooled", options=options)

    def _train(self, features: np.ndarray, labels: np.ndarray, task: Task) -> None:
        """Train a pack of one; features [rows, inputs] and labels [rows] as a cache would hold them."""
        from pipeline.device import resolve_device
        from pipeline.fit.data import FitData, fit_scaling
        from pipeline.fit.train import train_pack
        from pipeline.models.saved import SavedHead

        config = self._config()
        features = features.astype(np.float32)
        scaling = fit_scaling(config.scale, features)
        data = FitData(task, "", {"train": scaling.apply(features)}, {"train": labels}, scaling)
        done = train_pack([config], data, resolve_device(self.device))[0]
        if done.diverged_at is not None:
            raise ConfigError(
                f"{type(self).__name__}: expected training that stays finite, found that it diverged at step "
                f"{done.diverged_at}; give a smaller lr, found lr={config.lr}"
            )
        self.head_ = SavedHead(
            "estimator", config, done.network, done.tensors, scaling, data.target_scale, task.labels, {}
        )
        self.n_parameters_ = done.parameters
        self.epoch_ = done.epoch
        self.n_iter_ = config.epochs
        self.curve_ = done.curve
        self.selection_ = done.selection

    def _outputs(self, X: Any) -> np.ndarray:
        """Outputs [rows, classes] in float64."""
        check_is_fitted(self)
        return self.head_.predict(validate_data(self, X, reset=False, dtype=np.float64), exact=True)


class HeadClassifier(ClassifierMixin, _Head):
    """A head of any packable family as a classifier.

    Parameters
    ----------
    head : family, one of `pipeline.heads.families.FAMILIES`.
    epochs, batch_size, lr, hidden, grid, scale, ... : the options of a head (`fit_heads.py run --help`), all of them;
        `None` is the clean protocol's default.
    random_state : seed of the replicate: initial weights, order of minibatches, rows held out to choose the epoch.
    device : `cpu`, `auto`, `cuda` or `cuda:N`.

    Attributes: `classes_`, `n_features_in_`, `epoch_` (chosen on a stratified tenth of the rows), `curve_` (training
    loss, selection loss and score of every epoch), `selection_` (metrics on the held-out rows), `n_parameters_`,
    `head_` (the trained `SavedHead`).
    """

    def fit(self, X: Any, y: Any) -> "HeadClassifier":
        """Train on features X [rows, inputs] and labels y [rows] of any type. Raises `ConfigError` on bad options."""
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        self.classes_ = encoder.classes_
        # With one class there is a second that no row has; it is never predicted.
        names = tuple(str(place) for place in range(max(2, len(self.classes_))))
        self._train(X, encoder.transform(y).astype(np.int64), own_task("rows", names, pair=False))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits [rows, classes]; for two classes [rows], the second's less the first's."""
        outputs = self._outputs(X)
        if len(self.classes_) == 1:
            return np.zeros(len(outputs))
        return outputs[:, 1] - outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [rows, classes]."""
        from scipy.special import softmax

        outputs = self._outputs(X)
        return softmax(outputs[:, : len(self.classes_)], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Labels [rows], of the type that `fit` was given."""
        outputs = self._outputs(X)
        return self.classes_[outputs[:, : len(self.classes_)].argmax(1)]


class HeadRegressor(RegressorMixin, _Head):
    """A head of any packable family as a regressor; parameters and attributes are those of `HeadClassifier`."""

    def fit(self, X: Any, y: Any) -> "HeadRegressor":
        """Train on features X [rows, inputs] and targets y [rows]. Raises `ConfigError` on bad options."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        self._train(X, y.astype(np.float32), own_task("rows", None, pair=False))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Values [rows] in the units of the targets."""
        return self._outputs(X)[:, 0]
