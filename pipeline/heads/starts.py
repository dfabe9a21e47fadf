"""How weights start: the project's one rule, and the original packages' own.

Every head draws from its own generator, seeded by its seed, family and shape alone, on the CPU and in float32, so a
start depends neither on the device nor on the pack nor on the learning rate.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pipeline.hashing import hash_json
from pipeline.heads.bases import b_spline
from pipeline.heads.config import HeadConfig
from pipeline.heads.families import HEADS
from pipeline.heads.network import LayerSpec, NetworkSpec

__all__ = ["STARTS", "Draw", "stack", "start"]


class Draw:
    """Random tensors from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, shape: tuple[int, ...], bound: float) -> Tensor:
        """Uniform on [-bound, bound]."""
        return torch.empty(shape).uniform_(-bound, bound, generator=self.generator)

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

    A scaler starts at one, so that with and without it the function starts the same.
    """
    bound = 1 / math.sqrt(layer.features)
    found = {"weight": draw.uniform((layer.features, layer.outputs), bound)}
    if layer.scaler:
        found["scaler"] = torch.ones(layer.inputs, layer.outputs)
    return found | _norm_and_bias(layer, draw, layer.features)


def _splits(layer: LayerSpec) -> tuple[int, int]:
    first = layer.inputs * layer.widths[0]
    return first, layer.features - first


def as_efficient_kan(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """efficient-kan's start: Kaiming-uniform with a = sqrt(5) for base weights and scaler (bound 1 / sqrt(inputs)).

    Spline weights are the least-squares fit, of smallest norm, through noise (u - 1/2) * 0.1 / intervals at the inner
    knots; without a scaler the fit is used as it is.
    """
    grid, bound = layer.grid, 1 / math.sqrt(layer.inputs)
    knots = torch.linspace(grid.low, grid.high, grid.intervals + 1, dtype=torch.float64)
    fit = torch.linalg.pinv(b_spline(knots, grid)).float()
    noise = draw.uniform((layer.inputs, grid.intervals + 1, layer.outputs), 0.5 * 0.1 / grid.intervals)
    spline = torch.einsum("kg,igo->iko", fit, noise).flatten(0, 1)
    base = draw.uniform((_splits(layer)[1], layer.outputs), bound)
    found = {"weight": torch.cat([spline, base])}
    if layer.scaler:
        found["scaler"] = draw.uniform((layer.inputs, layer.outputs), bound)
    return found


def as_fast_kan(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """fast-kan's start: spline weights normal with std 0.1, cut at 2; the base branch as `torch.nn.Linear`."""
    radial, base = _splits(layer)
    spline = draw.truncated_normal((radial, layer.outputs), 0.1)
    silu = draw.uniform((base, layer.outputs), 1 / math.sqrt(base))
    return {"weight": torch.cat([spline, silu])} | _norm_and_bias(layer, draw, base)


def as_faster_kan(layer: LayerSpec, draw: Draw) -> dict[str, Tensor]:
    """faster-kan's start: Xavier-uniform spline weights."""
    bound = math.sqrt(6 / (layer.features + layer.outputs))
    return {"weight": draw.uniform((layer.features, layer.outputs), bound)} | _norm_and_bias(
        layer, draw, layer.features
    )


STARTS: dict[str, Callable[[LayerSpec, Draw], dict[str, Tensor]]] = {
    "torch_linear": as_torch_linear,
    "efficient_kan": as_efficient_kan,
    "fast_kan": as_fast_kan,
    "faster_kan": as_faster_kan,
}


def start(config: HeadConfig, network: NetworkSpec) -> dict[str, Tensor]:
    """One head's first weights: decided by its seed, family, start and shapes, and by nothing else."""
    shapes = {name: list(shape) for name, shape in network.shapes().items()}
    name = hash_json({"seed": config.seed, "head": config.head, "starts": config.starts, "shapes": shapes})
    draw = Draw(torch.Generator().manual_seed(int(name[:15], 16)))
    rule = STARTS[HEADS[config.head].package_start if config.starts == "package" else "torch_linear"]
    return {
        f"layers.{index}.{name}": tensor
        for index, layer in enumerate(network.layers)
        for name, tensor in rule(layer, draw).items()
    }


def stack(draws: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of single heads [...] as one pack's [heads, ...]."""
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
