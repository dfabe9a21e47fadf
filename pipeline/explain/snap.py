"""Edges to symbols, layer by layer, with everything behind fitted again after each."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.mixed import Mixed, polish, train_mixed
from pipeline.explain.prune import Goal
from pipeline.explain.symbols import Fit, Symbol, fit_symbol

__all__ = ["EdgeFit", "Snapped", "snap"]

#: What a step in pykan's complexity has to buy: a fit whose unexplained share is this many times smaller.
COMPLEXITY_FACTOR = 3.0
#: An unexplained share below this is noise of the fit.
NOISE = 1e-5
#: Edges up to which the constants are brought to their minimum by second derivatives, which cost their square.
POLISHED = 12


@dataclass(frozen=True)
class EdgeFit:
    """What an edge became: its symbol, how well that fitted the curve, and the runners-up (name, r2)."""

    edge: tuple[int, int, int]
    symbol: str
    r2: float
    others: list[tuple[str, float]]


@dataclass(frozen=True)
class Snapped:
    """A network of symbols alone, with its quality and what each edge became."""

    network: Mixed
    quality: float
    edges: list[EdgeFit]


def _cost(fit: Fit) -> float:
    """Lower is better: the unexplained share in decades, plus what the symbol's complexity has to pay for."""
    unexplained = torch.tensor(max(1 - fit.r2, 0.0) + NOISE, dtype=torch.float64)
    return float(unexplained.log10() + fit.symbol.complexity * torch.tensor(COMPLEXITY_FACTOR).log10())


def snap(tensors: Mapping[str, Tensor], goal: Goal, symbols: Mapping[str, Symbol], *, seconds: float = 60.0) -> Snapped:
    """Replace each edge by a symbol, layer by layer from the inputs, then try each edge's runners-up.

    Raises `ArithmeticError` where an edge has no finite fit in the library.
    """
    begin = time.thread_time()
    network = Mixed(dict(tensors), {}, {})
    ranked: dict[tuple[int, int, int], list[Fit]] = {}
    layers = sorted({edge[0] for edge in network.edges()})
    for layer in layers:
        x, added = network.layers(goal.x)[layer]
        for edge in [edge for edge in network.splines() if edge[0] == layer]:
            _, i, j = edge
            fits = sorted((fit_symbol(symbol, x[i], added[i, j]) for symbol in symbols.values()), key=_cost)
            fits = [fit for fit in fits if fit.r2 >= 0]
            if not fits:
                raise ArithmeticError(
                    f"edge {i + 1} -> {j + 1} of layer {layer + 1}: no symbol of the library is finite on its inputs"
                )
            ranked[edge] = fits
            network = _with(network, edge, fits[0])
        network = train_mixed(network, goal.x, goal.loss, 4)
    network = train_mixed(network, goal.x, goal.loss, 8)
    network = _improve(network, ranked, goal, begin + seconds)
    network = _settled(network, goal, begin + 1.5 * seconds)
    if len(ranked) <= POLISHED and time.thread_time() < begin + 1.5 * seconds:
        network = polish(network, goal.x, goal.loss)
    with torch.no_grad():
        quality = goal.score(network.forward(goal.held))
    edges = [
        EdgeFit(
            edge, network.symbols[edge].name,
            next(fit.r2 for fit in fits if fit.symbol.name == network.symbols[edge].name),
            [(fit.symbol.name, fit.r2) for fit in fits if fit.symbol.name != network.symbols[edge].name][:3],
        )
        for edge, fits in sorted(ranked.items())
    ]  # fmt: skip
    return Snapped(network, quality, edges)


def _with(network: Mixed, edge: tuple[int, int, int], fit: Fit) -> Mixed:
    layer, i, j = edge
    mask = network.tensors[f"layers.{layer}.mask"].clone()
    mask[i, j] = 0
    affine = torch.tensor(fit.affine, dtype=torch.float64)
    return Mixed(
        dict(network.tensors) | {f"layers.{layer}.mask": mask},
        dict(network.symbols) | {edge: fit.symbol},
        dict(network.affine) | {edge: affine},
    )


def _loss(network: Mixed, goal: Goal) -> float:
    with torch.no_grad():
        value = float(goal.loss(network.forward(goal.x)))
    return value if value == value else float("inf")


def _settled(network: Mixed, goal: Goal, until: float) -> Mixed:
    """Trained until nothing moves any more: an exact formula's error falls by orders of magnitude at the end."""
    loss = _loss(network, goal)
    for _ in range(12):
        network = train_mixed(network, goal.x, goal.loss, 10)
        before, loss = loss, _loss(network, goal)
        if loss > 0.9 * before or time.thread_time() > until:
            break
    return network


def _improve(network: Mixed, ranked: Mapping[tuple[int, int, int], Sequence[Fit]], goal: Goal, until: float) -> Mixed:
    """Each edge's next best symbols in turn, the worst fitted edges first; kept where the loss falls a lot."""
    loss = _loss(network, goal)
    worst_first = sorted(ranked, key=lambda edge: ranked[edge][0].r2)
    for edge in worst_first:
        for fit in ranked[edge][1:3]:
            if time.thread_time() > until:
                return network
            other = train_mixed(_with(network, edge, fit), goal.x, goal.loss, 6)
            reached = _loss(other, goal)
            dearer = fit.symbol.complexity - network.symbols[edge].complexity
            if reached < loss * (0.7 if dearer > 0 else 0.95):
                network, loss = other, reached
    return network
