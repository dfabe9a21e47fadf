"""A checkpoint read without transformers, whose import takes longer than encoding a small task.

Only what is known completely is read here: a BERT-shaped configuration and exactly its weights. For everything else,
faulty checkpoints included, the answer is `None` and transformers decides.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.encode.encoders import Encoder
from pipeline.encode.files import weight_files
from pipeline.encode.shapes import SHAPES, Weights, fits, weights_of

__all__ = ["HEADS", "read_weights"]

#: First parts of names that heads use; a base model leaves them out, and the encoder is whole without them.
HEADS = ("cls", "lm_head", "classifier", "qa_outputs", "predictions", "vocab_", "score", "pooler", "discriminator")
#: Names that TensorFlow's checkpoints left in the first ones for PyTorch.
RENAMED = {"gamma": "weight", "beta": "bias"}
#: Keys that change what transformers builds or how it fills it.
UNUSUAL = ("quantization_config", "pruned_heads", "add_cross_attention")
PRECISIONS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def read_weights(encoder: Encoder, device: torch.device) -> Weights | None:
    """The weights in float32 on a device, or `None` where this is not a plain checkpoint of a BERT-shaped encoder."""
    config = encoder.config
    if not fits(config) or any(config.get(key) for key in UNUSUAL):
        return None
    if (encoder.folder / "adapter_config.json").is_file():
        return None
    try:
        found: dict[str, Tensor] = {}
        for path in weight_files(encoder.folder, encoder.name):
            found |= load_file(path, device=str(device))
        named = _base_names(found, SHAPES[config["model_type"]].prefix)
        if not _kept_as_declared(list(named.values()), config):
            return None
        # On a CPU what was read is a view of the file, which others may change.
        tensors = {name: tensor.to(torch.float32, copy=not tensor.is_cuda) for name, tensor in named.items()}
        weights = weights_of(tensors, config)
    except (KeyError, ValueError, TypeError, SafetensorError, OSError):
        return None
    whole = weights.pooler is not None or "pooled" not in encoder.features
    return weights if whole and all("position_ids" in name for name in tensors) else None


def _base_names(found: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors by the encoder's own names, without those of heads."""
    if any(name.startswith(f"{prefix}embeddings.") for name in found):
        other = [name for name in found if not name.startswith((prefix, *HEADS))]
        if other:
            raise KeyError(other[0])
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    names = {name: name.rpartition(".") for name in found if name.startswith("pooler.") or not name.startswith(HEADS)}
    return {
        f"{front}.{RENAMED.get(last, last)}" if front.endswith("LayerNorm") else name: found[name]
        for name, (front, _, last) in names.items()
    }


def _kept_as_declared(tensors: Sequence[Tensor], config: Mapping[str, Any]) -> bool:
    """Whether all numbers are kept in one precision, the one that the configuration declares if it does."""
    kept = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    declared = config.get("dtype") or config.get("torch_dtype")
    return len(kept) == 1 and kept <= set(PRECISIONS) and declared in (None, PRECISIONS[next(iter(kept))])
