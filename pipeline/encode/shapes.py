"""BERT-shaped model types as data: what their checkpoints and configurations call the parts of the unpadded path.

A new type of that shape is one entry of `SHAPES`. Names are those of a transformers model's `state_dict`, so that a
checkpoint and a model that is loaded already give the same `Weights`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ACTIVATIONS", "SHAPES", "Layer", "Linear", "Norm", "Shape", "Weights", "fits", "weights_of"]


@dataclass(frozen=True)
class Norm:
    """A layer norm's parameters, [D] each."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """[n, D] normalised."""
        return functional.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Linear:
    """A linear map's weight [out, in] and bias [out]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """[n, in] into `out` [n, out]."""
        return torch.addmm(self.bias, x, self.weight.t(), out=out)


@dataclass(frozen=True)
class Layer:
    """One post-norm transformer layer: `qkv` [3D, D], `out` [D, D], `up` [F, D], `down` [D, F]."""

    qkv: Linear
    out: Linear
    norm: Norm
    up: Linear
    down: Linear
    last_norm: Norm


@dataclass(frozen=True)
class Weights:
    """A whole encoder: `words` [V, D], `positions` [P, D], `types` [K, D] or `None`, `pooler` [D, D] or `None`.

    `pad` is the padding id that positions are counted from, `None` where they are counted from 0.
    """

    words: Tensor
    positions: Tensor
    types: Tensor | None
    norm: Norm
    layers: tuple[Layer, ...]
    pooler: Linear | None
    heads: int
    activation: str
    pad: int | None

    def to(self, device: torch.device, dtype: torch.dtype) -> "Weights":
        """The same on a device in a precision; what is there already in that precision is shared."""
        return _map(self, lambda tensor: tensor.to(device, dtype))


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same tree of dataclasses and tuples with changed tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_map(part, change) for part in value)
    if isinstance(value, Norm | Linear | Layer | Weights):
        return replace(value, **{one.name: _map(getattr(value, one.name), change) for one in fields(value)})
    return value


@dataclass(frozen=True)
class Shape:
    """How a model type names things.

    `prefix` stands before the encoder's names in a checkpoint with a head; `layer` before those of layer {}; `parts`
    are the names behind it, by field of `Layer`; `keys` are the configuration's words for width, layers, heads, inner
    width and activation; `eps` is that of the norms where the configuration has no word for it.
    """

    prefix: str
    layer: str
    parts: Mapping[str, tuple[str, ...]]
    keys: tuple[str, str, str, str, str]
    types: bool = True
    pooler: bool = True
    counts_from_padding: bool = False
    eps: float | None = None


_BERT_PARTS = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "out": ("attention.output.dense",),
    "norm": ("attention.output.LayerNorm",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
    "last_norm": ("output.LayerNorm",),
}
_BERT_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
_ROBERTA = Shape("roberta.", "encoder.layer.{}.", _BERT_PARTS, _BERT_KEYS, counts_from_padding=True)

#: Model types that the unpadded path computes.
SHAPES: dict[str, Shape] = {
    "bert": Shape("bert.", "encoder.layer.{}.", _BERT_PARTS, _BERT_KEYS),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Shape(
        "distilbert.",
        "transformer.layer.{}.",
        {
            "qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
            "out": ("attention.out_lin",),
            "norm": ("sa_layer_norm",),
            "up": ("ffn.lin1",),
            "down": ("ffn.lin2",),
            "last_norm": ("output_layer_norm",),
        },
        ("dim", "n_layers", "n_heads", "hidden_dim", "activation"),
        types=False,
        pooler=False,
        eps=1e-12,
    ),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": torch._C._nn.gelu_,
    "gelu_new": lambda x: torch._C._nn.gelu_(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch._C._nn.gelu_(x, approximate="tanh"),
    "relu": torch.relu_,
}


def fits(config: Mapping[str, Any]) -> bool:
    """Whether an encoder of this configuration has the shape that the unpadded path computes."""
    shape = SHAPES.get(config.get("model_type", ""))
    return (
        shape is not None
        and config.get(shape.keys[4]) in ACTIVATIONS
        and not config.get("is_decoder")
        and config.get("position_embedding_type") in (None, "absolute")
    )


def weights_of(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Weights:
    """The weights of an encoder that `fits`, taken out of `tensors`, which are by name without prefix.

    Raises `KeyError` for a name that `tensors` or `config` lacks and `ValueError` for a tensor of another shape than
    the configuration says.
    """
    shape = SHAPES[config["model_type"]]
    width, layers, heads, inner = (int(config[key]) for key in shape.keys[:4])
    if heads < 1 or width % heads:
        raise ValueError(f"{shape.keys[2]}: expected a divisor of the width {width}, found {heads}")
    eps = float(config["layer_norm_eps"] if shape.eps is None else shape.eps)

    def tensor(name: str, *size: int) -> Tensor:
        found = tensors.pop(name)
        if tuple(found.shape) != size:
            raise ValueError(f"{name}: expected {size}, found {tuple(found.shape)}")
        return found

    def norm(name: str) -> Norm:
        return Norm(tensor(f"{name}.weight", width), tensor(f"{name}.bias", width), eps)

    def linear(names: tuple[str, ...], out: int, into: int) -> Linear:
        weights = [tensor(f"{name}.weight", out, into) for name in names]
        biases = [tensor(f"{name}.bias", out) for name in names]
        return Linear(weights[0], biases[0]) if len(names) == 1 else Linear(torch.cat(weights), torch.cat(biases))

    def layer(number: int) -> Layer:
        names = {
            part: tuple(shape.layer.format(number) + name for name in names) for part, names in shape.parts.items()
        }
        return Layer(
            qkv=linear(names["qkv"], width, width),
            out=linear(names["out"], width, width),
            norm=norm(*names["norm"]),
            up=linear(names["up"], inner, width),
            down=linear(names["down"], width, inner),
            last_norm=norm(*names["last_norm"]),
        )

    def table(name: str, size: str) -> Tensor:
        return tensor(f"embeddings.{name}.weight", int(config[size]), width)

    pooled = shape.pooler and "pooler.dense.weight" in tensors
    return Weights(
        words=table("word_embeddings", "vocab_size"),
        positions=table("position_embeddings", "max_position_embeddings"),
        types=table("token_type_embeddings", "type_vocab_size") if shape.types else None,
        norm=norm("embeddings.LayerNorm"),
        layers=tuple(layer(number) for number in range(layers)),
        pooler=linear(("pooler.dense",), width, width) if pooled else None,
        heads=heads,
        activation=config[shape.keys[4]],
        pad=int(config["pad_token_id"]) if shape.counts_from_padding else None,
    )
