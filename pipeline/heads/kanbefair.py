"""KANbeFair's published counts beside ours (Yu, Yu and Wang, KAN or MLP: A Fairer Comparison, arXiv 2407.16674).

For a layer of D inputs and O outputs, with G intervals, order k and M operations for one value of an activation:

| layer | parameters | FLOPs |
|---|---|---|
| MLP | (D + 1) O | 2 D O + M O |
| KAN | D O (G + k + 3) + O | D O (9 k (G + 1.5 k) + 2 G - 2.5 k + 3) + M D |
| KAN without base branch | D O (G + k + 2) + O | D O (9 k (G + 1.5 k) + 2 G - 2.5 k + 1) |
| BSpline-MLP | (D + 1 + G + k) O | 2 D O + O (9 k (G + 1.5 k) + 2 G - 2.5 k - 1) |

Where they say too much:

- An edge of their KAN holds G + k coefficients and two scales: one parameter an edge too many. Against a `kan`, or an
  `effi_kan` with its separate scaler, it is that one and a bias that they have not; without the scaler, another one.
- The output layer of an MLP has no activation, and that of a BSpline-MLP no spline, but both are charged for one.
- A spline's basis depends on its input alone, but is charged for every edge of a KAN: O times as often as it has to be
  computed, and at the length of the recursion, where a closed form takes less.

And where too little: adding an MLP's bias is free, and so are a polynomial activation's coefficients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from pipeline.heads.config import TRAINED_POOLS, HeadConfig
from pipeline.heads.families import FAMILIES

__all__ = ["PUBLISHED", "PublishedCost", "published_cost"]

#: M, the operations of one value of an activation, as their code has it.
ACTIVATION_FLOPS = {
    "identity": 0, "relu": 1, "square_relu": 2, "sigmoid": 4, "silu": 5, "tanh": 6, "gelu": 14, "polynomial2": 5,
    "polynomial3": 9, "polynomial5": 20,
}  # fmt: skip


@dataclass(frozen=True)
class PublishedCost:
    """Trained parameters and FLOPs of one row forward, as KANbeFair counts them."""

    parameters: int
    flops: int


def _mlp(config: HeadConfig, inputs: int, outputs: int) -> tuple[float, float]:
    activation = ACTIVATION_FLOPS[config.activation or "identity"]
    return (inputs + 1) * outputs, 2 * inputs * outputs + activation * outputs


def _spline(config: HeadConfig) -> float:
    """The term in G and k that their layers share, but for a constant."""
    grid, order = config.grid, config.order
    return 9 * order * (grid + 1.5 * order) + 2 * grid - 2.5 * order


def _kan(config: HeadConfig, inputs: int, outputs: int) -> tuple[float, float]:
    edges, base = inputs * outputs, config.base or "silu"
    if base == "zero":
        return edges * (config.grid + config.order + 2) + outputs, edges * (_spline(config) + 1)
    activation = ACTIVATION_FLOPS[base]
    return edges * (config.grid + config.order + 3) + outputs, edges * (_spline(config) + 3) + activation * inputs


def _bspline_mlp(config: HeadConfig, inputs: int, outputs: int) -> tuple[float, float]:
    parameters = (inputs + 1 + config.grid + config.order) * outputs
    return parameters, 2 * inputs * outputs + outputs * (_spline(config) - 1)


#: A layer's (parameters, FLOPs) by family; KANbeFair has no formula for the others.
PUBLISHED: dict[str, Callable[[HeadConfig, int, int], tuple[float, float]]] = {
    "linear": _mlp,
    "mlp": _mlp,
    "effi_kan": _kan,
    "kan": _kan,
    "bspline_mlp": _bspline_mlp,
}


def published_cost(config: HeadConfig, inputs: int, outputs: int) -> PublishedCost | None:
    """KANbeFair's counts for a head on features `inputs` wide; `None` for a head that they have no formula for.

    They have none for other families, for a layer norm, for a B-spline that has another function beside it, and for a
    pool that trains.
    """
    beside = config.head == "bspline_mlp" and config.activation not in (None, "none")
    if config.head not in PUBLISHED or config.layer_norm or beside or config.token_pool in TRAINED_POOLS:
        return None
    widths = (inputs, *FAMILIES[config.head].hidden(config), outputs)
    layers = [PUBLISHED[config.head](config, before, after) for before, after in pairwise(widths)]
    # 13.5 k^2 - 2.5 k is a whole number for every k; 9 k 1.5 k alone need not be.
    return PublishedCost(*(round(sum(column)) for column in zip(*layers, strict=True)))
