"""Training of pykan's network: LBFGS or Adam over all rows, with pykan's penalty and its moving grids.

The one loop besides the pack's. LBFGS chooses each step by a line search over the whole loss, and grids follow the
samples, which differ from head to head: neither has a stacked form, and neither can be had from AdamW on minibatches.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.fit.data import FitData
from pipeline.fit.kan_forward import expand, forward, layer_of, penalty, start, update_grids
from pipeline.fit.predict import split_metrics
from pipeline.fit.split import Replicate, replicate
from pipeline.fit.step import row_losses
from pipeline.fit.train import Outcome
from pipeline.heads.config import HeadConfig
from pipeline.heads.families import build_network
from pipeline.heads.pykan import PykanNetwork
from pipeline.metrics import metric_value

__all__ = ["GRID_EVERY", "Diverged", "optimise", "standardised", "train_kan"]

TRAINED = ("coef", "scale_base", "scale_sp")
#: Grids follow the samples at every fifth step (pykan), but not in the second half, which settles on them.
GRID_EVERY = 5
GRID_UNTIL = 50


class Diverged(ArithmeticError):
    """The loss is no number any more; `step` counts from 0."""

    def __init__(self, step: int) -> None:
        super().__init__(f"diverged at step {step}")
        self.step = step


def optimise(
    tensors: Mapping[str, Tensor],
    x: Tensor,
    loss: Callable[..., Tensor],
    *,
    steps: int,
    optimiser: str = "lbfgs",
    lr: float = 1.0,
    lamb: float = 0.0,
    entropy: float = 2.0,
    grids: bool = True,
    trained: Iterable[str] = TRAINED,
    rows: Callable[[int], Tensor] | None = None,
    on_step: Callable[[int, dict[str, Tensor], float], None] = lambda *_: None,
) -> dict[str, Tensor]:
    """Fit a network to `loss(outputs)` plus `lamb` times pykan's penalty over rows x [rows, in], float64.

    With `rows`, each step sees the rows that it names, and the loss is `loss(outputs, rows)`. Returns the last tensors;
    `on_step` is told (step, tensors, objective) after each. One LBFGS step is up to twenty iterations with a
    strong-Wolfe line search. Raises `Diverged`.
    """
    state = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    names = tuple(trained)
    solver, seen, first, weights = None, x, None, []
    for step in range(steps):
        if grids and step % GRID_EVERY == 0 and step < min(GRID_UNTIL, max(1, steps // 2)):
            moved = update_grids({name: tensor.detach() for name, tensor in state.items()}, x)
            state = {name: tensor.detach().clone() for name, tensor in moved.items()}
            solver = first = None
        if solver is None:
            weights = [tensor.requires_grad_() for name, tensor in state.items() if name.split(".")[-1] in names]
            solver = _solver(weights, optimiser, lr)
        chosen = () if rows is None else (rows(step),)
        if chosen or first is None:
            seen = x[chosen[0]] if chosen else x
            first = expand(seen.T, layer_of(state, 0))
        value = float(solver.step(_objective(solver, state, seen, first, loss, chosen, lamb, entropy)).detach())
        if not (math.isfinite(value) and all(bool(weight.isfinite().all()) for weight in weights)):
            raise Diverged(step)
        on_step(step, state, value)
    return {name: tensor.detach() for name, tensor in state.items()}


def _objective(
    solver: torch.optim.Optimizer, state: Mapping[str, Tensor], x: Tensor, first: Tensor,
    loss: Callable[..., Tensor], chosen: tuple[Tensor, ...], lamb: float, entropy: float,
) -> Callable[[], Tensor]:  # fmt: skip
    def objective() -> Tensor:
        solver.zero_grad()
        if lamb:
            outputs, size = penalty(state, x, entropy, first)
            value = loss(outputs, *chosen) + lamb * size
        else:
            value = loss(forward(state, x, first), *chosen)
        value.backward()
        return value

    return objective


def _solver(weights: list[Tensor], name: str, lr: float) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(weights, lr=lr)
    return torch.optim.LBFGS(
        weights, lr=lr, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-32, tolerance_change=1e-32
    )


def train_kan(
    config: HeadConfig, data: FitData, on_step: Callable[[], None] = lambda: None, *,
    first: Mapping[str, Tensor] | None = None, last: bool = False,
) -> Outcome:  # fmt: skip
    """Train one head; an epoch is one step of its optimiser, over `batch_size` rows (all, where there are no more).

    From the weights `first`, grids stay where they are: they belong to what was learned there. With `last`, the head is
    as its last step left it.
    """
    network = build_network(config, data.inputs, data.outputs)
    begin = time.perf_counter()
    begun = first is not None
    first = (
        {name: tensor.double() for name, tensor in first.items()}
        if begun
        else start(network.widths, config.grid, config.order, config.grid_range, config.seed)
    )
    one = replicate(data, config.seed, config.protocol, config.rows)
    features = torch.from_numpy(np.ascontiguousarray(data.features["train"], np.float64))
    if one.selection is None:
        held = data.features[data.reported[0]], data.labels[data.reported[0]]
    else:
        held = data.features["train"][one.selection], data.labels["train"][one.selection]
    held_x, held_targets = torch.from_numpy(held[0].astype(np.float64)), standardised(data, held[1])
    if config.base == "zero":  # splines of fixed scale alone, as in the KAN paper's continual learning
        first = first | {name: torch.zeros_like(t) for name, t in first.items() if name.endswith("scale_base")}
    x, targets = features[one.train], data.targets[one.train]
    targets = targets if data.task.labels is not None else targets.double()
    small = config.batch_size < len(x)
    best: dict[str, object] = {"score": -math.inf, "loss": math.inf, "epoch": 0, "tensors": None, "selection": {}}
    curve: list[tuple[float, float, float]] = []

    def select(step: int, state: Mapping[str, Tensor], value: float) -> None:
        with torch.no_grad():
            outputs = forward(state, held_x)
            lost = float(_loss(outputs, held_targets))
        found = {name: float(value[0]) for name, value in split_metrics(outputs.unsqueeze(0), held[1], data).items()}
        score = float(metric_value(found, data.task.main_metric))
        curve.append((value, lost, score))
        if last or score > best["score"] or (score == best["score"] and lost < best["loss"]):
            best.update(score=score, loss=lost, epoch=step + 1, selection=found)
            best["tensors"] = {name: tensor.detach().clone() for name, tensor in state.items()}
        on_step()

    diverged_at = None
    try:
        optimise(
            first, x,
            (lambda outputs, rows: _loss(outputs, targets[rows])) if small else (lambda o: _loss(o, targets)),
            steps=config.epochs, optimiser=config.optimiser, lr=config.lr, lamb=config.lamb,
            entropy=config.lamb_entropy, on_step=select, grids=not (begun or last),
            trained=("coef",) if config.base == "zero" else TRAINED,
            rows=(lambda step: _rows(one, step, config.batch_size)) if small else None,
        )  # fmt: skip
    except Diverged as error:
        diverged_at = error.step
    return _outcome(config, network, data, best, curve, first, diverged_at, time.perf_counter() - begin)


def _rows(one: Replicate, step: int, size: int) -> Tensor:
    """Places, among the replicate's training rows, of those that one step sees."""
    return torch.from_numpy(np.searchsorted(one.train, one.order(step)[:size]))


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return row_losses(outputs.unsqueeze(0), targets.unsqueeze(0)).mean()


def standardised(data: FitData, labels: np.ndarray) -> Tensor:
    """Labels as the loss takes them: class numbers, or values standardised as the training targets are, float64."""
    if data.task.labels is not None:
        return torch.from_numpy(labels.astype(np.int64))
    mean, spread = data.target_scale
    return torch.from_numpy((labels.astype(np.float64) - mean) / spread)


def _outcome(
    config: HeadConfig, network: PykanNetwork, data: FitData, best: Mapping[str, Any],
    curve: list[tuple[float, float, float]], first: dict[str, Tensor], diverged_at: int | None, seconds: float,
) -> Outcome:  # fmt: skip
    tensors = {name: tensor.float().contiguous() for name, tensor in (best["tensors"] or first).items()}
    failed = diverged_at is not None
    metrics, outputs = {}, {}
    mean, spread = data.target_scale
    for split in () if failed else data.reported:
        with torch.inference_mode():
            values = forward(tensors, torch.from_numpy(np.ascontiguousarray(data.features[split], np.float32)))
        found = split_metrics(values.unsqueeze(0), data.labels[split], data)
        metrics[split] = {name: float(value[0]) for name, value in found.items()}
        outputs[split] = values.numpy() * np.float32(spread) + np.float32(mean)
    return Outcome(
        config=config,
        network=network,
        epoch=best["epoch"],
        selection={} if failed else best["selection"],
        metrics=metrics,
        outputs=outputs,
        curve=curve,
        tensors=tensors,
        parameters=network.parameters,
        flops=network.flops,
        fit_seconds=seconds,
        diverged_at=diverged_at,
    )
