"""A trained head on disk: `<id>/head.safetensors` with its tensors, `<id>/config.json` with everything else."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ResultsError
from pipeline.fit.attention import TokenSource
from pipeline.fit.data import Scaling
from pipeline.fit.kan_forward import forward as kan_forward
from pipeline.fit.tokens import Tokens
from pipeline.hashing import hash_json
from pipeline.heads.config import TRAINED_POOLS, HeadConfig
from pipeline.heads.cost import parameters
from pipeline.heads.forward import network_forward
from pipeline.heads.network import NetworkSpec
from pipeline.heads.pykan import PykanNetwork
from pipeline.metrics import classification_metrics, regression_metrics
from pipeline.models.document import (
    arrays_sha256,
    content_sha256,
    head_folder,
    heads_folder,
    read_document,
    regular_file,
    why_diverged,
)
from pipeline.paths import child
from pipeline.publish import replace_folder, sync, sync_entries, work_folder
from pipeline.text import json_text

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "RESULTS", "SavedHead", "check_finite", "check_shapes", "finetuned_encoder", "finetuned_folder", "head_document",
    "head_folder", "head_sha256", "heads_folder", "load_head", "read_head", "read_tensors", "stage", "store_head",
]  # fmt: skip

#: Where commands keep results unless another file is named.
RESULTS = Path("runs/results.sqlite")


@dataclass(frozen=True)
class SavedHead:
    """A head that predicts: features in, logits (or a value in the task's units) out.

    `provenance` are the root attributes of the cache that it was trained on; a head that was trained together with its
    encoder has those of a cache by that encoder, and `finetuned_from`. `diverged_at` is the step
    at which its training failed, if it did.
    """

    id: str
    config: HeadConfig
    network: NetworkSpec | PykanNetwork
    tensors: dict[str, "Tensor"]
    scaling: Scaling
    target_scale: tuple[float, float]
    labels: tuple[str, ...] | None
    provenance: Mapping[str, Any]
    diverged_at: int | None = None

    def usable(self) -> "SavedHead":
        """The head; raises `ResultsError` where it diverged in training, so that its outputs mean nothing."""
        if self.diverged_at is not None:
            raise ResultsError(
                f"head {self.id}: expected a trained head, found one that {why_diverged(self.diverged_at)}; or choose "
                "another"
            )
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """All that `head.safetensors` holds: the network's tensors, and the scaling's."""
        arrays = {name: tensor.contiguous().numpy() for name, tensor in self.tensors.items()}
        return arrays | {"scaling.shift": self.scaling.shift, "scaling.factor": self.scaling.factor}

    @property
    def own_id(self) -> str:
        """The id that the head has by what it is.

        A trained head is named by its cache and its configuration (a fine-tuned one by those that its training began
        with), weights that were loaded by themselves as well, with what their outputs mean.
        """
        about = self.provenance
        config = self.config.to_json()
        if "finetuned_from" in about:
            config |= {"encoder_training": about["encoder_training"]}
        fingerprint = about.get("finetuned_fingerprint", about["fingerprint"])
        trained = hash_json({"fingerprint": fingerprint, "config": config})[:16]
        if "loaded_from" not in about:
            return trained
        meaning = {"labels": self.labels, "target_scale": self.target_scale}
        return hash_json({"trained": trained, "tensors": arrays_sha256(self.arrays())} | meaning)[:16]

    @property
    def parameters(self) -> int:
        """Trained parameters."""
        return parameters(self.network)

    def predict(self, features: np.ndarray | Tokens, *, exact: bool = False) -> np.ndarray:
        """Outputs [rows, classes], float32, of raw features [rows, inputs] as the cache holds them.

        A head whose pool trains takes the rows' `Tokens` instead.

        With `exact` the scaled features go through the head in float64, in which what a row gives does not depend on
        the rows beside it.
        """
        import torch

        pools, given = self.config.token_pool in TRAINED_POOLS, isinstance(features, Tokens)
        if pools != given or len(features.shape) != 2 or features.shape[1] != self.network.inputs:
            wanted, found = ("Tokens" if one else "features" for one in (pools, given))
            raise ResultsError(
                f"head {self.id}: expected {wanted} [rows, {self.network.inputs}], found {found} {list(features.shape)}"
            )
        kind = torch.float64 if exact else torch.float32
        tensors = {name: t.to(kind) for name, t in self.tensors.items()}
        scaled = self.scaling.apply(features if given else np.asarray(features, np.float32))
        if isinstance(self.network, NetworkSpec) and self.network.pool and isinstance(scaled, Tokens):
            rows = TokenSource(self.network.pool, scaled, torch.device("cpu"), kind).take(torch.arange(len(scaled)))
            x = rows.pooled(tensors["pool.weight"].unsqueeze(0))[0]
        else:
            x = torch.from_numpy(scaled).to(kind)
        with torch.inference_mode():
            if isinstance(self.network, PykanNetwork):
                outputs = kan_forward(tensors, x).numpy()
            else:
                stacked = {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}
                outputs = network_forward(self.network, x.unsqueeze(0), stacked)[0].numpy()
        mean, spread = (outputs.dtype.type(value) for value in self.target_scale)
        return outputs * spread + mean

    def metrics(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Every metric of the head's kind for outputs [rows, classes] against labels [rows]."""
        if self.labels is None:
            found = regression_metrics(outputs[:, 0][None], labels)
        else:
            found = classification_metrics(outputs.argmax(1)[None], labels.astype(np.int64), len(self.labels))
        return {name: float(value[0]) for name, value in found.items()}


def finetuned_folder(results: Path) -> Path:
    """Where the encoders that were fine-tuned for heads of a results database lie, one folder a head: beside it."""
    return results.parent / "finetuned"


def finetuned_encoder(head: SavedHead, results: str | Path) -> str | None:
    """The folder of the encoder that was trained together with a head; `None` for heads on a frozen one."""
    if "finetuned_from" not in head.provenance:
        return None
    folder = child(finetuned_folder(Path(results)), head.id, "head", ResultsError)
    return str(folder) if folder.is_dir() else None


class Stage:
    """Heads on their way to `folder`: written aside, synchronised together, then moved to where they belong."""

    def __init__(self, folder: Path, work: Path) -> None:
        self._folder, self._work = folder, work

    def write(self, head: SavedHead) -> str:
        """Write a head aside; returns its SHA-256."""
        from safetensors.numpy import save_file

        place = child(self._work, head.id, "head", ResultsError)
        place.mkdir()
        document, arrays = head_document(head), head.arrays()
        save_file(arrays, place / "head.safetensors")
        sha256 = content_sha256(document, arrays)
        (place / "config.json").write_text(json_text(document | {"sha256": sha256}, indent=2), encoding="utf-8")
        return sha256

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        sync(self._work)

    def move(self, heads: Iterable[str]) -> None:
        """Put heads at their places, over whatever is there; returns when the disk has them."""
        for head in heads:
            replace_folder(self._work / head, self._folder / head)
        sync_entries(self._folder)


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A `Stage` for heads below `folder`, of which nothing is left at the end. Raises `ResultsError`."""
    try:
        with work_folder(folder) as work:
            yield Stage(folder, work)
    except OSError as error:
        raise ResultsError(f"{folder}: expected to write heads ({error.strerror or error})") from error


def store_head(folder: Path, head: SavedHead) -> None:
    """Write a head below `folder`, whole or not at all; one of the same id that is sound is kept."""
    try:
        read_head(child(folder, head.id, "head", ResultsError), head.id)
    except ResultsError:
        with stage(folder) as heads:
            heads.write(head)
            heads.sync()
            heads.move([head.id])


def head_document(head: SavedHead) -> dict[str, Any]:
    """Everything about a head but its tensors, as plain JSON (`config.json`)."""
    return {
        "id": head.id,
        "config": head.config.to_json(),
        "inputs": head.network.inputs,
        "outputs": head.network.outputs,
        "target_scale": list(head.target_scale),
        "labels": None if head.labels is None else list(head.labels),
        "provenance": dict(head.provenance),
    } | ({} if head.diverged_at is None else {"diverged_at": head.diverged_at})


def head_sha256(head: SavedHead) -> str:
    """SHA-256 of a whole head: its tensors, and everything else about it."""
    return content_sha256(head_document(head), head.arrays())


def load_head(head: str | Path, *, results: str | Path = RESULTS) -> SavedHead:
    """A saved head by its id (in a results database) or its folder.

    Raises `ResultsError` where there is none, or where the folder holds anything but a whole head of a known family
    that is the head it says it is.
    """
    folder = Path(head)
    if not (folder / "config.json").is_file() and not (os.sep in str(head) and folder.is_dir()):
        folder = head_folder(Path(results), str(head))
        if not folder.is_dir():
            raise ResultsError(f"head {str(head)[:80]!r}: expected a folder or an id in {folder.parent}, found neither")
        return read_head(folder, str(head))
    return read_head(folder)


def read_head(folder: Path, name: str | None = None) -> SavedHead:
    """The head in a folder, compared with its own hash, and its id with what it is and with `name`.

    Raises `ResultsError`.
    """
    about = read_document(folder)
    if about.format is not None or about.sha256 is None:
        raise ResultsError(f"{folder}: expected a saved head, found an export; `fit_heads.py load` makes a head of it")
    tensors = read_tensors(folder / "head.safetensors")
    scales = dict.fromkeys(("scaling.shift", "scaling.factor"), (about.network.inputs,))
    check_shapes(tensors, about.network.shapes() | about.network.buffers() | scales, folder / "head.safetensors")
    scaling = Scaling(about.config.scale, tensors.pop("scaling.shift").numpy(), tensors.pop("scaling.factor").numpy())
    head = SavedHead(
        about.id, about.config, about.network, tensors, scaling, about.target_scale, about.labels, about.provenance,
        about.diverged_at,
    )  # fmt: skip
    remedy = "restore it, or train it again (fit_heads.py sweep does)"
    if head_sha256(head) != about.sha256:
        raise ResultsError(
            f"{folder}: expected what its config.json says (sha256), found other weights or a damaged file; {remedy}"
        )
    if head.id != head.own_id or name not in (None, head.id):
        raise ResultsError(
            f"{folder}: expected the head {name or head.own_id}, found {head.own_id} under the name {head.id}; {remedy}"
        )
    if head.diverged_at is None:
        check_finite(tensors, folder / "head.safetensors")
    return head


def read_tensors(file: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file; `ResultsError` for anything else, pickled weights above all."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(regular_file(file))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        with file.open("rb") as opened:
            pickled = opened.read(2) in (b"PK", b"\x80\x02")
        hint = (
            "pickled weights are never loaded: save the state dict with safetensors.torch.save_file"
            if pickled
            else "write it again"
        )
        raise ResultsError(f"{file}: expected a whole safetensors file ({error!s:.200}); {hint}") from error


def check_shapes(tensors: "Mapping[str, Tensor]", expected: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Raise `ResultsError` for a tensor that is missing, of another shape, not float32, or of no layer."""
    for name, shape in expected.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            found = list(tensors[name].shape) if name in tensors else "nothing"
            raise ResultsError(f"{file}: expected {name} with the shape {list(shape)}, found {found}")
        if (kind := str(tensors[name].dtype).removeprefix("torch.")) != "float32":
            raise ResultsError(f"{file}: expected float32 numbers in {name}, found {kind}")
    if foreign := sorted(set(tensors) - set(expected)):
        raise ResultsError(f"{file}: expected {len(expected)} weights, found {foreign[0][:80]!r} of no layer")


def check_finite(tensors: "Mapping[str, Tensor]", file: Path) -> None:
    """Raise `ResultsError` for numbers that are not finite."""
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ResultsError(
                f"{file}: expected finite numbers in {name}, found others; restore it, or write it again"
            )
