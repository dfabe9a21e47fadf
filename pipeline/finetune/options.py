"""What fine-tuning adds to a head's configuration, and the protocols' defaults for it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.errors import ConfigError, UnknownNameError

__all__ = ["DEFAULTS", "HEAD_DEFAULTS", "EncoderTraining", "encoder_training"]

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class EncoderTraining:
    """How the encoder trains beside its head; everything else stands in the head's own configuration.

    lr : learning rate of the encoder's last layer (the head's is `HeadConfig.lr`).
    layer_decay : factor of the rate from each layer to the one below; 1 trains all layers at one rate.
    warmup : fraction of the steps over which rates rise from zero.
    dropout : fraction of the pooled vector dropped before the head.
    lora : rank of LoRA's updates (arXiv 2106.09685); 0 trains the encoder's own weights.
    accumulation : minibatches whose gradients make one step; `HeadConfig.batch_size` rows make a step in any case.
    patience : epochs without improvement on the selection rows after which training stops; `None` never stops.
    adam_epsilon : AdamW's epsilon.
    pad : `longest` pads to the longest row of a minibatch, `max_length` to the cache's length.
    precision : of the forward and backward pass; weights and optimiser stay in float32.
    """

    lr: float = 2e-5
    layer_decay: float = 1.0
    warmup: float = 0.1
    dropout: float = 0.1
    lora: int = 0
    accumulation: int = 1
    patience: int | None = None
    adam_epsilon: float = 1e-8
    pad: str = "longest"
    precision: str = "auto"

    def to_json(self) -> dict[str, Any]:
        """The options that decide what is trained, as plain JSON; memory and padding do not."""
        return {name: value for name, value in asdict(self).items() if name not in ("accumulation", "pad")}


#: Defaults of the head's configuration under fine-tuning, by protocol, over those of stage two.
HEAD_DEFAULTS: dict[str, dict[str, Any]] = {
    "clean": {"epochs": 5, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.01, "clip": 1.0},
    "published": {"epochs": 10, "batch_size": 4, "lr": 2e-5, "weight_decay": 0.0, "clip": 1.0},
}
DEFAULTS: dict[str, EncoderTraining] = {
    "clean": EncoderTraining(),
    "published": EncoderTraining(warmup=0.0, adam_epsilon=1e-6, pad="max_length"),
}


def _in_range(name: str, value: Any) -> str | None:
    """What was expected of an option whose value is out of range, else `None`."""
    above_zero = (lambda v: 0 < v < math.inf, "a number above 0")
    fraction = (lambda v: 0 <= v < 1, "a fraction of at least 0 and below 1")
    rules = {
        "lr": above_zero,
        "adam_epsilon": above_zero,
        "layer_decay": (lambda v: 0 < v <= 1, "a factor above 0 and at most 1"),
        "warmup": fraction,
        "dropout": fraction,
        "lora": (lambda v: v >= 0, "a rank of at least 0 (0 trains the whole encoder)"),
        "accumulation": (lambda v: v >= 1, "at least 1"),
        "patience": (lambda v: v is None or v >= 1, "at least 1 epoch"),
        "pad": (lambda v: v in ("longest", "max_length"), "longest or max_length"),
        "precision": (lambda v: v in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
    }
    holds, expected = rules[name]
    return None if holds(value) else expected


def encoder_training(protocol: str, options: Mapping[str, Any]) -> EncoderTraining:
    """The protocol's defaults with the options that a user set (`None`: not set).

    Raises `UnknownNameError` for an unknown protocol and `ConfigError` for a value out of range.
    """
    if protocol not in DEFAULTS:
        raise UnknownNameError("protocol", protocol, tuple(DEFAULTS))
    known = {field.name: field for field in fields(EncoderTraining)}
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in known:
            raise UnknownNameError("option", name, tuple(known))
        if expected := _in_range(name, value):
            raise ConfigError(f"{name}: expected {expected}, found {value!r}")
    return EncoderTraining(**asdict(DEFAULTS[protocol]) | given)
