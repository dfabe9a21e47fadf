"""Loading an encoder: device, precision, weights that are all there, and the path that computes it."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.encode.encoders import Encoder
from pipeline.encode.fused import FusedEncoder, fuses
from pipeline.encode.packed import PackedEncoder, fits
from pipeline.encode.padded import PaddedEncoder
from pipeline.encode.tokens import Tokeniser, load_tokeniser
from pipeline.errors import EncoderError
from pipeline.progress import say

__all__ = ["Loaded", "load", "load_model"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
#: First parts of names that heads use; a base model leaves them out, and the encoder is whole without them.
HEADS = ("cls", "lm_head", "classifier", "qa_outputs", "predictions", "vocab_", "score", "pooler", "discriminator")


@dataclass(frozen=True)
class Loaded:
    """An encoder that computes: `forward` takes (ids, types, lengths) and gives `Hidden`."""

    tokeniser: Tokeniser
    forward: PackedEncoder | PaddedEncoder
    device: torch.device
    width: int


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
            )
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        raise EncoderError(f"encoder {name!r}: expected a model that AutoModel reads, found {cause}") from error
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key.split("."))
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


def load(
    encoder: Encoder, max_length: int, device: torch.device, precision: str, layers: tuple[int, ...] | None,
    *, padded: bool = False, tokeniser: Tokeniser | None = None, model: Any = None,
) -> Loaded:  # fmt: skip
    """Load tokenizer and weights; `padded` forces the path that every `AutoModel` can take.

    `tokeniser` and `model` are what was loaded already; the model is moved and converted. Raises `EncoderError` where
    the tokenizer does not belong to the model.
    """
    tokeniser = tokeniser or load_tokeniser(encoder.folder, encoder.name, max_length)
    model = load_model(encoder) if model is None else model
    rows = model.get_input_embeddings().weight.shape[0]
    if tokeniser.vocabulary > rows:
        raise EncoderError(
            f"encoder {encoder.name!r}: expected a tokenizer with at most the embedding's {rows} tokens, "
            f"found {tokeniser.vocabulary}; the tokenizer belongs to another model"
        )
    model.to(device, DTYPES[precision])
    if padded or not fits(model.config):
        forward = PaddedEncoder(model, layers, types=tokeniser.types)
    else:
        forward = (FusedEncoder if fuses(model) else PackedEncoder)(model, layers)
    return Loaded(tokeniser, forward, device, model.config.hidden_size)


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
