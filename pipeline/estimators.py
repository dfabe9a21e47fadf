"""Heads as scikit-learn estimators over feature arrays, trained as packs of one.

They follow scikit-learn's conventions, so that they work in its pipelines, searches and cross-validation.
"""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.errors import ConfigError
from pipeline.heads.config import HeadConfig
from pipeline.heads.families import build_network
from pipeline.heads.resolve import resolve
from pipeline.tasks import Task, own_task

__all__ = ["HeadClassifier", "HeadRegressor"]

#: Options of a head that are parameters of an estimator; `None` means the protocol's default.
_OPTIONS = (
    "epochs", "batch_size", "lr", "weight_decay", "clip", "starts", "hidden", "activation", "grid", "order", "centres",
    "grid_range", "sharpness", "spline_scaler", "base", "layer_norm", "scale",
)  # fmt: skip


class _Head(BaseEstimator):
    """What both estimators share: parameters, and one head trained through the packs."""

    def __init__(
        self, head="effi_kan", *, epochs=None, batch_size=None, lr=None, weight_decay=None, clip=None, starts=None,
        hidden=None, activation=None, grid=None, order=None, centres=None, grid_range=None, sharpness=None,
        spline_scaler=None, base=None, layer_norm=None, scale=None, random_state=None, device="cpu",
    ) -> None:  # fmt: skip
        self.head = head
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.starts = starts
        self.hidden = hidden
        self.activation = activation
        self.grid = grid
        self.order = order
        self.centres = centres
        self.grid_range = grid_range
        self.sharpness = sharpness
        self.spline_scaler = spline_scaler
        self.base = base
        self.layer_norm = layer_norm
        self.scale = scale
        self.random_state = random_state
        self.device = device

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
        self.config_ = config
        self.scaling_ = scaling
        self.target_scale_ = data.target_scale
        self.tensors_ = {name: tensor.numpy() for name, tensor in done.tensors.items()}
        self.n_parameters_ = done.parameters
        self.epoch_ = done.epoch
        self.n_iter_ = config.epochs
        self.curve_ = done.curve
        self.selection_ = done.selection

    def _outputs(self, X: Any) -> np.ndarray:
        """Outputs [rows, classes] in float64, in which they do not depend on what other rows are predicted with."""
        import torch

        from pipeline.heads.forward import network_forward

        check_is_fitted(self)
        features = validate_data(self, X, reset=False, dtype=np.float64)
        scaled = torch.from_numpy(self.scaling_.apply(features.astype(np.float32)).astype(np.float64))
        outputs = 1 if not hasattr(self, "classes_") else max(2, len(self.classes_))
        network = build_network(self.config_, features.shape[1], outputs)
        tensors = {name: torch.from_numpy(tensor).double().unsqueeze(0) for name, tensor in self.tensors_.items()}
        with torch.inference_mode():
            return network_forward(network, scaled.unsqueeze(0), tensors)[0].numpy()


class HeadClassifier(ClassifierMixin, _Head):
    """A head of any packable family as a classifier.

    Parameters
    ----------
    head : family, one of `pipeline.heads.families.HEADS`.
    epochs, batch_size, lr, weight_decay, clip, starts, hidden, activation, grid, order, centres, grid_range, sharpness,
        spline_scaler, base, layer_norm, scale : options of `fit_heads.py run`; `None` is the clean protocol's default.
    random_state : seed of the replicate: initial weights, order of minibatches, rows held out to choose the epoch.
    device : `cpu`, `auto`, `cuda` or `cuda:N`.

    Attributes: `classes_`, `n_features_in_`, `epoch_` (chosen on a stratified tenth of the rows), `curve_` (training
    loss, selection loss and score of every epoch), `selection_` (metrics on the held-out rows), `n_parameters_`,
    `tensors_`.
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
        outputs = self._outputs(X)
        return outputs[:, 0] * self.target_scale_[1] + self.target_scale_[0]
