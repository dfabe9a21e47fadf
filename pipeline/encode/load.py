"""Loading an encoder: device, precision, weights that are all there, and the path that computes it."""

import contextlib
import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipeline.encode.checkpoint import HEADS, read_weights
from pipeline.encode.encoders import Encoder
from pipeline.encode.fused import FusedEncoder, fuses
from pipeline.encode.hidden import Hidden
from pipeline.encode.packed import PackedEncoder
from pipeline.encode.padded import PaddedEncoder, has_decoder
from pipeline.encode.sentence import SentenceHead
from pipeline.encode.shapes import Weights, fits, weights_of
from pipeline.encode.tokens import Tokeniser, load_tokeniser
from pipeline.errors import EncoderError
from pipeline.progress import say

__all__ = ["Loaded", "load", "load_model", "load_weights"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """An encoder that computes: `forward` takes (ids, types, lengths) and gives `Hidden`."""

    tokeniser: Tokeniser
    forward: PackedEncoder | PaddedEncoder
    device: torch.device
    width: int
    sentence_width: int
    head: SentenceHead

    def hidden(self, ids: torch.Tensor, types: torch.Tensor, lengths: list[int]) -> Hidden:
        """What poolings are computed from; ids and types are whole numbers [T], `lengths` the tokens of each row."""
        return replace(self.forward(ids, types, lengths), head=self.head)


def load_model(encoder: Encoder) -> Any:
    """The transformers model in float32 on the CPU, in evaluation mode.

    Raises `EncoderError` where weights are missing or do not fit; says where weights are left over.
    """
    from transformers import AutoModel
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    name = encoder.name
    try:
        with _quiet(hf_logging):
            model, info = AutoModel.from_pretrained(
                encoder.folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
                dtype=torch.float32,  # not what config.json declares, to which weights would be rounded
            )
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        raise EncoderError(f"encoder {name!r}: expected a model that AutoModel reads, found {cause}") from error
    untrained = "pooled" not in encoder.features
    # Of a model with both, only the encoder computes.
    unused = ("decoder.",) if has_decoder(model) else ()
    missing = sorted(
        key for key in info["missing_keys"]
        if not (untrained and "pooler" in key.split(".")) and not key.startswith(unused)
    )  # fmt: skip
    if missing or info.get("mismatched_keys"):
        wrong = missing or sorted(
            str(entry[0] if isinstance(entry, tuple) else entry) for entry in info["mismatched_keys"]
        )
        raise EncoderError(
            f"encoder {name!r}: expected weights for the whole encoder, found {len(wrong)} missing or of another "
            f"shape ({_some(wrong)}); get a complete checkpoint or correct its config.json"
        )
    extra = sorted(key for key in info["unexpected_keys"] if not key.startswith(HEADS) and "position_ids" not in key)
    if extra:
        say(f"encoder {name!r}: {len(extra)} weights of the checkpoint are not used ({_some(extra)})")
    return model.float().eval().requires_grad_(False)


def load_weights(encoder: Encoder, device: torch.device, *, padded: bool = False) -> Any:
    """What a path computes with, in float32 on a device: `Weights` where the unpadded one can, else a model.

    `padded` asks for the model that every `AutoModel` is. Raises `EncoderError`.
    """
    weights = None if padded else read_weights(encoder, device)
    if weights is not None:
        return weights
    model = load_model(encoder).to(device)
    config = model.config.to_dict()
    return model if padded or not fits(config) else weights_of(model.state_dict(), config)


def load(
    encoder: Encoder, max_length: int, device: torch.device, precision: str, layers: tuple[int, ...] | None,
    *, padded: bool = False, plain: bool = False, tokeniser: Tokeniser | None = None, weights: Any = None,
) -> Loaded:  # fmt: skip
    """Load tokenizer and weights; `padded` forces the path that every `AutoModel` can take.

    `plain` asks for PyTorch's operators alone, without kernels of this project. `tokeniser` and `weights` are what was
    loaded already; the weights, of `load_weights`, stay as they are. Raises `EncoderError` where the tokenizer does not
    belong to the model.
    """
    tokeniser = tokeniser or load_tokeniser(encoder.folder, encoder.name, max_length)
    weights = load_weights(encoder, device, padded=padded) if weights is None else weights
    words = weights.words if isinstance(weights, Weights) else weights.get_input_embeddings().weight
    if tokeniser.vocabulary > len(words):
        raise EncoderError(
            f"encoder {encoder.name!r}: expected a tokenizer with at most the embedding's {len(words)} tokens, "
            f"found {tokeniser.vocabulary}; the tokenizer belongs to another model"
        )
    dtype = DTYPES[precision]
    if isinstance(weights, Weights):
        weights = weights.to(device, dtype)
        forward = (FusedEncoder if fuses(weights) and not plain else PackedEncoder)(weights, layers)
        width = weights.words.shape[1]
    else:
        model = weights if dtype == torch.float32 else copy.deepcopy(weights).to(dtype)
        forward, width = PaddedEncoder(model, layers, types=tokeniser.types), model.config.hidden_size
    head = SentenceHead(encoder.declared, device)
    return Loaded(tokeniser, forward, device, width, encoder.declared.width(width), head)


@contextlib.contextmanager
def _quiet(hf_logging: Any) -> Iterator[None]:
    """Keep transformers' own report of missing and unexpected weights back: it is checked and said here."""
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
