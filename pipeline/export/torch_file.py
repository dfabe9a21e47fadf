"""A head as one readable Python file that needs PyTorch alone, its weights as safetensors and its sizes as JSON."""

import inspect
import itertools
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.export.modules import KINDS, MODULES, OWN_MODULES, Head, load, make
from pipeline.heads.network import OWN_BASES, LayerSpec, NetworkSpec
from pipeline.heads.pykan import PykanNetwork

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.models.saved import SavedHead

__all__ = ["from_state", "module_of", "network_document", "state_of", "torch_source"]

_HEADER = '''"""A head of kanglue in plain PyTorch; config.json says its sizes and options, README.md what it is.

    from head import LABELS, load
    head = load()
    logits = head(features)  # [rows, inputs] to [rows, outputs]

`features` are the encoder's as they come: the head scales them itself. Needs PyTorch alone.
"""

import json
import math
from math import comb, factorial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

FOLDER = Path(__file__).parent
LABELS = tuple(json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["labels"] or ())
'''

#: Names of the project's tensors in the exported module.
_NAMES = {"norm_scale": "norm.weight", "norm_shift": "norm.bias", "knots": "bases.0.knots"}


def torch_source(head: "SavedHead") -> str:
    """The file's text: our own source, of the classes that the head is made of. Nothing of the head stands in it."""
    used = _kinds(network_document(head)["layers"])
    classes = [kind for name, kind in KINDS.items() if name in used]
    names = "".join(f'    "{kind.__name__}": {kind.__name__},\n' for kind in classes)
    sources = [textwrap.dedent(inspect.getsource(one)).rstrip() for one in (make, Head, *classes)]
    read = inspect.getsource(load).rstrip().replace("def load(folder):", "def load(folder=FOLDER):")
    return "\n\n\n".join([_HEADER.rstrip(), *sources, f"KINDS = {{\n{names}}}", read]) + "\n"


def _kinds(descriptions: list[dict[str, Any]]) -> set[str]:
    """The classes that descriptions and those inside them name."""
    inner = [basis for one in descriptions for basis in one.get("options", {}).get("bases", ())]
    return {one["kind"] for one in descriptions} | (_kinds(inner) if inner else set())


def network_document(head: "SavedHead") -> dict[str, Any]:
    """The arguments of `Head`, as plain JSON. Raises `ConfigError` for a basis without an entry in `MODULES`."""
    network = head.network
    if isinstance(network, PykanNetwork):
        pairs = itertools.pairwise(network.widths)
        layers = [_described("KanLayer", *pair, network.intervals, network.order) for pair in pairs]
    else:
        layers = [_layer(layer) for layer in network.layers]
    return {
        "inputs": network.inputs,
        "scale": head.config.scale,
        "layers": layers,
        "stacks": network.stacks if isinstance(network, NetworkSpec) else 1,
        "target_scale": list(head.target_scale) if head.labels is None else None,
    }


def _described(kind: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    return {"kind": kind, "arguments": list(arguments)} | ({"options": options} if options else {})


def _layer(layer: LayerSpec) -> dict[str, Any]:
    bases = [_basis(branch.basis, layer) for branch in layer.branches]
    if layer.knots:
        bases[0] = _described("KnotSpline", layer.inputs, layer.grid.intervals, layer.grid.order)
    normed = [branch.normed for branch in layer.branches] if layer.normed else []
    return _described(
        "Layer", layer.inputs, layer.outputs, bases=bases, bias=layer.bias, scaler=layer.scaler, normed=normed,
        units=layer.units,
    )  # fmt: skip


def _basis(name: str, layer: LayerSpec) -> dict[str, Any]:
    own = OWN_BASES.get(name)
    if own is not None and own.module is not None and own.arguments is not None:
        return _described(OWN_MODULES[name].__name__, *own.arguments(layer))
    if name not in MODULES:
        raise ConfigError(f"export: expected a basis that has a module, one of {', '.join(MODULES)}, found {name!r}")
    return MODULES[name].description(layer.grid)


def module_of(head: "SavedHead") -> "nn.Module":
    """The head as the module that the exported file makes."""
    module = Head(**network_document(head))
    module.load_state_dict(state_of(head))
    return module.eval()


def _name(network: NetworkSpec | PykanNetwork, name: str) -> str:
    prefix, _, last = name.rpartition(".")
    if isinstance(network, NetworkSpec) and prefix.startswith("layers."):
        layer = network.layers[int(prefix.removeprefix("layers."))]
        if last in layer.basis_shapes:  # of a family's own basis, which comes first
            return f"{prefix}.bases.0.{last}"
    return f"{prefix}.{_NAMES.get(last, last)}"


def state_of(head: "SavedHead") -> "dict[str, Tensor]":
    """The exported module's state: the head's tensors, and its scaling."""
    import torch

    state = {_name(head.network, name): tensor.contiguous() for name, tensor in head.tensors.items()}
    if head.config.scale != "none":
        state |= {"shift": torch.from_numpy(head.scaling.shift), "factor": torch.from_numpy(head.scaling.factor)}
    return state


def from_state(network: NetworkSpec | PykanNetwork, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The project's tensors out of an exported module's state, which may lack some or have others too."""
    names = {name: _name(network, name) for name in (network.shapes() | network.buffers())}
    return {name: state[exported] for name, exported in names.items() if exported in state}
