"""The features of rows that no cache holds, from the very encoder that a cache was made with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encode.encoders import ENCODERS, Encoder, resolve
from pipeline.errors import EncoderError
from pipeline.progress import say
from pipeline.sources import Row

__all__ = ["Asked", "RowEncoder", "encoder_of"]

#: What must be as in the cache, and what a message calls it.
_SAME = {
    "encoder_sha256": "weights",
    "config_sha256": "configuration",
    "tokenizer_sha256": "tokenizer",
    "max_length": "length",
    "pairs": "pairs",
    "layers": "layers",
    "precision": "precision",
}


@dataclass(frozen=True)
class Asked:
    """How a user asks for rows to be encoded; `None` means as the cache was."""

    encoder: str | None = None
    max_length: int | None = None
    pairs: str | None = None
    layers: tuple[int, ...] | None = None
    precision: str | None = None


class RowEncoder:
    """Encodes rows as those of a cache were, given the cache's root attributes; loads the encoder once."""

    def __init__(self, attributes: Mapping[str, Any], asked: Asked, device: str, who: str) -> None:
        """`who` begins the messages. Raises `EncoderError` for anything that differs from the cache's encoder."""
        encoder = encoder_of(attributes, asked, who)
        from pipeline.device import resolve_device
        from pipeline.encode.blocks import default_batch_tokens
        from pipeline.encode.load import load

        on, precision = resolve_device(device), attributes["precision"]
        if precision != "float32" and on.type == "cpu":
            say(f"{precision} on a CPU is many times slower than float32 where the processor has no unit for it")
        layers = attributes["layers"]
        self._siamese = attributes["pairs"] == "siamese"
        self._default = attributes["sentence_feature" if self._siamese else "default_feature"]
        self._loaded = load(
            encoder, attributes["max_length"], on, precision, None if layers is None else tuple(layers),
        )  # fmt: skip
        self._budget = default_batch_tokens(self._loaded.device, self._loaded.width)

    def datasets(self, rows: Sequence[Row], names: Sequence[str], reduce_size: int) -> dict[str, np.ndarray]:
        """Datasets of rows under a cache's names: [rows, D], `reduced` [rows, reduce_size]."""
        from pipeline.encode.blocks import encode_block
        from pipeline.encode.siamese import sentences_of

        places = None
        if self._siamese:
            rows, places = sentences_of(rows)
            names = (self._default,)
        tokens = self._loaded.tokeniser(rows)
        found = encode_block(
            self._loaded, tokens, names, default_feature=self._default, reduce_size=reduce_size,
            batch_tokens=self._budget,
        ) | {"last_hidden/offsets": tokens.offsets}  # fmt: skip
        if places is None:
            return found
        return {"u": found[self._default][places[:, 0]], "v": found[self._default][places[:, 1]]}


def encoder_of(attributes: Mapping[str, Any], asked: Asked, who: str) -> Encoder:
    """The encoder that a cache with these attributes was made with; `who` begins the messages.

    Raises `EncoderError` where the requested one differs from it.
    """
    if attributes["max_length"] == 0:
        raise EncoderError(
            f"{who}: expected a head on texts, found one on imported vectors ({attributes['source']}); in Python, "
            "pipeline.load_head(...).predict(vectors) takes such vectors"
        )
    encoder = resolve(asked.encoder or _name(attributes, who))
    _check(attributes, encoder, asked, who)
    return encoder


def _name(attributes: Mapping[str, Any], who: str) -> str:
    """The name under which the cache's encoder is found again."""
    name = attributes["encoder"]
    if name in ENCODERS:
        return name
    if name.endswith(f"-{attributes['encoder_sha256'][:8]}"):
        raise EncoderError(
            f"{who}: expected the folder of its encoder, {name.rpartition('-')[0]!r}, found no --encoder; give "
            "--encoder FOLDER"
        )
    return name.replace("--", "/")


def _check(attributes: Mapping[str, Any], encoder: Encoder, asked: Asked, who: str) -> None:
    """Raise `EncoderError` that names everything in which the encoder differs from the cache's."""
    layers = list(asked.layers) if asked.layers else None
    if layers == [encoder.layers]:
        layers = None
    given = {"max_length": asked.max_length, "pairs": asked.pairs, "layers": layers, "precision": asked.precision}
    found = {name: attributes[name] for name in _SAME} | {
        name: value for name, value in given.items() if value is not None
    }
    if asked.layers and layers is None:
        found["layers"] = None
    found["max_length"] = min(found["max_length"], encoder.max_length)
    found |= {
        "encoder_sha256": encoder.weights_sha256,
        "config_sha256": encoder.config_sha256,
        "tokenizer_sha256": encoder.tokenizer_sha256,
    }
    wrong = [
        f"{word}: expected {_short(attributes[name])}, found {_short(found[name])}"
        for name, word in _SAME.items()
        if found[name] != attributes[name]
    ]
    if wrong:
        folder = f" in {encoder.folder}" if asked.encoder and Path(asked.encoder).is_dir() else ""
        raise EncoderError(
            f"{who}: expected the encoder of its cache ({attributes['encoder']}), found {encoder.name}{folder} with "
            f"other {'; '.join(wrong)}; give the encoder, and the options, with which the cache was made"
        )


def _short(value: Any) -> str:
    if value is None:
        return "none (the last)"
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text[:12] if len(text) == 64 else text
