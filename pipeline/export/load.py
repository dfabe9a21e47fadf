"""Weights in: an exported folder, or an original package's state dict, becomes a head that predicts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError, ResultsError, UnknownNameError
from pipeline.export.packages import PACKAGES, Parsed, from_package
from pipeline.export.torch_file import from_state
from pipeline.fit.data import Scaling, fit_scaling
from pipeline.heads.config import HeadConfig, identity
from pipeline.heads.families import build_network
from pipeline.heads.network import NetworkSpec
from pipeline.heads.resolve import resolve
from pipeline.models.caches import CacheRef, find_cache, load_data
from pipeline.models.document import read_document
from pipeline.models.saved import (
    SavedHead,
    check_finite,
    check_shapes,
    head_folder,
    head_sha256,
    heads_folder,
    read_head,
    read_tensors,
    store_head,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LoadedHead", "load_weights"]


@dataclass(frozen=True)
class LoadedHead:
    """A head made of weights (document of `fit_heads.py load --json`).

    `metrics` by reported split are there where its cache was given.
    """

    id: str
    task: str
    encoder: str
    head: str
    folder: str
    parameters: int
    metrics: dict[str, dict[str, float]]


def load_weights(
    source: str | Path,
    *,
    head: str | None = None,
    task: str | None = None,
    encoder: str | None = None,
    features: str | None = None,
    scale: str = "none",
    sharpness: float | None = None,
    cache: str | Path = "cache",
    results: str | Path = "runs/results.sqlite",
) -> LoadedHead:
    """Make a head of an exported folder, or of a package's state dict in a safetensors file, and store it.

    A state dict needs `head` (its family) and `task`, whose cache tells encoder and labels, and on whose reported
    splits it is evaluated; `scale` says how its inputs were scaled. Raises a `KanglueError` that names what is wrong.
    """
    path = Path(source)
    if not path.exists():
        raise ResultsError(f"{path}: expected an exported folder or a safetensors file, found nothing")
    if path.is_dir():
        if head or task:
            raise ConfigError(f"{path}: expected no `head` and `task` beside an exported folder, which knows them")
        made, metrics = _from_folder(path, Path(results)), {}
    else:
        made, metrics = _from_file(path, head, task, encoder, features, scale, sharpness, Path(cache))
    folder = heads_folder(Path(results))
    store_head(folder, made)
    about = made.provenance
    return LoadedHead(
        made.id, about["task"], about["encoder"], made.config.head, str(folder / made.id), made.parameters, metrics
    )


def _from_folder(folder: Path, results: Path) -> SavedHead:
    about = read_document(folder)
    if about.format == "onnx":
        raise ResultsError(
            f"{folder}: expected an export as torch or safetensors, found ONNX, which keeps no weights by name; export "
            "the head again in one of these"
        )
    if about.format not in ("torch", "safetensors"):
        raise ResultsError(f"{folder / 'config.json'}: expected an exported head's, found no format in it")
    config, network = about.config, about.network
    if about.format == "safetensors" and config.head in PACKAGES:
        tensors = _package_tensors(folder / "model.safetensors", config, network)
        scaling = read_tensors(folder / "scaling.safetensors") if config.scale != "none" else {}
    else:
        file = folder / ("model.safetensors" if about.format == "safetensors" else "head.safetensors")
        state = read_tensors(file)
        scaling = {name: state.pop(name) for name in ("shift", "factor") if name in state}
        tensors = from_state(network, state)
        check_shapes(tensors, network.shapes() | network.buffers(), file)
        if len(state) != len(tensors):
            raise ResultsError(
                f"{file}: expected {len(tensors)} weights, found {len(state)}; the others belong to no layer"
            )
    check_finite(tensors | scaling, folder)
    head = SavedHead(
        about.id, config, network, tensors, _scaling(config.scale, scaling, network.inputs, folder),
        about.target_scale, about.labels, about.provenance,
    )  # fmt: skip
    head = replace(head, id=head.own_id)
    return head if _is_known(head, results) else _loaded(head, folder.resolve().name)


def _loaded(head: SavedHead, source: str) -> SavedHead:
    """The head under a name of its weights' own, since nothing proves that they were trained as it says."""
    head = replace(head, provenance=dict(head.provenance) | {"loaded_from": source})
    return replace(head, id=head.own_id)


def _is_known(head: SavedHead, results: Path) -> bool:
    """Whether the results have this very head, weights and all."""
    try:
        return head_sha256(read_head(head_folder(results, head.id))) == head_sha256(head)
    except ResultsError:
        return False


def _package_tensors(file: Path, config: HeadConfig, network: NetworkSpec) -> "dict[str, Tensor]":
    parsed = from_package(config.head, read_tensors(file), str(file), knots=bool(network.buffers()))
    if parsed.options.get("update_grid") and not network.buffers():
        raise ResultsError(f"{file}: expected the even grid of config.json, found one that was updated from data")
    expected = (network.inputs, *(layer.outputs for layer in network.layers))
    if parsed.widths != expected:
        raise ResultsError(f"{file}: expected the widths {expected} of config.json, found {parsed.widths}")
    tensors = _without_scaler(parsed, config)
    given = config.to_json()
    for name in ("grid", "order", "centres", "grid_range"):
        told = parsed.options.get(name)
        mine = tuple(given[name]) if name == "grid_range" else given.get(name)
        same = told is None or (np.allclose(told, mine, rtol=1e-5, atol=1e-6))
        if not same:
            raise ResultsError(f"{file}: expected {name} {mine} of config.json, found {told}")
    return tensors


def _without_scaler(parsed: Parsed, config: HeadConfig) -> "dict[str, Tensor]":
    """Tensors for a head without a separate scaler: what the package's scaler says goes into the spline weights."""
    if config.spline_scaler or config.head != "effi_kan":
        return parsed.tensors
    tensors = dict(parsed.tensors)
    width = parsed.options["grid"] + parsed.options["order"]
    for name in [name for name in tensors if name.endswith(".scaler")]:
        scaler, weight = tensors.pop(name), tensors[name.replace(".scaler", ".weight")].clone()
        weight[: len(scaler) * width] *= scaler.repeat_interleave(width, 0)
        tensors[name.replace(".scaler", ".weight")] = weight
    return tensors


def _scaling(kind: str, state: "Mapping[str, Tensor]", width: int, where: Path) -> Scaling:
    if kind == "none":
        return fit_scaling("none", np.zeros((1, width), np.float32))
    check_shapes(state, dict.fromkeys(("shift", "factor"), (width,)), where)
    return Scaling(kind, state["shift"].numpy(), state["factor"].numpy())


def _from_file(
    file: Path, family: str | None, task: str | None, encoder: str | None, features: str | None, scale: str,
    sharpness: float | None, cache: Path,
) -> tuple[SavedHead, dict[str, dict[str, float]]]:  # fmt: skip
    if family is None or task is None:
        raise ConfigError(f"{file}: expected `head=FAMILY` and `task=TASK` beside a state dict, found one or none")
    if family not in PACKAGES:
        raise UnknownNameError("family of a package's state dict", family, tuple(PACKAGES))
    parsed = from_package(family, read_tensors(file), str(file))
    ref = find_cache(cache, task, encoder)
    feature = ref.feature(features)
    options = parsed.options | {"hidden": parsed.widths[1:-1], "scale": scale}
    if family == "faster_kan":
        options["sharpness"] = sharpness
    config = resolve(family, seed=0, features=feature, protocol="clean", options=options)
    data = load_data(ref, feature, scale, config.token_pool)
    if (parsed.widths[0], parsed.widths[-1]) != (data.inputs, data.outputs):
        raise ResultsError(
            f"{file}: expected {data.inputs} inputs and {data.outputs} outputs for {feature!r} of {ref.path}, found "
            f"{parsed.widths[0]} and {parsed.widths[-1]}; name the task, `features` and `encoder` it was trained on"
        )
    network = build_network(config, data.inputs, data.outputs)
    made = SavedHead(
        identity(config, ref.fingerprint), config, network, parsed.tensors, data.scaling, (0.0, 1.0),
        ref.task.labels, ref.attributes,
    )  # fmt: skip
    made = _loaded(made, file.name)
    return made, _evaluate(made, ref)


def _evaluate(head: SavedHead, ref: CacheRef) -> dict[str, dict[str, float]]:
    """Its metrics on the labelled splits besides the training one."""
    data = load_data(ref, head.config.features, "none", head.config.token_pool)
    return {split: head.metrics(head.predict(data.features[split]), data.labels[split]) for split in data.reported}
