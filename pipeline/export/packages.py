"""Heads as the original packages' state dicts, and back: efficient-kan, fast-kan, faster-kan.

Their `forward` is the source of every name and shape (state dicts of their releases; D inputs, O outputs):
efficient-kan has `base_weight` [O, D], `spline_weight` [O, D, G + k], `spline_scaler` [O, D] and the buffer `grid`
[D, G + 2k + 1]; fast-kan and faster-kan `layernorm.weight|bias` [D], `rbf.grid` [K], `spline_linear.weight`
[O, D * K]; fast-kan `base_linear.weight` [O, D] and `.bias` [O]; faster-kan `rbf.inv_denominator` []. All of them stand
behind `layers.N.`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError, ResultsError
from pipeline.heads.forward import layer_tensors
from pipeline.heads.knots import even_knots
from pipeline.heads.network import Branch, LayerSpec, NetworkSpec

__all__ = ["PACKAGES", "Package", "Parsed", "from_package", "to_package"]

#: Knots and centres are float32, so that steps between them differ in the last digits.
_EVEN = 1e-4


@dataclass(frozen=True)
class Package:
    """An original package: what its layers are, and a layer as its tensors and back.

    `optional` are names of tensors that a state dict may lack. `write` takes a layer's tensors [features, out];
    `read` a layer's entries, and gives tensors and the options that they tell.
    """

    name: str
    branches: tuple[Branch, ...]
    names: tuple[str, ...]
    write: Callable[[LayerSpec, Mapping[str, Tensor]], dict[str, Tensor]]
    read: Callable[[Mapping[str, Tensor], str], tuple[dict[str, Tensor], dict[str, Any]]]
    optional: tuple[str, ...] = ()
    bias: bool = False


@dataclass(frozen=True)
class Parsed:
    """A state dict understood: tensors in the project's names, widths from first to last, options of the family."""

    tensors: dict[str, Tensor]
    widths: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


def _split(layer: LayerSpec, weight: Tensor) -> tuple[Tensor, Tensor]:
    first = layer.inputs * layer.widths[0]
    return weight[:first], weight[first:]


def _write_efficient(layer: LayerSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    spline, base = _split(layer, tensors["weight"])
    scaler = tensors.get("scaler", torch.ones(layer.inputs, layer.outputs))
    return {
        "grid": tensors["knots"] if layer.knots else even_knots(layer.grid, layer.inputs),
        "base_weight": base.T,
        "spline_weight": spline.view(layer.inputs, -1, layer.outputs).permute(2, 0, 1),
        "spline_scaler": scaler.T,
    }


def _read_efficient(found: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    spline, knots = found["spline_weight"], found["grid"]
    outputs, inputs, width = _axes(spline, 3, f"{where}spline_weight", "[outputs, inputs, G + k]")
    _, count = _axes(knots, 2, f"{where}grid", "[inputs, G + 2k + 1]")
    order = count - width - 1
    if not 1 <= order <= 5 or width - order < 1:
        raise ResultsError(
            f"{where}grid: expected G + 2k + 1 knots beside {width} = G + k coefficients with G of at least 1 and k "
            f"from 1 to 5, found {count} knots; this is no state dict of efficient-kan"
        )
    shapes = {"base_weight": (outputs, inputs), "grid": (inputs, count), "spline_scaler": (outputs, inputs)}
    _check_shapes(found, shapes, where)
    if bool((knots.diff(dim=1) < 0).any()) or not bool((knots[:, -1] > knots[:, 0]).all()):
        raise ResultsError(f"{where}grid: expected knots that rise along every row, found others")
    ends = _ends(knots, slice(order, count - order))  # none: the grid was updated from data
    weight = torch.cat([spline.permute(1, 2, 0).flatten(0, 1), found["base_weight"].T])
    tensors = {"weight": weight, "knots": knots}
    if "spline_scaler" in found:
        tensors["scaler"] = found["spline_scaler"].T
    options = {"grid": width - order, "order": order, "grid_range": ends, "spline_scaler": "scaler" in tensors}
    return tensors, options


def _write_centres(layer: LayerSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    spline, _ = _split(layer, tensors["weight"])
    grid = layer.grid
    return {
        "layernorm.weight": tensors["norm_scale"],
        "layernorm.bias": tensors["norm_shift"],
        "rbf.grid": torch.linspace(grid.low, grid.high, grid.centres),
        "spline_linear.weight": spline.T,
    }


def _read_centres(found: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    (centres,) = _axes(found["rbf.grid"], 1, f"{where}rbf.grid", "[centres]")
    outputs, columns = _axes(found["spline_linear.weight"], 2, f"{where}spline_linear.weight", "[outputs, inputs * K]")
    if centres < 2 or columns % centres:
        raise ResultsError(
            f"{where}spline_linear.weight: expected inputs times {centres} centres columns, found {columns}"
        )
    inputs = columns // centres
    shapes = {"layernorm.weight": (inputs,), "layernorm.bias": (inputs,), "base_linear.weight": (outputs, inputs),
              "base_linear.bias": (outputs,), "rbf.inv_denominator": ()}  # fmt: skip
    _check_shapes(found, shapes, where)
    low, high = _even(found["rbf.grid"].unsqueeze(0), f"{where}rbf.grid")
    tensors = {
        "weight": found["spline_linear.weight"].T,
        "norm_scale": found["layernorm.weight"],
        "norm_shift": found["layernorm.bias"],
    }
    return tensors, {"centres": centres, "grid_range": (low, high)}


def _write_fast(layer: LayerSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    base = _split(layer, tensors["weight"])[1].T
    return _write_centres(layer, tensors) | {"base_linear.weight": base, "base_linear.bias": tensors["bias"]}


def _read_fast(found: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, options = _read_centres(found, where)
    weight = torch.cat([tensors["weight"], found["base_linear.weight"].T])
    return tensors | {"weight": weight, "bias": found["base_linear.bias"]}, options


def _write_faster(layer: LayerSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _write_centres(layer, tensors) | {"rbf.inv_denominator": torch.tensor(layer.grid.sharpness)}


_CENTRED = ("layernorm.weight", "layernorm.bias", "rbf.grid", "spline_linear.weight")

#: By family.
PACKAGES: dict[str, Package] = {
    "effi_kan": Package(
        "efficient-kan", (Branch("b_spline"), Branch("silu")),
        ("grid", "base_weight", "spline_weight", "spline_scaler"), _write_efficient, _read_efficient,
        optional=("spline_scaler",),
    ),
    "fast_kan": Package(
        "fast-kan", (Branch("radial", normed=True), Branch("silu")),
        (*_CENTRED, "base_linear.weight", "base_linear.bias"), _write_fast, _read_fast, bias=True,
    ),
    "faster_kan": Package(
        "faster-kan", (Branch("switch", normed=True),), (*_CENTRED, "rbf.inv_denominator"), _write_faster,
        _read_centres,
    ),
}  # fmt: skip


def to_package(family: str, network: NetworkSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A head's weights under the original package's names and in its shapes; all of them load strictly.

    A head without efficient-kan's separate scaler gets one of ones. Raises `ConfigError` for a head that the package
    cannot express (another base branch, a layer norm of its own). Knots that follow the data are the buffer `grid`.
    """
    package = PACKAGES[family]
    if any(layer.branches != package.branches or layer.bias != package.bias for layer in network.layers):
        raise ConfigError(
            f"export: expected {family} with the layers of {package.name}, found other options (`base`, "
            "`layer_norm=True`), for which the package has no weights; `format='torch'` exports this head"
        )
    return {
        f"layers.{index}.{name}": tensor.clone().contiguous()
        for index, layer in enumerate(network.layers)
        for name, tensor in package.write(layer, layer_tensors(tensors, index)).items()
    }


def from_package(family: str, state: Mapping[str, Tensor], who: str, *, knots: bool = False) -> Parsed:
    """A package's state dict as tensors and options of a head. Raises `ResultsError` naming the key that is wrong.

    A grid that was updated from data, or with `knots` any of efficient-kan's, stays the layers' own knots.
    """
    package = PACKAGES[family]
    layers = _layers(package, state, who)
    read = [package.read(found, f"{who}: layers.{index}.") for index, found in enumerate(layers)]
    knots = all("knots" in own for own, _ in read) and (knots or any(not told["grid_range"] for _, told in read))
    tensors: dict[str, Tensor] = {}
    widths: list[int] = []
    options: dict[str, Any] | None = None
    for index, (found, (own, told)) in enumerate(zip(layers, read, strict=True)):
        where = f"{who}: layers.{index}."
        if knots:
            told |= {"grid_range": None, "update_grid": 1}
        else:
            own.pop("knots", None)
        outputs, inputs = own["weight"].shape[1], next(iter(own["norm_scale"].shape)) if "norm_scale" in own else None
        inputs = found["base_weight"].shape[1] if inputs is None else inputs
        if widths and widths[-1] != inputs:
            raise ResultsError(f"{where}: expected {widths[-1]} inputs, as the layer before gives, found {inputs}")
        if options is not None and told != options:
            raise ResultsError(f"{where}: expected the first layer's {options}, found {told}; a head has one grid")
        widths += [outputs] if widths else [inputs, outputs]
        options = told
        tensors |= {f"layers.{index}.{name}": tensor.contiguous() for name, tensor in own.items()}
    return Parsed(tensors, tuple(widths), options)


def _layers(package: Package, state: Mapping[str, Tensor], who: str) -> list[dict[str, Tensor]]:
    layers: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        prefix, _, rest = key.partition(".")
        number, _, name = rest.partition(".")
        if prefix != "layers" or not number.isdecimal() or name not in package.names:
            raise ResultsError(
                f"{who}: expected the keys layers.N.({'|'.join(package.names)}) of {package.name}, found {key!r}"
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            kind = str(tensor.dtype).removeprefix("torch.")
            found = kind if not tensor.is_floating_point() else "values that are not finite"
            raise ResultsError(f"{who}: {key}: expected finite floating-point numbers, found {found}")
        layers.setdefault(int(number), {})[name] = tensor.float()
    if not layers or set(layers) != set(range(len(layers))):
        raise ResultsError(f"{who}: expected layers.0 to layers.N, found {sorted(layers) or 'no layers'}")
    for number, found in sorted(layers.items()):
        missing = [name for name in package.names if name not in found and name not in package.optional]
        if missing:
            raise ResultsError(f"{who}: expected the key layers.{number}.{missing[0]} of {package.name}, found none")
    return [layers[number] for number in sorted(layers)]


def _axes(tensor: Tensor, count: int, where: str, expected: str) -> tuple[int, ...]:
    if tensor.dim() != count or not tensor.numel():
        raise ResultsError(f"{where}: expected the shape {expected}, found {list(tensor.shape)}")
    return tuple(tensor.shape)


def _check_shapes(found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    for name, shape in shapes.items():
        if name in found and tuple(found[name].shape) != shape:
            raise ResultsError(f"{where}{name}: expected the shape {list(shape)}, found {list(found[name].shape)}")


def _even(rows: Tensor, where: str) -> tuple[float, float]:
    """Ends of evenly spaced rows [n, points]; `ResultsError` for others."""
    ends = _ends(rows, slice(None))
    if ends is None:
        raise ResultsError(f"{where}: expected evenly spaced centres, found others")
    return ends


def _ends(rows: Tensor, inner: slice) -> tuple[float, float] | None:
    """Ends of the inner part of evenly spaced rows [n, points], the same for all of them; `None` for other rows."""
    first = rows[0].double()
    step = (first[-1] - first[0]) / (len(first) - 1)
    ideal = first[0] + step * torch.arange(len(first), dtype=torch.float64)
    if not step > 0 or bool(((rows.double() - ideal).abs() > _EVEN * step).any()):
        return None
    ends = first[inner]
    return float(f"{ends[0].item():.6g}"), float(f"{ends[-1].item():.6g}")
