"""What a smaller network is held to, for one head on its own data."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.explain.convert import head_outputs
from pipeline.explain.prune import Goal
from pipeline.fit.data import FitData
from pipeline.fit.kan_train import standardised
from pipeline.fit.split import replicate
from pipeline.models.saved import SavedHead

__all__ = ["Setting", "fidelity", "setting"]

#: Rows of the training split that small networks are fitted to.
MOST_ROWS = 2000
#: Share of rows on which a smaller network decides as the head does that counts as doing what it does.
AGREEMENT = 0.985


@dataclass(frozen=True)
class Setting:
    """A head's goal, the inputs that are kept (their places), and the reported split's rows with the head's outputs."""

    goal: Goal
    kept: tuple[int, ...]
    split: str
    x: Tensor
    raw: np.ndarray
    head: np.ndarray
    labels: np.ndarray


def setting(head: SavedHead, data: FitData, kept: tuple[int, ...]) -> Setting:
    """Classes: to decide as the head does, with its probabilities. Values: to predict the labels as well as it does."""
    one = replicate(data, head.config.seed, head.config.protocol, head.config.rows)
    features = torch.from_numpy(np.asarray(data.features["train"], np.float64))
    chosen = np.sort(one.order(0)[:MOST_ROWS])
    x, columns = features[chosen], list(kept)
    if data.task.labels is None:
        held = one.selection if one.selection is not None else chosen
        targets, wanted = (standardised(data, data.labels["train"][rows]) for rows in (chosen, held))

        def quality(outputs: Tensor) -> float:
            return float(1 - (outputs[:, 0] - wanted).square().mean() / wanted.var(unbiased=False))

        own = quality(head_outputs(head, features[held]))
        goal = Goal(
            x[:, columns], lambda outputs: (outputs[:, 0] - targets).square().mean(), features[held][:, columns],
            quality, 1 - max(3 * (1 - own), 1e-3),
        )  # fmt: skip
    else:
        logits = head_outputs(head, x)
        shares, decided = logits.softmax(1), logits.argmax(1)
        goal = Goal(
            x[:, columns],
            lambda outputs: -(shares * outputs.log_softmax(1)).sum(1).mean(),
            x[:, columns],
            lambda outputs: float((outputs.argmax(1) == decided).double().mean()),
            AGREEMENT,
        )
    split = data.reported[0]
    reported = torch.from_numpy(np.asarray(data.features[split], np.float64))
    outputs = head_outputs(head, reported).numpy() * head.target_scale[1] + head.target_scale[0]
    raw = reported.numpy()
    if head.config.scale == "standard":
        raw = raw / head.scaling.factor.astype(np.float64) + head.scaling.shift
    return Setting(goal, kept, split, reported[:, columns], raw[:, columns], outputs, data.labels[split])


def fidelity(head: SavedHead, one: Setting, outputs: np.ndarray) -> dict[str, float | int]:
    """How outputs [rows, out] on the reported split stand to the head's (`*_to_head`) and to the labels.

    Rows on which some output is no number are counted in `undefined`; they agree with nothing.
    """
    bad = ~np.isfinite(outputs).all(1)
    found: dict[str, float | int] = {"undefined": int(bad.sum())}
    if head.labels is not None:
        decided = np.where(bad, -1, np.where(np.isfinite(outputs), outputs, -np.inf).argmax(1))
        found["agreement_to_head"] = float((decided == one.head.argmax(1)).mean())
        wrong = (one.labels.astype(np.int64) + 1) % len(head.labels)  # where there is no answer
        answers = np.eye(len(head.labels))[np.where(bad, wrong, decided)]
        return found | head.metrics(answers, one.labels)
    good = ~bad
    if not good.any():
        return found
    error = outputs[good, 0] - one.head[good, 0]
    found |= {
        "rmse_to_head": float(np.sqrt((error**2).mean())),
        "r2_to_head": float(1 - (error**2).mean() / max(one.head[good, 0].var(), 1e-30)),
    }
    return found | head.metrics(outputs[good], one.labels[good])
