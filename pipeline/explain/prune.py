"""From a trained network to the smallest one that still does what it did."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.mixed import Mixed, attribution
from pipeline.fit.kan_forward import depth, edge_values, forward
from pipeline.fit.kan_train import Diverged, optimise

__all__ = ["Goal", "Pruned", "drop", "prune"]

#: pykan's thresholds of importance for nodes and edges.
NODE_THRESHOLD, EDGE_THRESHOLD = 0.01, 0.03


@dataclass(frozen=True)
class Goal:
    """What a smaller network is to do: `loss` on the training rows x, `quality` on other rows (higher is better).

    `enough` is the quality that counts as keeping what the head does.
    """

    x: Tensor
    loss: Callable[[Tensor], Tensor]
    held: Tensor
    quality: Callable[[Tensor], float]
    enough: float

    def score(self, outputs: Tensor) -> float:
        """Quality of outputs on the held rows, -inf where they are not finite."""
        return self.quality(outputs) if bool(outputs.isfinite().all()) else float("-inf")


@dataclass(frozen=True)
class Pruned:
    """A pruned network with its quality, and what was tried: (penalty, edges left, quality)."""

    tensors: dict[str, Tensor]
    quality: float
    tried: list[tuple[float, int, float]]


def edges_left(tensors: dict[str, Tensor]) -> int:
    """Edges whose mask is not zero."""
    return sum(int(tensors[f"layers.{index}.mask"].sum()) for index in range(depth(tensors)))


def drop(tensors: dict[str, Tensor], x: Tensor, node: float, edge: float) -> dict[str, Tensor]:
    """Masks out what matters less than the thresholds, and every edge that leads from nowhere or to nowhere."""
    found = dict(tensors)
    scores, nodes = attribution(edge_values(tensors, x))
    layers = range(depth(tensors))
    keep = [scores[index] > edge for index in layers]
    for index in layers[:-1]:
        alive = nodes[index + 1] > node
        keep[index] &= alive.unsqueeze(0)
        keep[index + 1] &= alive.unsqueeze(1)
    for index in layers:
        mask = found[f"layers.{index}.mask"]
        if bool((keep[index] & (mask > 0)).any()):
            found[f"layers.{index}.mask"] = mask * keep[index]
    return tidied(found)


def tidied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks out hidden nodes that nothing enters or nothing leaves."""
    found = dict(tensors)
    for _ in range(depth(found)):
        for index in range(depth(found) - 1):
            before, after = found[f"layers.{index}.mask"], found[f"layers.{index + 1}.mask"]
            alive = (before.any(0) & after.any(1)).to(before.dtype)
            found[f"layers.{index}.mask"] = before * alive.unsqueeze(0)
            found[f"layers.{index + 1}.mask"] = after * alive.unsqueeze(1)
    return found


def prune(
    tensors: dict[str, Tensor],
    goal: Goal,
    *,
    lambs: tuple[float, ...] = (1e-2, 1e-3),
    fresh: Callable[[int], dict[str, Tensor]] | None = None,
    entropy: float = 2.0,
    steps: int = 30,
    seconds: float = 60.0,
    thresholds: tuple[float, float] = (NODE_THRESHOLD, EDGE_THRESHOLD),
) -> Pruned:
    """Train on under pykan's penalty, drop what it made small, fit again; then drop one by one what can be spared.

    The penalties are tried on the head as it is and, where `fresh(attempt)` gives a new start, on two of those: some
    heads share one job between two nodes, and no small step leads from there to one. The fewest edges win among those
    that are good enough, else the best. `seconds` of this thread's processor time bound the search, which stops after
    the attempt that passes them (other work on the machine does not change what is found).
    """
    begin = time.thread_time()
    found: list[tuple[int, float, dict[str, Tensor]]] = []
    tried: list[tuple[float, int, float]] = []
    attempts = [(lamb, tensors) for lamb in lambs] + [(lambs[0], fresh(number)) for number in range(2) if fresh]
    for lamb, begun in attempts:
        try:
            own = begun is not tensors
            sparse = optimise(begun, goal.x, goal.loss, steps=steps, lamb=lamb, entropy=entropy, grids=own)
            small = _refit(drop(sparse, goal.x, *thresholds), goal, steps // 2)
        except Diverged:
            tried.append((lamb, 0, float("-inf")))
            continue
        quality = goal.score(forward(small, goal.held))
        tried.append((lamb, edges_left(small), quality))
        found.append((edges_left(small), quality, small))
        if time.thread_time() - begin > seconds * 0.6:
            break
    if not found:
        return Pruned(tensors, goal.score(forward(tensors, goal.held)), tried)
    good = [one for one in found if one[1] >= goal.enough]
    _, quality, best = min(good, key=lambda one: one[0]) if good else max(found, key=lambda one: one[1])
    best, quality = _spare(best, quality, goal, steps // 2, begin + seconds)
    return Pruned(best, quality, tried)


def _refit(tensors: dict[str, Tensor], goal: Goal, steps: int) -> dict[str, Tensor]:
    return optimise(tensors, goal.x, goal.loss, steps=steps)


def _spare(
    tensors: dict[str, Tensor], quality: float, goal: Goal, steps: int, until: float
) -> tuple[dict[str, Tensor], float]:
    """Try to do without each hidden node, then without each edge, the least important first."""
    for kind in ("node", "edge"):
        refused: set[tuple[int, ...]] = set()
        while time.thread_time() < until:
            candidate = _least(tensors, goal.x, kind, refused)
            if candidate is None:
                break
            smaller = dict(tensors)
            layer, *place = candidate
            mask = tensors[f"layers.{layer}.mask"].clone()
            if kind == "node":
                mask[:, place[0]] = 0
            else:
                mask[place[0], place[1]] = 0
            smaller = tidied(smaller | {f"layers.{layer}.mask": mask})
            if not bool(smaller[f"layers.{depth(smaller) - 1}.mask"].any(0).all()):
                refused.add(candidate)
                continue
            try:
                smaller = _refit(smaller, goal, steps)
                reached = goal.score(forward(smaller, goal.held))
            except Diverged:
                reached = float("-inf")
            if reached >= min(goal.enough, quality):
                tensors, quality = smaller, reached
            else:
                refused.add(candidate)
    return tensors, quality


def _least(tensors: dict[str, Tensor], x: Tensor, kind: str, refused: set[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The least important node (layer before it, node) or edge (layer, input, output) that was not refused yet."""
    edges, nodes = attribution(edge_values(tensors, x))
    found = []
    for index in range(depth(tensors)):
        mask = tensors[f"layers.{index}.mask"]
        if kind == "edge":
            found += [(float(edges[index][i, j]), (index, i, j)) for i, j in mask.nonzero().tolist()]
        elif index < depth(tensors) - 1:
            alive = mask.any(0).nonzero().flatten().tolist()
            if len(alive) > 1:
                found += [(float(nodes[index + 1][j]), (index, j)) for j in alive]
    found = [one for one in found if one[1] not in refused]
    return min(found)[1] if found else None


def as_mixed(tensors: dict[str, Tensor]) -> Mixed:
    """A network of splines alone."""
    return Mixed(tensors, {}, {})
