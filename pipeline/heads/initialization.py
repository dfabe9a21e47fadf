"""Initial weights: the project's own scheme, or each original package's (`Family.initialize`).

Every head draws from its own generator, seeded by its seed, family and shape alone, on the CPU and in float32, so a
head's initial weights depend on neither device, pack nor learning rate.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from pipeline.hashing import hash_json
from pipeline.heads.config import HeadConfig
from pipeline.heads.families import FAMILIES
from pipeline.heads.initializers import Draw, as_torch_linear
from pipeline.heads.network import LayerSpec, NetworkSpec

__all__ = ["stack", "start", "starts"]


def _initializer(family: str, init: str) -> Callable[[LayerSpec, Draw], dict[str, Tensor]]:
    own = FAMILIES[family].initialize if init == "package" else None
    return as_torch_linear if own is None else own


def start(config: HeadConfig, network: NetworkSpec) -> dict[str, Tensor]:
    """One head's initial weights: decided by its seed, family, `init` and shapes, and by nothing else."""
    shapes = {name: list(shape) for name, shape in network.shapes().items()}
    name = hash_json({"seed": config.seed, "head": config.head, "starts": config.init, "shapes": shapes})
    draw = Draw(torch.Generator().manual_seed(int(name[:15], 16)))
    stacks = FAMILIES[config.head].stacks or (config.head,)
    # Equal scores: a pool that trains starts as the mean.
    pool = {} if network.pool is None else {"pool.weight": torch.zeros(network.shapes()["pool.weight"])}
    return pool | {
        f"layers.{index}.{name}": tensor
        for family, chain in zip(stacks, network.chains, strict=True)
        for index in chain
        for name, tensor in _initializer(family, config.init)(network.layers[index], draw).items()
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
