"""The functions that a saved KAN head has learned, on its edges or units, for looking at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError, KanglueError
from pipeline.heads.network import LayerSpec, basis_of
from pipeline.heads.pykan import PykanNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.saved import SavedHead

__all__ = ["LearnedFunctions", "learned_functions"]

#: Functions shown of a head, and points of each.
SHOWN, POINTS = 12, 65
#: Range for bases that have no grid: standardised features hardly leave it.
RANGE = (-3.0, 3.0)


@dataclass(frozen=True)
class LearnedFunctions:
    """The strongest functions of one layer: `curves` [functions, points] over `grid` [points], named by their edge."""

    family: str
    head: str
    where: str
    grid: np.ndarray
    names: tuple[str, ...]
    curves: np.ndarray
    note: str


def learned_functions(results: Path, head_id: str, where: str) -> LearnedFunctions | str:
    """The functions of a saved head of a results database; a reason in words where there are none to be seen."""
    from pipeline.models.saved import head_folder, read_head

    try:
        folder = head_folder(results, head_id)
        if not folder.is_dir():
            return "its head is not beside the results, in heads/."
        head = read_head(folder, head_id)
        if isinstance(head.network, PykanNetwork):
            return _of_pykan(head, where)
        layer = next((i for i, one in enumerate(head.network.layers) if _learns(one)), None)
        if layer is None:
            return f"{head.config.head} has no learned functions."
        return _of(head, layer, where)
    except (KanglueError, OSError) as error:
        return f"The head could not be loaded ({error})."


def _learns(layer: LayerSpec) -> bool:
    return bool(layer.units or layer.basis_shapes) or max(layer.widths) > 1


def _of_pykan(head: "SavedHead", where: str) -> LearnedFunctions:
    """What each edge of a `kan`'s first layer adds, from the first inner knot of any input to the last."""
    import torch

    from pipeline.fit.kan_forward import edge_values

    knots, order = head.tensors["layers.0.grid"], head.network.order
    x = torch.linspace(knots[:, order].min().item(), knots[:, -order - 1].max().item(), POINTS)
    ((_, edges), *_) = edge_values(head.tensors, x.unsqueeze(1).expand(-1, head.network.inputs))
    names = [f"{before} → {after}" for before in range(edges.shape[0]) for after in range(edges.shape[1])]
    return _strongest(head, where, x.numpy(), edges.flatten(0, 1).numpy(), names, "of the scaled feature")


def _strongest(
    head: "SavedHead", where: str, x: np.ndarray, curves: np.ndarray, names: Sequence[str], note: str
) -> LearnedFunctions:
    """Of curves [functions, points] those that vary most."""
    order = np.argsort(-curves.std(1), kind="stable")[:SHOWN]
    shown = curves[order] - curves[order].mean(1, keepdims=True)
    return LearnedFunctions(head.config.head, head.id, where, x, tuple(names[at] for at in order), shown, note)


def _of_trained_basis(
    head: "SavedHead", layer: LayerSpec, tensors: "dict[str, Tensor]", where: str
) -> LearnedFunctions:
    """Functions whose parameters train: of every edge with the branches beside it, or of every group of inputs."""
    import torch

    from pipeline.heads.bases import EXPANSIONS

    x, main = torch.linspace(*RANGE, POINTS), layer.branches[0]
    note = "of the layer norm's output" if main.normed else "of the scaled feature"
    basis = basis_of(main.basis)
    if basis.expand is None:
        raise ConfigError(f"{main.basis}: expected a basis with a function of its own, found none")
    with torch.inference_mode():
        values = basis.expand(x.view(1, -1, 1).expand(-1, -1, layer.inputs), layer.grid, tensors)[0]
        if not basis.per_edge:
            curves = values[..., 0].T.numpy()
            firsts = np.sort(np.unique(curves, axis=0, return_index=True)[1])
            return _strongest(head, where, x.numpy(), curves[firsts], [f"inputs from {at}" for at in firsts], note)
        weight = tensors["weight"][0]
        total = (values * weight[: layer.inputs]).permute(1, 2, 0)
        start = layer.inputs
        for branch, width in zip(layer.branches[1:], layer.widths[1:], strict=True):
            part = weight[start : start + layer.inputs * width].unflatten(0, (layer.inputs, width))
            start += layer.inputs * width
            if branch.normed == main.normed:
                total = total + torch.einsum("pw,iwo->iop", EXPANSIONS[branch.basis](x, layer.grid), part)
    names = [f"{before} → {after}" for before in range(total.shape[0]) for after in range(total.shape[1])]
    return _strongest(head, where, x.numpy(), total.flatten(0, 1).numpy(), names, note)


def _of(head: "SavedHead", index: int, where: str) -> LearnedFunctions:
    """Mean and constant part of each function left out: only its shape matters here, and which vary most."""
    import torch

    from pipeline.heads.bases import EXPANSIONS, knot_spline
    from pipeline.heads.forward import layer_tensors, scaled_weight

    layer = head.network.layers[index]
    tensors = {name: one.unsqueeze(0) for name, one in layer_tensors(head.tensors, index).items()}
    if layer.basis_shapes:
        return _of_trained_basis(head, layer, tensors, where)
    has_grid = {"b_spline", "radial", "switch"} & {branch.basis for branch in layer.branches}
    low, high = (layer.grid.low, layer.grid.high) if has_grid else RANGE
    if layer.knots:  # from the first inner knot of any input to the last
        inner = tensors["knots"][0, :, layer.grid.order : -layer.grid.order]
        low, high = inner.min().item(), inner.max().item()
    x = torch.linspace(low, high, POINTS)
    main = layer.branches[int(np.argmax(layer.widths))]
    note = "of the layer norm's output" if main.normed else "of the scaled feature"
    with torch.inference_mode():
        if layer.units:
            values = torch.cat([EXPANSIONS[branch.basis](x, layer.grid) for branch in layer.branches], -1)
            curves = (tensors["unit"][0] @ values.T).numpy()  # [units, points]
            names = [f"unit {unit}" for unit in range(len(curves))]
            note = "of a hidden unit"
        else:
            weight, start, total = scaled_weight(layer, tensors)[0], 0, 0.0
            for branch, width in zip(layer.branches, layer.widths, strict=True):
                part = weight[start : start + layer.inputs * width].unflatten(0, (layer.inputs, width))
                start += layer.inputs * width
                if branch.normed == main.normed:  # a branch of the other kind has another argument
                    if layer.knots and branch.basis == "b_spline":
                        each = x.unsqueeze(1).expand(-1, layer.inputs)
                        values = knot_spline(each, tensors["knots"][0], layer.grid.order)
                        total = total + torch.einsum("piw,iwo->iop", values, part)
                        continue
                    total = total + torch.einsum("pw,iwo->iop", EXPANSIONS[branch.basis](x, layer.grid), part)
            curves = total.flatten(0, 1).numpy()
            names = [f"{before} → {after}" for before in range(total.shape[0]) for after in range(total.shape[1])]
    return _strongest(head, where, x.numpy(), curves, names, note)
