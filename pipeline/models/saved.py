"""A trained head on disk: `<id>/head.safetensors` with its tensors, `<id>/config.json` with everything else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ResultsError
from pipeline.fit.attention import TokenSource
from pipeline.fit.data import Scaling
from pipeline.fit.kan_forward import forward as kan_forward
from pipeline.fit.tokens import Tokens
from pipeline.heads.config import TRAINED_POOLS, HeadConfig
from pipeline.heads.cost import parameters
from pipeline.heads.families import build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.network import NetworkSpec
from pipeline.heads.pykan import PykanNetwork
from pipeline.metrics import classification_metrics, regression_metrics
from pipeline.publish import publish

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "RESULTS",
    "SavedHead",
    "finetuned_encoder",
    "finetuned_folder",
    "head_document",
    "heads_folder",
    "load_head",
    "store_head",
]

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
                f"head {self.id}: expected a trained head, found one that diverged at step {self.diverged_at}; choose "
                "another, or train it with a smaller --lr"
            )
        return self

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
        if given:
            rows = TokenSource(self.network.pool, scaled, torch.device("cpu"), kind).take(torch.arange(len(scaled)))
            x = rows.pooled(tensors["pool.weight"].unsqueeze(0))[0]
        else:
            x = torch.from_numpy(scaled).to(kind)
        with torch.inference_mode():
            if isinstance(self.network, PykanNetwork):
                found = kan_forward(tensors, x).numpy()
            else:
                stacked = {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}
                found = network_forward(self.network, x.unsqueeze(0), stacked)[0].numpy()
        mean, spread = (found.dtype.type(value) for value in self.target_scale)
        return found * spread + mean

    def metrics(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Every metric of the head's kind for outputs [rows, classes] against labels [rows]."""
        if self.labels is None:
            found = regression_metrics(outputs[:, 0][None], labels)
        else:
            found = classification_metrics(outputs.argmax(1)[None], labels.astype(np.int64), len(self.labels))
        return {name: float(value[0]) for name, value in found.items()}


def heads_folder(results: Path) -> Path:
    """The folder of a results database's saved heads: `heads/` beside it."""
    return results.parent / "heads"


def finetuned_folder(results: Path) -> Path:
    """Where the encoders that were fine-tuned for heads of a results database lie, one folder a head: beside it."""
    return results.parent / "finetuned"


def finetuned_encoder(head: SavedHead, results: str | Path) -> str | None:
    """The folder of the encoder that was trained together with a head; `None` for heads on a frozen one."""
    if "finetuned_from" not in head.provenance:
        return None
    folder = finetuned_folder(Path(results)) / head.id
    return str(folder) if folder.is_dir() else None


def store_head(folder: Path, head: SavedHead) -> None:
    """Write a head below `folder`, whole or not at all; a head that is there already is kept."""
    import torch
    from safetensors.torch import save_file

    if (folder / head.id).is_dir():
        return
    with publish(folder / head.id, "a head", keep=True) as work:
        tensors = {name: tensor.contiguous() for name, tensor in head.tensors.items()}
        tensors |= {
            "scaling.shift": torch.from_numpy(head.scaling.shift),
            "scaling.factor": torch.from_numpy(head.scaling.factor),
        }
        save_file(tensors, work / "head.safetensors")
        text = json.dumps(head_document(head), indent=2, ensure_ascii=False)
        (work / "config.json").write_text(text, encoding="utf-8")


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


def load_head(head: str | Path, *, results: str | Path = RESULTS) -> SavedHead:
    """A saved head by its id (in a results database) or its folder.

    Raises `ResultsError` where there is none, or where the folder holds anything but a whole head of a known family.
    """
    folder = Path(head)
    if not (folder / "config.json").is_file():
        folder = heads_folder(Path(results)) / str(head)
    if not str(head) or not folder.is_dir():
        raise ResultsError(f"head {str(head)!r}: expected a head's folder or an id in {folder.parent}, found neither")
    return _read(folder)


def _read(folder: Path) -> SavedHead:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "head.safetensors")
        config = HeadConfig.from_json(document["config"])
        network = build_network(config, document["inputs"], document["outputs"])
        scales = dict.fromkeys(("scaling.shift", "scaling.factor"), (network.inputs,))
        expected = network.shapes() | network.buffers() | scales
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != expected:
            raise ResultsError(f"{folder}: expected tensors {expected}, found {found}")
        scaling = Scaling(config.scale, tensors.pop("scaling.shift").numpy(), tensors.pop("scaling.factor").numpy())
        labels = document["labels"]
        return SavedHead(
            document["id"], config, network, tensors, scaling, tuple(document["target_scale"]),
            None if labels is None else tuple(labels), document["provenance"], document.get("diverged_at"),
        )  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ResultsError(f"{folder}: expected a saved head ({type(error).__name__}: {error})") from error
