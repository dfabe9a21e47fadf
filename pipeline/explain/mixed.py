"""A network some of whose edges are symbols and the rest splines, and its training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.explain.symbols import Symbol
from pipeline.fit.kan_forward import depth, expand, layer_of
from pipeline.fit.kan_forward import edge_values as spline_edges

__all__ = ["Mixed", "attribution", "polish", "train_mixed"]

#: (layer, input, output) of an edge.
Edge = tuple[int, int, int]


@dataclass(frozen=True)
class Mixed:
    """`tensors` of pykan's network (float64), and the edges that are symbols with their (a, b, c, d).

    An edge that is a symbol has mask 0 in `tensors`.
    """

    tensors: dict[str, Tensor]
    symbols: Mapping[Edge, Symbol]
    affine: Mapping[Edge, Tensor]

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of all layers."""
        masks = [self.tensors[f"layers.{index}.mask"] for index in range(depth(self.tensors))]
        return (masks[0].shape[0], *(mask.shape[1] for mask in masks))

    def splines(self) -> list[Edge]:
        """The edges that are splines still."""
        return [
            (index, i, j)
            for index in range(depth(self.tensors))
            for i, j in self.tensors[f"layers.{index}.mask"].nonzero().tolist()
        ]

    def edges(self) -> list[Edge]:
        """Every edge that is not pruned."""
        return sorted([*self.splines(), *self.symbols])

    def layers(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For every layer its inputs [in, rows] and what each edge adds [in, out, rows]; x is [rows, in]."""
        found, x = [], x.T
        for index in range(depth(self.tensors)):
            layer = {f"layers.0.{name}": tensor for name, tensor in layer_of(self.tensors, index).items()}
            added = spline_edges(layer, x.T)[0][1]
            for (place, i, j), symbol in self.symbols.items():
                if place == index:
                    added[i, j] = _value(symbol, self.affine[place, i, j], x[i])
            found.append((x, added))
            x = added.sum(0)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [rows, out] of x [rows, in], differentiable."""
        x = x.T
        for index in range(depth(self.tensors)):
            layer = layer_of(self.tensors, index)
            mask = layer["mask"]
            total = x.new_zeros(mask.shape[1], x.shape[1])
            if bool(mask.any()):
                weights = torch.cat(
                    [layer["coef"] * layer["scale_sp"].unsqueeze(2), layer["scale_base"].unsqueeze(2)], 2
                )
                weights = weights * mask.unsqueeze(2)
                total = weights.transpose(0, 1).flatten(1) @ expand(x, layer).flatten(0, 1)
            parts = [total]
            for j in range(mask.shape[1]):
                own = [
                    _value(symbol, self.affine[place, i, to], x[i])
                    for (place, i, to), symbol in self.symbols.items()
                    if (place, to) == (index, j)
                ]
                if own:
                    row = torch.zeros(mask.shape[1], 1, dtype=x.dtype)
                    row[j] = 1
                    parts.append(row * torch.stack(own).sum(0))
            x = torch.stack(parts).sum(0) if len(parts) > 1 else total
        return x.T


def _value(symbol: Symbol, affine: Tensor, x: Tensor) -> Tensor:
    a, b, c, d = affine
    return c * symbol.torch(a * x + b) + d


def attribution(layers: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Importance of every edge [in, out] by layer, and of every node, inputs first (pykan's `attribute`).

    An output's importance, one for each output, is handed back along its edges in proportion to how much what each adds
    varies over the rows; importances are then averaged over the outputs.
    """
    outputs = layers[-1][1].shape[1]
    node = torch.eye(outputs, dtype=layers[-1][1].dtype)
    edges, nodes = [], [node.mean(0)]
    for _, added in reversed(layers):
        share = added.std(2) / (added.sum(0).std(1) + 1e-4)
        scores = share.unsqueeze(0) * node.unsqueeze(1)
        edges.append(scores.mean(0))
        node = scores.sum(2)
        nodes.append(node.mean(0))
    return edges[::-1], nodes[::-1]


def train_mixed(network: Mixed, x: Tensor, loss: Callable[[Tensor], Tensor], steps: int) -> Mixed:
    """Fit the symbols' affine parameters and the splines that are left by LBFGS; a worse end keeps the start.

    Steps into where a symbol has no value (a logarithm's negative side) are infinitely bad, so the line search turns
    back from them.
    """
    tensors = {name: tensor.detach().clone() for name, tensor in network.tensors.items()}
    affine = {edge: value.detach().clone().requires_grad_() for edge, value in network.affine.items()}
    weights = list(affine.values())
    if network.splines():
        weights += [t.requires_grad_() for name, t in tensors.items() if name.split(".")[-1] in ("coef", "scale_base")]
    state = Mixed(tensors, network.symbols, affine)
    best, start = None, None
    solver = torch.optim.LBFGS(
        weights, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-16
    )

    def objective() -> Tensor:
        nonlocal best, start
        solver.zero_grad()
        value = loss(state.forward(x))
        if not bool(value.isfinite()):
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            return value.detach().new_tensor(1e30)
        value.backward()
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        start = float(value.detach()) if start is None else start
        if best is None or float(value.detach()) < best[0]:
            best = (float(value.detach()), [weight.detach().clone() for weight in weights])
        return value

    for _ in range(steps):
        solver.step(objective)
    if best is None:
        return network
    for weight, kept in zip(weights, best[1], strict=True):
        weight.data.copy_(kept)
    return Mixed(
        {name: tensor.detach() for name, tensor in tensors.items()},
        network.symbols,
        {edge: value.detach() for edge, value in affine.items()},
    )


def polish(network: Mixed, x: Tensor, loss: Callable[[Tensor], Tensor], steps: int = 50) -> Mixed:
    """A network of symbols alone at its minimum, by Newton's method in a trust region (SciPy's `trust-exact`).

    Of `c f(a x + b) + d` in layers, constants can stand in for one another, so the valley is long and nearly flat:
    LBFGS stops in it at a loss that only second derivatives lower further. A worse end keeps the start.
    """
    from scipy.optimize import minimize
    from torch.autograd.functional import hessian, jacobian

    edges = list(network.affine)
    begun = torch.cat([network.affine[edge].detach() for edge in edges])

    def value(flat: Tensor) -> Tensor:
        affine = dict(zip(edges, flat.split(4), strict=True))
        return loss(Mixed(network.tensors, network.symbols, affine).forward(x))

    def of(function: Callable[[Tensor], Tensor], otherwise: float) -> Callable[[np.ndarray], np.ndarray]:
        def called(place: np.ndarray) -> np.ndarray:
            found = function(torch.from_numpy(place)).detach()
            return torch.nan_to_num(found, nan=otherwise, posinf=otherwise, neginf=otherwise).numpy()

        return called

    found = minimize(
        of(value, 1e30), begun.numpy(), jac=of(lambda flat: jacobian(value, flat), 0.0),
        hess=of(lambda flat: hessian(value, flat), 0.0), method="trust-exact",
        options={"maxiter": steps, "gtol": 1e-14, "initial_trust_radius": 0.1},
    )  # fmt: skip
    if not float(found.fun) < float(of(value, 1e30)(begun.numpy())):
        return network
    return Mixed(
        network.tensors, network.symbols, dict(zip(edges, torch.from_numpy(found.x.copy()).split(4), strict=True))
    )
