"""A head as one readable Python file that needs PyTorch alone, and its weights as safetensors."""

import importlib.util
import inspect
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.export.modules import MODULES, KanLayer, KnotSpline, Layer
from pipeline.heads.network import LayerSpec, NetworkSpec
from pipeline.heads.pykan import PykanNetwork

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.models.saved import SavedHead

__all__ = ["from_state", "import_file", "state_of", "torch_source"]

_HEADER = '''"""{title}

    from head import LABELS, load
    head = load()
    logits = head(features)  # [rows, {inputs}] to [rows, {outputs}]

`features` are those of the encoder as they come: the head scales them itself. Needs PyTorch alone.
"""

import json
from math import comb, factorial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

LABELS = {labels}


'''

_HEAD = '''class Head(nn.Module):
    """{what}, with {parameters:,} parameters."""

    def __init__(self):
        super().__init__()
{buffers}        self.layers = nn.ModuleList([
{layers}
        ])

    def forward(self, features):
{forward}

'''

_LOAD = '''def load(folder=Path(__file__).parent):
    """The head with the weights in head.safetensors: a length in 8 bytes, a header in JSON, then plain numbers."""
    data = (Path(folder) / "head.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    state = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            numbers = torch.frombuffer(bytearray(data[start + first : start + last]), dtype=torch.float32)
            state[name] = numbers.reshape(entry["shape"])
    head = Head()
    head.load_state_dict(state)
    return head.eval()
'''

#: Names of the project's tensors in the exported module.
_NAMES = {"norm_scale": "norm.weight", "norm_shift": "norm.bias", "knots": "bases.0.knots"}


def torch_source(head: "SavedHead") -> str:
    """The file's text. Raises `ConfigError` for a basis without an entry in `MODULES`."""
    network = head.network
    used = {
        KnotSpline if layer.knots and branch.basis == "b_spline" else _module(branch.basis).kind
        for layer in network.layers
        for branch in layer.branches
    }
    kinds = [Layer, *sorted(used, key=lambda kind: kind.__name__)] if network.layers else [KanLayer]
    labels = head.labels or ()
    outputs = f"{len(labels)} classes" if labels else "a value"
    about = f"{head.config.head} head {_plain(head.id)} for the task {_plain(head.provenance['task'])}"
    sources = [inspect.getsource(kind) for kind in kinds]
    return (
        _HEADER.format(title=f"{about}.", inputs=network.inputs, outputs=network.outputs, labels=repr(labels))
        + "\n\n".join(sources)
        + "\n\n"
        + _HEAD.format(
            what=f"From {network.inputs} features to {outputs}",
            parameters=head.parameters,
            buffers=_buffers(head),
            layers="\n".join(f"            {layer}," for layer in _layer_sources(network)),
            forward=_forward(head),
        )
        + _LOAD
    )


def _plain(name: str) -> str:
    """A name from a file as it may stand in Python source."""
    return re.sub(r"[^\w.-]", "_", name)


def _module(basis: str) -> Any:
    if basis not in MODULES:
        raise ConfigError(f"export: expected a basis that has a module, one of {', '.join(MODULES)}, found {basis!r}")
    return MODULES[basis]


def _layer_sources(network: NetworkSpec | PykanNetwork) -> list[str]:
    if isinstance(network, PykanNetwork):
        pairs = itertools.pairwise(network.widths)
        return [f"KanLayer({before}, {after}, {network.intervals}, {network.order})" for before, after in pairs]
    return [_layer_source(layer) for layer in network.layers]


def _layer_source(layer: LayerSpec) -> str:
    sources = [_module(branch.basis).source(layer.grid) for branch in layer.branches]
    if layer.knots:
        sources[0] = f"KnotSpline({layer.inputs}, {layer.grid.intervals}, {layer.grid.order})"
    bases = ", ".join(sources)
    options = {
        "bias": layer.bias,
        "scaler": layer.scaler,
        "normed": tuple(branch.normed for branch in layer.branches) if layer.normed else (),
        "units": layer.units,
    }
    given = "".join(f", {name}={value!r}" for name, value in options.items() if value)
    return f"Layer({layer.inputs}, {layer.outputs}, [{bases}]{given})"


def _buffers(head: "SavedHead") -> str:
    if head.config.scale == "none":
        return ""
    width = head.network.inputs
    return (
        f'        self.register_buffer("shift", torch.zeros({width}))\n'
        f'        self.register_buffer("factor", torch.ones({width}))\n'
    )


def _forward(head: "SavedHead") -> str:
    lines = ["x = features"] if head.config.scale == "none" else ["x = (features - self.shift) * self.factor"]
    if head.config.scale == "tanh":
        lines.append("x = torch.tanh(x)")
    chains = () if isinstance(head.network, PykanNetwork) else head.network.chains
    if len(chains) <= 1:
        lines += ["for layer in self.layers:", "    x = layer(x)", "y = x"]
    else:
        depth = len(chains[0])
        lines += [
            "y = 0",
            f"for start in range(0, {len(head.network.layers)}, {depth}):  # networks whose outputs are summed",
            "    z = x",
            f"    for layer in self.layers[start : start + {depth}]:",
            "        z = layer(z)",
            "    y = y + z",
        ]
    mean, spread = head.target_scale
    lines.append("return y" if head.labels is not None else f"return y * {spread!r} + {mean!r}")
    return "\n".join(f"        {line}" for line in lines) + "\n"


def _name(name: str) -> str:
    prefix, _, last = name.rpartition(".")
    return f"{prefix}.{_NAMES.get(last, last)}"


def state_of(head: "SavedHead") -> "dict[str, Tensor]":
    """The exported module's state: the head's tensors, and its scaling."""
    import torch

    state = {_name(name): tensor.contiguous() for name, tensor in head.tensors.items()}
    if head.config.scale != "none":
        state |= {"shift": torch.from_numpy(head.scaling.shift), "factor": torch.from_numpy(head.scaling.factor)}
    return state


def from_state(network: NetworkSpec | PykanNetwork, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The project's tensors out of an exported module's state, which may lack some or have others too."""
    return {name: state[_name(name)] for name in (network.shapes() | network.buffers()) if _name(name) in state}


def import_file(file: Path) -> "nn.Module":
    """The head in an exported file with the weights beside it."""
    spec = importlib.util.spec_from_file_location("kanglue_exported_head", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()
