"""The unpadded path for BERT-shaped encoders: tokens of many rows end to end, weights taken from transformers.

Every linear map runs over the flat [T, D] matrix. Attention sees rows of equal length as one dense array without a
mask (rows come sorted by length, so there are few such groups); on CUDA in half precision it is PyTorch's
variable-length attention. Nothing is computed for padding because there is none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.encode.poolings import Hidden, bounds_of, groups

__all__ = ["SHAPES", "Layer", "PackedEncoder", "fits"]


@dataclass(frozen=True)
class Norm:
    """A layer norm's parameters, [D] each."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Linear:
    """A linear map's weight [out, in] and bias [out]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
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
class Parts:
    """Where a transformers model of some type keeps what this path needs."""

    embeddings: Any
    layers: list[Layer]
    pooler: nn.Module | None
    pad: int | None


def _linear(*maps: nn.Linear) -> Linear:
    weights, biases = [m.weight.detach() for m in maps], [m.bias.detach() for m in maps]
    return Linear(weights[0], biases[0]) if len(maps) == 1 else Linear(torch.cat(weights), torch.cat(biases))


def _norm(norm: nn.LayerNorm) -> Norm:
    return Norm(norm.weight.detach(), norm.bias.detach(), norm.eps)


def _bert(model: Any) -> Parts:
    layers = [
        Layer(
            _linear(layer.attention.self.query, layer.attention.self.key, layer.attention.self.value),
            _linear(layer.attention.output.dense),
            _norm(layer.attention.output.LayerNorm),
            _linear(layer.intermediate.dense),
            _linear(layer.output.dense),
            _norm(layer.output.LayerNorm),
        )
        for layer in model.encoder.layer
    ]
    return Parts(model.embeddings, layers, model.pooler, None)


def _roberta(model: Any) -> Parts:
    parts = _bert(model)
    return Parts(parts.embeddings, parts.layers, parts.pooler, model.config.pad_token_id)


def _distilbert(model: Any) -> Parts:
    layers = [
        Layer(
            _linear(layer.attention.q_lin, layer.attention.k_lin, layer.attention.v_lin),
            _linear(layer.attention.out_lin),
            _norm(layer.sa_layer_norm),
            _linear(layer.ffn.lin1),
            _linear(layer.ffn.lin2),
            _norm(layer.output_layer_norm),
        )
        for layer in model.transformer.layer
    ]
    return Parts(model.embeddings, layers, None, None)


#: Model types that this path computes; a new BERT-shaped type is one entry and one function.
SHAPES: dict[str, Callable[[Any], Parts]] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "distilbert": _distilbert,
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": torch._C._nn.gelu_,
    "gelu_new": lambda x: torch._C._nn.gelu_(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch._C._nn.gelu_(x, approximate="tanh"),
    "relu": torch.relu_,
}


def _activation(config: Any) -> str:
    return getattr(config, "hidden_act", None) or getattr(config, "activation", "")


def fits(config: Any) -> bool:
    """Whether an encoder of this transformers configuration has the shape that this path computes."""
    return (
        config.model_type in SHAPES
        and _activation(config) in ACTIVATIONS
        and not getattr(config, "is_decoder", False)
        and getattr(config, "position_embedding_type", None) in (None, "absolute")
    )


class PackedEncoder:
    """A BERT-shaped encoder on batches of flat tokens."""

    path = "packed"

    def __init__(self, model: Any, layers: tuple[int, ...] | None) -> None:
        """`model` is on its device in its precision; `layers` are counted from 1, `None` for the last."""
        config = model.config
        self._parts = SHAPES[config.model_type](model)
        # One small product a row: float32 costs nothing there and halves the deviation of `pooled`.
        self._pooler = None if self._parts.pooler is None else self._parts.pooler.float()
        self._heads = config.num_attention_heads
        self._activation = _activation(config)
        self._activate = ACTIVATIONS[self._activation]
        self._wanted = layers or (len(self._parts.layers),)
        embeddings = self._parts.embeddings
        self._words: nn.Embedding = embeddings.word_embeddings
        self._positions: Tensor = embeddings.position_embeddings.weight.detach()
        types = getattr(embeddings, "token_type_embeddings", None)
        self._types = None if types is None else types.weight.detach()
        self._norm = _norm(embeddings.LayerNorm)
        self._buffers: dict[str, Tensor] = {}
        self._varlen = _varlen() if self._positions.is_cuda and self._positions.dtype != torch.float32 else None

    def __call__(self, ids: Tensor, types: Tensor, lengths: list[int]) -> Hidden:
        """`ids` and `types` are whole numbers [T] on the model's device, `lengths` the tokens of each row."""
        bounds = bounds_of(lengths, ids.device)
        hidden = self._embed(ids, types, lengths, bounds)
        attend = self._attention(lengths, bounds)
        chosen: list[Tensor] = []
        for number, layer in enumerate(self._parts.layers[: max(self._wanted)], start=1):
            hidden = self._layer(layer, hidden, attend)
            if number in self._wanted:
                chosen.append(hidden)
        last = chosen[0] if len(chosen) == 1 else sum(part.float() for part in chosen) / len(chosen)
        # The pooler must not refer to what is returned: a cycle would keep every batch until the collector comes by.
        return Hidden(last, ids, lengths, self._words, lambda: self._pool(last[bounds[:-1].long()]), bounds)

    def _pool(self, first: Tensor) -> Tensor:
        # The model's own pooler takes [n, tokens, D] and looks at the first token alone.
        return self._pooler(first[:, None].float())

    def _embed(self, ids: Tensor, types: Tensor, lengths: list[int], bounds: Tensor) -> Tensor:  # noqa: ARG002
        sizes = torch.tensor(lengths)
        starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        positions = (torch.arange(len(starts)) - starts).to(ids.device)
        if self._parts.pad is not None:
            positions = self._offset_positions(ids, positions, starts.to(ids.device), self._parts.pad)
        hidden = self._words.weight[ids]
        hidden += self._positions[positions]
        if self._types is not None:
            hidden += self._types[types]
        return self._norm(hidden)

    @staticmethod
    def _offset_positions(ids: Tensor, positions: Tensor, starts: Tensor, pad: int) -> Tensor:
        """RoBERTa counts positions from pad + 1 and skips tokens that are the padding token, literal ones too."""
        real = ids != pad
        if bool(real.all()):
            return positions + (pad + 1)
        counted = real.cumsum(0)
        before = counted[starts] - real[starts].long()
        return torch.where(real, counted - before + pad, pad)

    def _layer(self, layer: Layer, hidden: Tensor, attend: Callable[[Tensor, Tensor], None]) -> Tensor:
        qkv = layer.qkv(hidden, self._buffer("qkv", hidden, 3 * hidden.shape[1]))
        mixed = self._buffer("mixed", hidden, hidden.shape[1])
        attend(qkv, mixed)
        out = layer.out(mixed, self._buffer("out", hidden, hidden.shape[1]))
        hidden = layer.norm(out.add_(hidden))
        up = self._activate(layer.up(hidden, self._buffer("up", hidden, layer.up.bias.shape[0])))
        return layer.last_norm(layer.down(up, out).add_(hidden))

    def _attention(self, lengths: list[int], bounds: Tensor) -> Callable[[Tensor, Tensor], None]:
        """Attention for one batch's lengths: reads qkv [T, 3D], writes [T, D]."""
        heads = self._heads
        if self._varlen is not None:
            longest, varlen = max(lengths), self._varlen

            def variable(qkv: Tensor, out: Tensor) -> None:
                q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)
                out.view(len(out), heads, -1).copy_(varlen(q, k, v, bounds, bounds, longest, longest))

            return variable
        runs = list(groups(lengths))

        def grouped(qkv: Tensor, out: Tensor) -> None:
            for start, rows, length in runs:
                part = slice(start, start + rows * length)
                q, k, v = qkv[part].view(rows, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
                result = functional.scaled_dot_product_attention(q, k, v)
                out[part].view(rows, length, heads, -1).copy_(result.transpose(1, 2))

        return grouped

    def _buffer(self, name: str, like: Tensor, width: int) -> Tensor:
        """Memory that the next layer and the next batch use again: [T, width], contents undefined."""
        size = like.shape[0] * width
        buffer = self._buffers.pop(name, None)
        if buffer is None or buffer.numel() < size:
            # The old one goes first, and a little more is taken than needed: batches are of about one size.
            buffer = None
            buffer = like.new_empty(size + size // 16)
        self._buffers[name] = buffer
        return buffer[:size].view(like.shape[0], width)


def _varlen() -> Callable[..., Tensor] | None:
    """PyTorch's variable-length attention, from 2.10 on; `None` where it is not there."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn
