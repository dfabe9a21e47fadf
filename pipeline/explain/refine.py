"""Grid extension: a head's function carried to finer grids, with its error before and after (arXiv 2404.19756)."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.explain.figures import refine_figure, svg
from pipeline.explain.run import data_of
from pipeline.fit.data import FitData
from pipeline.fit.kan_forward import (
    depth,
    edge_values,
    fit_coefficients,
    forward,
    layer_of,
    order_of,
)  # fmt: skip
from pipeline.fit.kan_train import optimise, standardised
from pipeline.fit.predict import split_metrics
from pipeline.fit.split import replicate
from pipeline.fit.step import row_losses
from pipeline.fit.train import train_pack
from pipeline.heads.bases import spline_basis
from pipeline.heads.extend import extend_grid
from pipeline.heads.forward import network_forward
from pipeline.models.saved import SavedHead
from pipeline.text import json_text

__all__ = ["finer", "refine", "refine_text"]


def finer(tensors: dict[str, Tensor], intervals: int) -> dict[str, Tensor]:
    """pykan's network on grids of so many intervals, float64: knots halfway along the old ones', functions refitted.

    Where `intervals` is a multiple of the old number, every old function inside its grid is a new one, and the fit at
    many points of each interval is exact. Raises `ConfigError` for a coarser grid.
    """
    found = dict(tensors)
    for index in range(depth(tensors)):
        layer = layer_of(tensors, index)
        order = order_of(layer)
        old = layer["grid"][:, order : layer["grid"].shape[1] - order]
        if intervals < old.shape[1] - 1:
            raise ConfigError(f"`grid`: expected at least {old.shape[1] - 1} intervals, found {intervals}")
        inner = _between(old, intervals + 1)
        # Points strictly inside: at the last knot a spline of half-open intervals is the next piece's.
        cells = _between(layer["grid"], 1 + 8 * (max(intervals, old.shape[1] - 1) + 2 * order))
        points = (cells[:, 1:] + cells[:, :-1]) / 2
        curves = layer["coef"] @ spline_basis(points, layer["grid"], order)
        # The outer knots stay: the function is then kept beyond the grid too, where new rows may lie.
        grid = torch.cat([layer["grid"][:, :order], inner, layer["grid"][:, -order:]], 1)
        found |= {
            f"layers.{index}.grid": grid,
            f"layers.{index}.coef": fit_coefficients(curves, points, grid, order),
        }
    return found


def _between(knots: Tensor, count: int) -> Tensor:
    """`count` places [in, count] that divide knots [in, k] evenly in the knots' own numbering."""
    place = torch.linspace(0, knots.shape[1] - 1, count, dtype=knots.dtype)
    left = place.floor().long().clamp(max=knots.shape[1] - 2)
    share = place - left
    return knots[:, left] * (1 - share) + knots[:, left + 1] * share


def refine(
    head: SavedHead, grids: Sequence[int], *, cache: Path, results: Path, steps: int | None = None,
    out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Carry a `kan` or `effi_kan` head to each of `grids` in turn, training on after each extension.

    The document has, for each grid, the scores on the reported split before, right after the extension and after
    training on (`steps` of LBFGS, or epochs; the head's own number by default), and `moved`: the largest change of an
    output by the extension itself, in the units of the training targets' spread, over training rows all of whose
    values lie inside the grids. Raises a `KanglueError`.
    """
    begin = time.perf_counter()
    if head.config.head not in ("kan", "effi_kan"):
        raise ConfigError(f"head {head.id}: expected kan or effi_kan, which have grids, found {head.config.head}")
    if not grids or list(grids) != sorted(set(grids)) or grids[0] <= head.config.grid:
        raise ConfigError(f"`grid`: expected rising numbers above {head.config.grid}, the head's, found {list(grids)}")
    if steps is not None and steps < 1:
        raise ConfigError(f"`steps`: expected at least 1, found {steps}")
    data = data_of(head, cache, results)
    work = _Kan(head, data, steps) if head.config.head == "kan" else _Effi(head, data, steps)
    document: dict[str, Any] = {
        "id": head.id, "task": head.provenance["task"], "head": head.config.head, "metric": data.task.main_metric,
        "start": {"grid": head.config.grid, "scores": work.scores(), "parameters": work.count()}, "steps": [],
    }  # fmt: skip
    for grid in grids:
        before = work.scores()
        moved, rows = work.extend(grid)
        extended = work.scores()
        work.train()
        document["steps"].append({
            "grid": grid, "before": before, "extended": extended, "after": work.scores(), "moved": moved,
            "rows_inside": rows, "parameters": work.count(),
        })  # fmt: skip
    document["seconds"] = round(time.perf_counter() - begin, 2)
    folder = out or results.parent / "refine" / head.id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "refine.svg").write_text(svg(refine_figure(document)), encoding="utf-8")
    document["folder"] = str(folder)
    (folder / "refine.json").write_text(json_text(document, indent=2), encoding="utf-8")
    return document


class _Kan:
    """pykan's network on its way through finer grids."""

    def __init__(self, head: SavedHead, data: FitData, steps: int | None) -> None:
        self.head, self.data, self.steps = head, data, steps or head.config.epochs
        self.tensors = {name: tensor.double() for name, tensor in head.tensors.items()}
        one = replicate(data, head.config.seed, head.config.protocol, head.config.rows)
        rows, held = one.train, one.train if one.selection is None else one.selection
        self.held = torch.from_numpy(data.features["train"][held].astype(np.float64))
        self.held_targets = standardised(data, data.labels["train"][held])
        self.x = torch.from_numpy(data.features["train"][rows].astype(np.float64))
        self.targets = standardised(data, data.labels["train"][rows])

    def count(self) -> int:
        """Trained parameters."""
        return sum(t.numel() for n, t in self.tensors.items() if n.split(".")[-1] in ("coef", "scale_base", "scale_sp"))

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs [rows, out] of rows [rows, in]."""
        with torch.no_grad():
            return forward(self.tensors, x)

    def scores(self) -> dict[str, float]:
        """Metrics on the reported split."""
        split = self.data.reported[0]
        found = self.outputs(torch.from_numpy(self.data.features[split].astype(np.float64)))
        metrics = split_metrics(found.unsqueeze(0), self.data.labels[split], self.data)
        return {name: float(value[0]) for name, value in metrics.items()}

    def inside(self) -> Tensor:
        """Which training rows [rows] have all their values inside the grids."""
        good = torch.ones(len(self.x), dtype=torch.bool)
        for index, (inputs, _) in enumerate(edge_values(self.tensors, self.x)):
            layer = layer_of(self.tensors, index)
            order = order_of(layer)
            low, high = layer["grid"][:, order : order + 1], layer["grid"][:, -order - 1 : -order]
            good &= ((inputs >= low) & (inputs < high)).all(0)
        return good

    def extend(self, grid: int) -> tuple[float, int]:
        """To a finer grid; how far an output moved, and on how many rows that was looked at."""
        rows = self.inside()
        before = self.outputs(self.x)
        self.tensors = finer(self.tensors, grid)
        return float((self.outputs(self.x) - before)[rows].abs().max()), int(rows.sum())

    def train(self) -> None:
        """Fit on, from where the extension left, to the step that is best on the selection rows."""
        best = [self._lost(self.tensors), self.tensors]

        def select(step: int, state: dict[str, Tensor], value: float) -> None:  # noqa: ARG001
            lost = self._lost(state)
            if lost < best[0]:
                best[:] = [lost, {name: tensor.detach().clone() for name, tensor in state.items()}]

        optimise(
            self.tensors, self.x,
            lambda found: row_losses(found.unsqueeze(0), self.targets.unsqueeze(0)).mean(),
            steps=self.steps, grids=False, on_step=select,
        )  # fmt: skip
        self.tensors = best[1]

    def _lost(self, tensors: dict[str, Tensor]) -> float:
        with torch.no_grad():
            found = forward(tensors, self.held)
        return float(row_losses(found.unsqueeze(0), self.held_targets.unsqueeze(0)).mean())


class _Effi(_Kan):
    """efficient-kan's network: the pack's own trainer, begun from the extended weights."""

    def __init__(self, head: SavedHead, data: FitData, steps: int | None) -> None:
        super().__init__(head, data, steps)
        self.config, self.network = head.config, head.network
        self.tensors = dict(head.tensors)

    def count(self) -> int:
        """Trained parameters."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs [rows, out] of rows [rows, in]."""
        with torch.no_grad():
            stacked = {name: tensor.unsqueeze(0).double() for name, tensor in self.tensors.items()}
            return network_forward(self.network, x.unsqueeze(0), stacked)[0]

    def inside(self) -> Tensor:
        """Which training rows [rows] have all their values inside the grids."""
        good, x = torch.ones(len(self.x), dtype=torch.bool), self.x
        stacked = {name: tensor.unsqueeze(0).double() for name, tensor in self.tensors.items()}
        for index, layer in enumerate(self.network.layers):
            good &= ((x >= layer.grid.low) & (x < layer.grid.high)).all(1)
            if index + 1 < len(self.network.layers):
                part = replace(self.network, layers=self.network.layers[: index + 1])
                with torch.no_grad():
                    x = network_forward(part, self.x.unsqueeze(0), stacked)[0]
        return good

    def extend(self, grid: int) -> tuple[float, int]:
        """To a finer grid; how far an output moved, and on how many rows that was looked at."""
        rows, before = self.inside(), self.outputs(self.x)
        found = extend_grid(self.tensors, self.network, grid)
        self.network, self.tensors = found.network, found.tensors
        self.config = replace(self.config, grid=grid)
        moved = (self.outputs(self.x) - before)[rows].abs()
        return (float(moved.max()) if moved.numel() else float("nan")), int(rows.sum())

    def train(self) -> None:
        """Fit on, from where the extension left."""
        config = replace(self.config, epochs=self.steps)
        done = train_pack([config], self.data, torch.device("cpu"), first=[self.tensors])[0]
        self.tensors = done.tensors


def refine_text(found: dict[str, Any]) -> str:
    """A refinement in a few lines."""
    name = "rmse" if "rmse" in found["start"]["scores"] else "accuracy"
    lines = [f"{found['head']} on {found['task']}, {name}: grid {found['start']['grid']} "
             f"{found['start']['scores'][name]:.6g}"]  # fmt: skip
    lines += [
        f"  grid {one['grid']}: {one['extended'][name]:.6g} right after the extension "
        f"(outputs moved {one['moved']:.1e}), {one['after'][name]:.6g} after training on"
        for one in found["steps"]
    ]
    return "\n".join([*lines, f"  {found['seconds']} s; see {found['folder']}"])
