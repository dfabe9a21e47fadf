"""Weights in: an exported folder, or an original package's state dict, becomes a head that predicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError, ResultsError, UnknownNameError
from pipeline.export.packages import PACKAGES, Parsed, from_package
from pipeline.export.torch_file import from_state
from pipeline.export.write import document_of, tensors_sha256
from pipeline.fit.data import Scaling, fit_scaling
from pipeline.hashing import hash_json
from pipeline.heads.config import HeadConfig, identity
from pipeline.heads.families import build_network
from pipeline.heads.network import NetworkSpec
from pipeline.heads.resolve import resolve
from pipeline.models.caches import CacheRef, find_cache, load_data
from pipeline.models.saved import SavedHead, heads_folder, store_head

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LoadedHead", "load_weights", "read_state"]


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
            raise ConfigError(f"{path}: expected no --head and --task beside an exported folder, which knows them")
        made, metrics = _from_folder(path), {}
    else:
        made, metrics = _from_file(path, head, task, encoder, features, scale, sharpness, Path(cache))
    folder = heads_folder(Path(results))
    store_head(folder, made)
    about = made.provenance
    return LoadedHead(
        made.id, about["task"], about["encoder"], made.config.head, str(folder / made.id), made.parameters, metrics
    )


def read_state(file: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file; `ResultsError` for anything else, pickled weights above all."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise ResultsError(f"{file}: expected a safetensors file, found nothing; export the head again")
    try:
        return load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        pickled = file.read_bytes()[:2] in (b"PK", b"\x80\x02")
        hint = (
            "pickled weights are never loaded: save the state dict with safetensors.torch.save_file"
            if pickled
            else "write it again"
        )
        raise ResultsError(f"{file}: expected a whole safetensors file ({error}); {hint}") from error


def _from_folder(folder: Path) -> SavedHead:
    document = document_of(folder)
    form = document["format"]
    if form == "onnx":
        raise ResultsError(
            f"{folder}: expected an export as torch or safetensors, found ONNX, which keeps no weights by name; export "
            "the head again in one of these"
        )
    try:
        config = HeadConfig.from_json(document["config"])
        network = build_network(config, document["inputs"], document["outputs"])
        labels = document["labels"]
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{folder / 'config.json'}: expected an exported head's ({error!r})") from error
    if form == "safetensors" and config.head in PACKAGES:
        tensors = _package_tensors(folder / "model.safetensors", config, network)
        scaling = read_state(folder / "scaling.safetensors") if config.scale != "none" else {}
    else:
        file = folder / ("model.safetensors" if form == "safetensors" else "head.safetensors")
        state = read_state(file)
        tensors = from_state(network, state)
        scaling = {name: state[name] for name in ("shift", "factor") if name in state}
        _check_state(network, tensors, len(state) - len(scaling), file)
    about = dict(document["provenance"])
    name = document["id"]
    if tensors_sha256(tensors) != document.get("tensors_sha256"):
        about["loaded_from"] = folder.resolve().name
        name = _identity(config, about["fingerprint"], tensors)
    return SavedHead(
        name, config, network, tensors, _scaling(config.scale, scaling, network.inputs, folder),
        tuple(document["target_scale"]), None if labels is None else tuple(labels), about,
    )  # fmt: skip


def _package_tensors(file: Path, config: HeadConfig, network: NetworkSpec) -> "dict[str, Tensor]":
    parsed = from_package(config.head, read_state(file), str(file), knots=bool(network.buffers()))
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


def _check_state(network: NetworkSpec, tensors: "Mapping[str, Tensor]", found: int, file: Path) -> None:
    for name, shape in (network.shapes() | network.buffers()).items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            there = list(tensors[name].shape) if name in tensors else "nothing"
            raise ResultsError(f"{file}: expected {name} with the shape {list(shape)}, found {there}")
    if found != len(tensors):
        raise ResultsError(f"{file}: expected {len(tensors)} weights, found {found}; the others belong to no layer")


def _scaling(kind: str, state: "Mapping[str, Tensor]", width: int, where: Path) -> Scaling:
    if kind == "none":
        return fit_scaling("none", np.zeros((1, width), np.float32))
    wrong = [name for name in ("shift", "factor") if name not in state or tuple(state[name].shape) != (width,)]
    if wrong:
        raise ResultsError(f"{where}: expected the scaling's {wrong[0]} with {width} numbers, found none")
    return Scaling(kind, state["shift"].numpy(), state["factor"].numpy())


def _identity(config: HeadConfig, fingerprint: str, tensors: "Mapping[str, Tensor]") -> str:
    """A name for weights that no training of ours gave: it holds the weights themselves."""
    return hash_json({"trained": identity(config, fingerprint), "tensors": tensors_sha256(tensors)})[:16]


def _from_file(
    file: Path, family: str | None, task: str | None, encoder: str | None, features: str | None, scale: str,
    sharpness: float | None, cache: Path,
) -> tuple[SavedHead, dict[str, dict[str, float]]]:  # fmt: skip
    if family is None or task is None:
        raise ConfigError(f"{file}: expected --head FAMILY and --task TASK beside a state dict, found one or none")
    if family not in PACKAGES:
        raise UnknownNameError("family of a package's state dict", family, tuple(PACKAGES))
    parsed = from_package(family, read_state(file), str(file))
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
            f"{parsed.widths[0]} and {parsed.widths[-1]}; name the task, --features and --encoder it was trained on"
        )
    network = build_network(config, data.inputs, data.outputs)
    made = SavedHead(
        _identity(config, ref.fingerprint, parsed.tensors), config, network, parsed.tensors, data.scaling, (0.0, 1.0),
        ref.task.labels, dict(ref.attributes) | {"loaded_from": file.name},
    )  # fmt: skip
    return made, _evaluate(made, ref)


def _evaluate(head: SavedHead, ref: CacheRef) -> dict[str, dict[str, float]]:
    """Its metrics on the labelled splits besides the training one."""
    data = load_data(ref, head.config.features, "none", head.config.token_pool)
    return {split: head.metrics(head.predict(data.features[split]), data.labels[split]) for split in data.reported}
