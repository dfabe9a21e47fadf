"""How weights start: the project's one rule, and the original packages' own.

Every head draws from its own generator, seeded by its seed, family and shape alone, on the CPU and in float32, so a
start depends neither on the device nor on the pack nor on the learning rate.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from pipeline.hashing import hash_json
from pipeline.heads.bases import b_spline
from pipeline.heads.config import HeadConfig
from pipeline.heads.families import FAMILIES
from pipeline.heads.network import Grid, LayerSpec, NetworkSpec

__all__ = ["STARTS", "Draw", "stack", "start", "starts"]


class Draw:
    """Random tensors from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, shape: tuple[int, ...], bound: float) -> Tensor:
        """Uniform on [-bound, bound]."""
        return torch.empty(shape).uniform_(-bound, bound, generator=self.generator)

    def normal(self, shape: tuple[int, ...], std: float) -> Tensor:
        """Normal with standard deviation `std`."""
        return torch.empty(shape).normal_(0, std, generator=self.generator)

    def truncated_normal(self, shape: tuple[int, ...], std: float) -> Tensor:
        """Normal with standard deviation `std`, cut at plus and minus 2 (as `torch.nn.init.trunc_normal_`)."""
        return torch.nn.init.trunc_normal_(torch.empty(shape), std=std, generator=self.generator)


def _norm_and_bias(layer: LayerSpec, draw: Draw, fan_in: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    if layer.bias:
        found["bias"] = draw.uniform((layer.outputs,), 1 / math.sqrt(fan_in))
    if layer.normed:
        found |= {"norm_scale": torch.ones(layer.inputs), "norm_shift": torch.zeros(layer.inputs)}
    return found


def as_torch_linear(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """The project's rule: a linear map over an expansion starts as `torch.nn.Linear` over that many features would.

    So does a unit's sum over its bases. A scaler starts at one, so that with and without it the function starts the
    same.
    """
    bound = 1 / math.sqrt(layer.features)
    found = {"weight": draw.uniform((layer.features, layer.outputs), bound)}
    if layer.scaler:
        found["scaler"] = torch.ones(layer.inputs, layer.outputs)
    if layer.units:
        found["unit"] = draw.uniform((layer.units, sum(layer.widths)), 1 / math.sqrt(sum(layer.widths)))
    return found | _norm_and_bias(layer, draw, layer.features)


def _splits(layer: LayerSpec) -> tuple[int, int]:
    first = layer.inputs * layer.widths[0]
    return first, layer.features - first


def _spline_noise(grid: Grid, draw: Draw, inputs: int, outputs: int) -> Tensor:
    """Coefficients [inputs, intervals + order, outputs] of splines through noise (u - 1/2) * 0.1 / intervals.

    The noise is at the inner knots; the fit is the least-squares one of smallest norm (efficient-kan, pykan).
    """
    noise = draw.uniform((inputs, grid.intervals + 1, outputs), 0.5 * 0.1 / grid.intervals)
    return torch.einsum("kg,igo->iko", _fit_at_knots(grid), noise)


@cache
def _fit_at_knots(grid: Grid) -> Tensor:
    """The least-squares fit [intervals + order, intervals + 1] through values at the inner knots."""
    knots = torch.linspace(grid.low, grid.high, grid.intervals + 1, dtype=torch.float64)
    return torch.linalg.pinv(b_spline(knots, grid)).float()


def _with_base(layer: LayerSpec, draw: Draw, spline: Tensor) -> dict[str, Tensor]:
    """Weights `spline` of the first basis [features, out] with a base branch that starts as `torch.nn.Linear`."""
    base = draw.uniform((layer.features - len(spline), layer.outputs), 1 / math.sqrt(layer.inputs))
    return {"weight": torch.cat([spline, base])}


def as_efficient_kan(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """efficient-kan's start: Kaiming-uniform with a = sqrt(5) for base weights and scaler (bound 1 / sqrt(inputs)).

    Spline weights are the fit through noise; without a scaler it is used as it is.
    """
    found = _with_base(layer, draw, _spline_noise(layer.grid, draw, layer.inputs, layer.outputs).flatten(0, 1))
    if layer.scaler:
        found["scaler"] = draw.uniform((layer.inputs, layer.outputs), 1 / math.sqrt(layer.inputs))
    return found | _norm_and_bias(layer, draw, layer.inputs)


def as_fast_kan(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """fast-kan's start: spline weights normal with std 0.1, cut at 2; the base branch as `torch.nn.Linear`."""
    spline = draw.truncated_normal((layer.inputs * layer.widths[0], layer.outputs), 0.1)
    return _with_base(layer, draw, spline) | _norm_and_bias(layer, draw, layer.inputs)


def as_faster_kan(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """faster-kan's start: Xavier-uniform spline weights."""
    features = layer.inputs * layer.widths[0]
    spline = draw.uniform((features, layer.outputs), math.sqrt(6 / (features + layer.outputs)))
    return _with_base(layer, draw, spline) | _norm_and_bias(layer, draw, layer.inputs)


def as_fourier_kan(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """FR-KAN's start: coefficients normal with std 1 / sqrt(inputs frequencies), biases zero."""
    std = 1 / math.sqrt(layer.inputs * layer.grid.intervals)
    found = _with_base(layer, draw, draw.normal((layer.inputs * layer.widths[0], layer.outputs), std))
    return found | _norm_and_bias(layer, draw, layer.inputs) | {"bias": torch.zeros(layer.outputs)}


def as_cheby_kan(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """ChebyKAN's start: coefficients normal with std 1 / (inputs (degree + 1))."""
    features = layer.inputs * layer.widths[0]
    found = _with_base(layer, draw, draw.normal((features, layer.outputs), 1 / features))
    return found | _norm_and_bias(layer, draw, layer.inputs)


def as_kanbefair(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """KANbeFair's start: linear maps as `torch.nn.Linear`, splines through noise, polynomials' coefficients normal.

    Where a unit has an activation beside its spline, the activation's coefficient starts at one.
    """
    found = as_torch_linear(layer, draw)
    if layer.units and layer.branches[0].basis != "b_spline":
        found["unit"] = draw.normal((layer.units, sum(layer.widths)), 1.0)
    elif layer.units:
        spline = _spline_noise(layer.grid, draw, layer.inputs, 1).squeeze(2)
        found["unit"] = torch.cat([spline, torch.ones(layer.inputs, sum(layer.widths[1:]))], 1)
    return found


STARTS: dict[str, Callable[[LayerSpec, Draw], dict[str, Tensor]]] = {
    "torch_linear": as_torch_linear,
    "efficient_kan": as_efficient_kan,
    "fast_kan": as_fast_kan,
    "faster_kan": as_faster_kan,
    "fourier_kan": as_fourier_kan,
    "cheby_kan": as_cheby_kan,
    "kanbefair": as_kanbefair,
}


def start(config: HeadConfig, network: NetworkSpec) -> dict[str, Tensor]:
    """One head's first weights: decided by its seed, family, start and shapes, and by nothing else."""
    shapes = {name: list(shape) for name, shape in network.shapes().items()}
    name = hash_json({"seed": config.seed, "head": config.head, "starts": config.init, "shapes": shapes})
    draw = Draw(torch.Generator().manual_seed(int(name[:15], 16)))
    stacks = FAMILIES[config.head].stacks or (config.head,)
    package = config.init == "package"
    # Equal scores: a pool that trains starts as the mean.
    pool = {} if network.pool is None else {"pool.weight": torch.zeros(network.shapes()["pool.weight"])}
    return pool | {
        f"layers.{index}.{name}": tensor
        for family, chain in zip(stacks, network.chains, strict=True)
        for index in chain
        for name, tensor in STARTS[FAMILIES[family].package_start if package else "torch_linear"](
            network.layers[index], draw
        ).items()
    }


def stack(draws: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of single heads [...] as one pack's [heads, ...]."""
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}


def starts(configs: Sequence[HeadConfig], network: NetworkSpec, device: torch.device) -> dict[str, Tensor]:
    """Every head's start [heads, ...] on a device; heads that share a start draw it once, several at a time."""
    first: dict[tuple[int, str, str], int] = {}
    drawn_by = [first.setdefault((one.seed, one.head, one.init), head) for head, one in enumerate(configs)]
    stacked = {name: torch.empty(len(configs), *shape, device=device) for name, shape in network.shapes().items()}

    def draw(head: int) -> None:
        for name, tensor in start(configs[head], network).items():
            stacked[name][head].copy_(tensor)

    with ThreadPoolExecutor(torch.get_num_threads()) as workers:
        list(workers.map(draw, sorted(set(drawn_by))))
    for head, source in enumerate(drawn_by):
        if source != head:
            for tensor in stacked.values():
                tensor[head].copy_(tensor[source])
    return stacked
