"""Other packages' KAN heads as they train themselves, for comparison: one head at a time, and under `torch.func.vmap`.

Each network has cubic splines on a grid of five intervals. Its step is the usual one: take the minibatch, forward,
cross-entropy, backward, clipping of the gradient's norm to 1, `torch.optim.AdamW` as torch ships it.
"""

import copy
import importlib
import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from pipeline.errors import ConfigError

__all__ = ["BASELINES", "alone", "efficient_kan", "missing", "stacked"]

GRID, ORDER = 5, 3
#: pykan keeps [rows, inputs, outputs, bases] in memory: at 768 inputs a step takes seconds.
WIDEST_PYKAN = 64


def efficient_kan() -> ModuleType | None:
    """efficient-kan's module: the package itself, or its copy in kan-gpt; `None` where neither is installed.

    kan-gpt's copy is loaded from its file alone, since the package around it wants much that is not needed here.
    """
    if importlib.util.find_spec("efficient_kan"):
        return importlib.import_module("efficient_kan")
    package = importlib.util.find_spec("kan_gpt")
    if package is None:
        return None
    file = Path(package.submodule_search_locations[0]) / "efficient_kan" / "model.py"
    spec = importlib.util.spec_from_file_location("efficient_kan_model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _efficient_kan(widths: tuple[int, ...]) -> nn.Module:
    # Layer by layer: kan-gpt's `KAN` hands the grid's size on as the order.
    module = efficient_kan()
    if module is None:
        raise ConfigError(
            "efficient-kan: expected it, or its copy in kan-gpt, installed, found neither; python -m pip install "
            "--no-deps kan-gpt"
        )
    layer = module.KANLinear
    return nn.Sequential(
        *(layer(before, after, grid_size=GRID, spline_order=ORDER) for before, after in pairwise(widths))
    )


def _flashkan(widths: tuple[int, ...]) -> nn.Module:
    from flashkan import KANNetwork

    return KANNetwork(list(widths), grid_size=GRID, spline_order=ORDER)


def _inkan(widths: tuple[int, ...]) -> nn.Module:
    from inkan import KANNetwork

    return KANNetwork(list(widths), grid_size=GRID, spline_order=ORDER)


def _pykan(widths: tuple[int, ...]) -> nn.Module:
    from kan import KAN

    # Without the symbolic half and without stored activations, as its own `speed()` sets it.
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KAN(
            width=list(widths), grid=GRID, k=ORDER, ckpt_path=scratch, auto_save=False, symbolic_enabled=False,
            save_act=False,
        )  # fmt: skip


#: Networks, by the name of their package.
BASELINES: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "efficient_kan": _efficient_kan,
    "flashkan": _flashkan,
    "inkan": _inkan,
    "pykan": _pykan,
}


def missing(name: str, inputs: int) -> str | None:
    """Why a package takes no part with that many inputs, `None` if it does."""
    module = {"pykan": "kan"}.get(name, name)
    if not (efficient_kan() if name == "efficient_kan" else importlib.util.find_spec(module)):
        return "not installed"
    return "a step takes seconds at this width" if name == "pykan" and inputs > WIDEST_PYKAN else None


def alone(network: nn.Module, x: Tensor, y: Tensor, batch: int) -> Callable[[], None]:
    """One training step of one head on the next minibatch of rows x [rows, inputs] with classes y [rows]."""
    trained = [one for one in network.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    batches = _batches(len(x), batch, 1, x.device)

    def step() -> None:
        rows = next(batches)[0]
        optimiser.zero_grad()
        functional.cross_entropy(network(x[rows]), y[rows]).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()

    return step


def stacked(
    network: nn.Module, heads: int, x: Tensor, y: Tensor, batch: int
) -> tuple[Callable[[], None], dict[str, Tensor]]:
    """One training step of many heads at once, and their parameters [heads, ...], which it changes in place.

    `vmap` goes over the heads' gradients, each of which is clipped by its own norm.
    """
    parameters, buffers = stack_module_state([copy.deepcopy(network) for _ in range(heads)])
    parameters = {name: tensor.detach() for name, tensor in parameters.items()}
    optimiser = torch.optim.AdamW(parameters.values(), lr=1e-3, weight_decay=0.01)
    base = copy.deepcopy(network).to("meta")
    batches = _batches(len(x), batch, heads, x.device)

    def loss(own: dict[str, Tensor], fixed: dict[str, Tensor], rows: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(base, (own, fixed), (x[rows],)), y[rows])

    gradient = vmap(grad(loss))

    def step() -> None:
        found = gradient(parameters, buffers, next(batches))
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in found.values()]).norm(dim=0)
        share = (1.0 / (norm + 1e-6)).clamp(max=1.0)
        for name, tensor in parameters.items():
            tensor.grad = found[name] * share.view(-1, *[1] * (tensor.dim() - 1))
        optimiser.step()

    return step, parameters


def _batches(rows: int, size: int, heads: int, device: torch.device) -> Iterator[Tensor]:
    """Minibatches of row numbers [heads, size] without end, in a random order for each head."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.stack([torch.randperm(rows, generator=generator) for _ in range(heads)]).to(device)
        yield from order[:, : rows // size * size].split(size, 1)
