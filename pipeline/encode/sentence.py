"""What a sentence-transformers folder declares besides its transformer: pooling, dense layers, normalisation.

Declarations are read without PyTorch. A module that is not understood is refused: leaving it out would give another
embedding than the folder's.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.encode.files import read_json
from pipeline.errors import EncoderError
from pipeline.hashing import hash_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Declared", "Dense", "SentenceHead", "read_declared"]

#: Names of pooling modes, in old and new configurations, and ours.
_POOLINGS = {
    "cls_token": "cls", "cls": "cls", "mean_tokens": "mean", "mean": "mean", "max_tokens": "max", "max": "max",
    "lasttoken": "last",
}  # fmt: skip
_ACTIVATIONS = ("GELU", "Identity", "ReLU", "Sigmoid", "SiLU", "Tanh")
_REMEDY = "remove modules.json to use the folder as a plain encoder"


@dataclass(frozen=True)
class Dense:
    """A dense layer: its weights' file, widths, and the PyTorch class of its activation."""

    path: Path
    inputs: int
    outputs: int
    bias: bool
    activation: str


@dataclass(frozen=True)
class Declared:
    """A folder's declarations. `steps` follow the pooling: dense layers, and "normalize"."""

    transformer: Path
    pooling: str = "mean"
    steps: tuple[Dense | str, ...] = ()
    max_length: int | None = None

    def width(self, hidden: int) -> int:
        """Width of the sentence embedding of hidden states of a width."""
        return next((step.outputs for step in reversed(self.steps) if isinstance(step, Dense)), hidden)

    def identity(self) -> dict[str, Any]:
        """What decides the sentence embedding besides the transformer, for a hash."""
        steps = [
            step if isinstance(step, str) else {
                "inputs": step.inputs, "outputs": step.outputs, "activation": step.activation,
                "sha256": hash_file(step.path),
            }
            for step in self.steps
        ]  # fmt: skip
        return {"pooling": self.pooling, "steps": steps}


def read_declared(folder: Path, encoder: str) -> Declared:
    """What `folder` declares; `encoder` is its name in messages. Raises `EncoderError` for anything not understood."""
    who, index = f"encoder {encoder!r}", folder / "modules.json"
    if not index.is_file():
        pooling = folder / "1_Pooling"
        return Declared(folder, _pooling(pooling, who) if pooling.is_dir() else "mean")
    try:
        modules = json.loads(index.read_text(encoding="utf-8"))
        kinds = [(str(module["type"]).rpartition(".")[2], folder / str(module["path"])) for module in modules]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise EncoderError(f"{who}: expected a list of modules in modules.json ({error}); get it again") from error
    if not kinds or kinds[0][0] != "Transformer":
        found = kinds[0][0] if kinds else "nothing"
        raise EncoderError(f"{who}: expected a Transformer as first module of modules.json, found {found}")
    pooling, steps = "mean", []
    for position, (kind, path) in enumerate(kinds[1:]):
        if kind == "Pooling" and position == 0:
            pooling = _pooling(path, who)
        elif kind == "Dense" and position > 0:
            steps.append(_dense(path, who))
        elif kind == "Normalize" and position > 0:
            steps.append("normalize")
        elif kind != "Dropout":
            raise EncoderError(
                f"{who}: expected Pooling, then Dense, Normalize or Dropout in modules.json, found {kind}; {_REMEDY}"
            )
    prompts = folder / "config_sentence_transformers.json"
    if prompts.is_file() and read_json(prompts, who, prompts.name).get("default_prompt_name"):
        raise EncoderError(f"{who}: expected no default prompt in {prompts.name}, found one; {_REMEDY}")
    transformer = kinds[0][1]
    return Declared(transformer, pooling, tuple(steps), _max_length(transformer, who))


def _pooling(path: Path, who: str) -> str:
    declared = read_json(path / "config.json", who, f"{path.name}/config.json of a sentence-transformers folder")
    modes = [key.removeprefix("pooling_mode_") for key, on in declared.items() if key[:13] == "pooling_mode_" and on]
    if isinstance(declared.get("pooling_mode"), str):
        modes = [declared["pooling_mode"]]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise EncoderError(
            f"{who}: expected one pooling of {', '.join(dict.fromkeys(_POOLINGS.values()))} in "
            f"{path.name}/config.json, found {', '.join(modes) or 'none'}; remove {path.name} and modules.json to use "
            "the folder as a plain encoder"
        )
    return _POOLINGS[modes[0]]


def _dense(path: Path, who: str) -> Dense:
    declared = read_json(path / "config.json", who, f"{path.name}/config.json of a dense layer")
    activation = str(declared.get("activation_function", "Tanh")).rpartition(".")[2]
    names = {declared.get(f"module_{end}_name") or "sentence_embedding" for end in ("input", "output")}
    weights = path / "model.safetensors"
    try:
        inputs, outputs = int(declared["in_features"]), int(declared["out_features"])
    except (LookupError, TypeError, ValueError) as error:
        raise EncoderError(f"{who}: expected in_features and out_features in {path.name}/config.json") from error
    if activation not in _ACTIVATIONS or names != {"sentence_embedding"}:
        found = activation if activation not in _ACTIVATIONS else ", ".join(sorted(names))
        raise EncoderError(
            f"{who}: expected a dense layer of the sentence embedding with one of {', '.join(_ACTIVATIONS)} in "
            f"{path.name}, found {found}; {_REMEDY}"
        )
    if not weights.is_file():
        raise EncoderError(f"{who}: expected {path.name}/model.safetensors, found none; pickled weights are not loaded")
    return Dense(weights, inputs, outputs, bool(declared.get("bias", True)), activation)


def _max_length(transformer: Path, who: str) -> int | None:
    path = transformer / "sentence_bert_config.json"
    if not path.is_file():
        return None
    declared = read_json(path, who, path.name)
    options = transformer / "tokenizer_config.json"
    lowers = options.is_file() and read_json(options, who, options.name).get("do_lower_case")
    if declared.get("do_lower_case") and not lowers:
        raise EncoderError(
            f"{who}: expected do_lower_case false in {path.name}, or a tokenizer that does so; {_REMEDY}"
        )
    length = declared.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or length < 1):
        raise EncoderError(f"{who}: expected a whole number as max_seq_length in {path.name}, found {length!r}")
    return length


class SentenceHead:
    """From a pooling [n, D] to the sentence embedding [n, S], float32."""

    def __init__(self, declared: Declared, device: "torch.device") -> None:
        """Loads dense layers onto a device. Raises `EncoderError` where weights are not the declared ones."""
        self.pooling = declared.pooling
        self._steps = [_normalize if step == "normalize" else _layer(step, device) for step in declared.steps]

    def __call__(self, pooled: "Tensor") -> "Tensor":
        """The sentence embedding of poolings."""
        for step in self._steps:
            pooled = step(pooled)
        return pooled


def _normalize(x: "Tensor") -> "Tensor":
    from torch.nn.functional import normalize

    return normalize(x, dim=1)


def _layer(dense: Dense, device: "torch.device") -> "torch.nn.Module":
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    linear = torch.nn.Linear(dense.inputs, dense.outputs, dense.bias, dtype=torch.float32)
    try:
        tensors = load_file(dense.path)
        linear.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in tensors.items()})
    except (SafetensorError, RuntimeError, OSError) as error:
        cause = " ".join(str(error).split())[:200]
        raise EncoderError(
            f"{dense.path.parent.name}/{dense.path.name}: expected a dense layer [{dense.outputs}, {dense.inputs}] "
            f"({cause}); get the encoder again"
        ) from error
    return torch.nn.Sequential(linear, getattr(torch.nn, dense.activation)()).to(device).requires_grad_(False)
