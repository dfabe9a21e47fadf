"""The rows that a pack trains on: scaled embeddings and targets."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.fit.tokens import Tokens, parts_of
from pipeline.tasks import Task

__all__ = ["FitData", "Scaling", "fit_scaling", "targets_of"]


@dataclass(frozen=True)
class Scaling:
    """How features are scaled; kept with every head. `shift` and `factor` are [inputs], float32."""

    kind: str
    shift: np.ndarray
    factor: np.ndarray

    def apply(self, features: np.ndarray | Tokens) -> np.ndarray | Tokens:
        """Scaled features [rows, inputs], float32: (x - shift) * factor, through tanh if `kind` says so.

        Of tokens, these with a note of it: they are scaled as they are widened.
        """
        if isinstance(features, Tokens):
            return replace(features, scaling=self)
        if self.kind == "none":
            return features
        scaled = (features - self.shift) * self.factor
        return np.tanh(scaled) if self.kind == "tanh" else scaled


def fit_scaling(kind: str, features: np.ndarray | Tokens) -> Scaling:
    """Statistics of the training split's rows [rows, inputs] alone; a feature that does not vary is only centred.

    Those of tokens are over all tokens of these rows.
    """
    width = features.shape[1]
    if kind == "none":
        return Scaling(kind, np.zeros(width, np.float32), np.ones(width, np.float32))
    mean, spread = _statistics(features)
    factor = np.divide(1, spread, out=np.ones(width), where=spread > 1e-12)
    return Scaling(kind, mean.astype(np.float32), factor.astype(np.float32))


def _statistics(features: np.ndarray | Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [inputs], float64; of tokens, which would be large in float64, some at a time."""
    if not isinstance(features, Tokens):
        wide = features.astype(np.float64)
        return wide.mean(0), wide.std(0)
    count = len(features.values)
    mean = sum(values.sum(0, dtype=np.float64) for values, _ in parts_of(features)) / count
    squares = sum(((values.astype(np.float64) - mean) ** 2).sum(0) for values, _ in parts_of(features))
    return mean, np.sqrt(squares / count)


@dataclass(frozen=True)
class FitData:
    """One task's features and labels, ready for packs.

    `features` maps splits to scaled arrays [rows, inputs], or to tokens for a pool that trains; `labels` maps splits to
    class numbers or target values [rows]. `train` holds labelled rows only. `reported` are the labelled splits besides
    it.
    """

    task: Task
    fingerprint: str
    features: dict[str, np.ndarray | Tokens]
    labels: dict[str, np.ndarray]
    scaling: Scaling
    #: The group of every training row, int64 [rows]: rows of a group are held out together, and those of
    #: `pipeline.sources.groups.SHARED` (-1) never. `None` where nothing is known.
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Raise `ConfigError` for numbers that float32 does not hold: every head would diverge."""
        for split, features in self.features.items():
            if not isinstance(features, Tokens) and not np.isfinite(features).all():
                raise ConfigError(
                    f"{self.task.name}: expected features of {split} within float32 (up to 3.4e38), found larger ones "
                    "or some that are not finite, once scaled; rescale them"
                )
            if self.task.labels is None and not np.isfinite(np.asarray(self.labels[split], np.float32)).all():
                raise ConfigError(
                    f"{self.task.name}: expected targets of {split} within float32 (up to 3.4e38), found larger ones "
                    "or some that are not finite; rescale them"
                )

    @property
    def inputs(self) -> int:
        """Width of the features."""
        return self.features["train"].shape[1]

    @property
    def outputs(self) -> int:
        """Classes, or 1 for regression."""
        return 1 if self.task.labels is None else len(self.task.labels)

    @property
    def reported(self) -> tuple[str, ...]:
        """Labelled splits that metrics are reported on."""
        return tuple(split for split in self.labels if split != "train")

    @cached_property
    def target_scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the training targets (regression trains on standardised targets)."""
        if self.task.labels is not None:
            return 0.0, 1.0
        targets = self.labels["train"].astype(np.float64)
        return float(targets.mean()), float(targets.std() or 1.0)

    @cached_property
    def targets(self) -> Tensor:
        """Training targets: class numbers int64 [rows], or standardised values float32 [rows]."""
        return targets_of(self, self.labels["train"])


def targets_of(data: FitData, labels: np.ndarray) -> Tensor:
    """Labels of any shape as targets: class numbers int64, or values float32 standardised by the training rows'."""
    if data.task.labels is not None:
        return torch.from_numpy(labels.astype(np.int64))
    mean, spread = data.target_scale
    return torch.from_numpy(((labels - mean) / spread).astype(np.float32))
