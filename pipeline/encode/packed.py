"""The unpadded path for BERT-shaped encoders: tokens of many rows end to end.

Every linear map runs over the flat [T, D] matrix. Attention sees rows of equal length as one dense array without a
mask (rows come sorted by length, so there are few such groups); on CUDA in half precision it is PyTorch's
variable-length attention. Nothing is computed for padding because there is none.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.encode.hidden import Hidden, bounds_of, equal_lengths
from pipeline.encode.shapes import ACTIVATIONS, Layer, Linear, Weights

__all__ = ["PackedEncoder"]


class PackedEncoder:
    """A BERT-shaped encoder on batches of flat tokens."""

    path = "packed"

    def __init__(self, weights: Weights, layers: tuple[int, ...] | None) -> None:
        """`weights` are on their device in their precision; `layers` are counted from 1, `None` for the last."""
        self._weights = weights
        # One small product a row: float32 costs nothing there and halves the deviation of `pooled`.
        pooler = weights.pooler
        self._pooler = None if pooler is None else Linear(pooler.weight.float(), pooler.bias.float())
        self._heads = weights.heads
        self._activate = ACTIVATIONS[weights.activation]
        self._wanted = layers or (len(weights.layers),)
        self._local = threading.local()
        self._varlen = self._variable_length() if weights.words.is_cuda else None

    def __call__(self, ids: Tensor, types: Tensor, lengths: list[int]) -> Hidden:
        """`ids` and `types` are whole numbers [T] on the model's device, `lengths` the tokens of each row."""
        bounds = bounds_of(lengths, ids.device)
        hidden = self._embed(ids, types, lengths, bounds)
        attend = self._attention(lengths, bounds)
        chosen: list[Tensor] = []
        for number, layer in enumerate(self._weights.layers[: max(self._wanted)], start=1):
            hidden = self._layer(layer, hidden, attend)
            if number in self._wanted:
                chosen.append(hidden)
        last = chosen[0] if len(chosen) == 1 else sum(part.float() for part in chosen) / len(chosen)
        # The pooler must not refer to what is returned: a cycle would keep every batch until the collector comes by.
        return Hidden(last, ids, lengths, self._look_up, lambda: self._pool(last[bounds[:-1].long()]), bounds)

    def _pool(self, first: Tensor) -> Tensor:
        return functional.linear(first.float(), self._pooler.weight, self._pooler.bias).tanh()

    def _look_up(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self._weights.words)

    def _embed(self, ids: Tensor, types: Tensor, lengths: list[int], bounds: Tensor) -> Tensor:  # noqa: ARG002
        weights = self._weights
        hidden = weights.words[ids]
        hidden += weights.positions[self._place(ids, lengths)]
        if weights.types is not None:
            hidden += weights.types[types]
        return weights.norm(hidden)

    def _place(self, ids: Tensor, lengths: list[int]) -> Tensor:
        """Each token's position in its row, as the model counts them: int64 [T]."""
        sizes = torch.tensor(lengths)
        starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        positions = (torch.arange(len(starts)) - starts).to(ids.device)
        if self._weights.pad is not None:
            positions = self._offset_positions(ids, positions, starts.to(ids.device), self._weights.pad)
        return positions

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

    def _variable_length(self) -> Callable[..., Tensor] | None:
        """PyTorch's variable-length attention, from 2.10 on; `None` in float32, and where it is not there.

        It takes heads whose width is a multiple of 8.
        """
        words = self._weights.words
        if words.dtype == torch.float32 or words.shape[1] // self._heads % 8:
            return None
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:
            return None
        return varlen_attn

    def _attention(self, lengths: list[int], bounds: Tensor) -> Callable[[Tensor, Tensor], None]:
        """Attention for one batch's lengths: reads qkv [T, 3D], writes [T, D]."""
        heads = self._heads
        if self._varlen is not None:
            longest, varlen = max(lengths), self._varlen

            def variable(qkv: Tensor, out: Tensor) -> None:
                q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)
                out.view(len(out), heads, -1).copy_(varlen(q, k, v, bounds, bounds, longest, longest))

            return variable
        runs = list(equal_lengths(lengths))

        def grouped(qkv: Tensor, out: Tensor) -> None:
            for start, rows, length in runs:
                part = slice(start, start + rows * length)
                q, k, v = qkv[part].view(rows, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
                result = functional.scaled_dot_product_attention(q, k, v)
                out[part].view(rows, length, heads, -1).copy_(result.transpose(1, 2))

        return grouped

    def _buffer(self, name: str, like: Tensor, width: int) -> Tensor:
        """Memory that this thread's next layer and next batch use again: [T, width], contents undefined."""
        buffers = self._local.__dict__
        size = like.shape[0] * width
        buffer = buffers.pop(name, None)
        if buffer is None or buffer.numel() < size:
            # The old one goes first, and a little more is taken than needed: batches are of about one size.
            buffer = None
            buffer = like.new_empty(size + size // 16)
        buffers[name] = buffer
        return buffer[:size].view(like.shape[0], width)
