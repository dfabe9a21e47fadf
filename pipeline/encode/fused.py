"""The unpadded path on a GPU in half precision: the layers of `packed` with what lies between products in one pass."""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from pipeline.encode.packed import PackedEncoder
from pipeline.encode.shapes import Layer, Weights

__all__ = ["FusedEncoder", "fuses"]


def fuses(weights: Weights) -> bool:
    """Whether weights are on a device and in a precision for this path."""
    words = weights.words
    if not words.is_cuda or words.dtype == torch.float32 or find_spec("triton") is None:
        return False
    from pipeline.encode.kernels import HEAD_WIDTHS

    return words.shape[1] // weights.heads in HEAD_WIDTHS


class FusedEncoder(PackedEncoder):
    """`PackedEncoder` with Triton kernels for embeddings, attention and norms, and GELU inside the product before it.

    cuBLASLt knows GELU by its tanh form alone; in half precision the difference to the form with erf is that of a
    rounding (`benchmarks/encoding.md`), and a pass over the widest array is saved.
    """

    def _embed(self, ids: Tensor, types: Tensor, lengths: list[int], bounds: Tensor) -> Tensor:  # noqa: ARG002
        from pipeline.encode.kernels import embed_norm

        starts = torch.repeat_interleave(bounds[:-1], bounds.diff(), output_size=len(ids))
        positions = torch.arange(len(ids), device=ids.device, dtype=torch.int32) - starts
        weights, norm = self._weights, self._weights.norm
        if weights.pad is not None:
            positions = self._offset_positions(ids, positions, starts, weights.pad)
        return embed_norm(
            ids, positions, types, weights.words, weights.positions, weights.types, norm.weight, norm.bias, norm.eps
        )

    def _layer(self, layer: Layer, hidden: Tensor, attend: Callable[[Tensor, Tensor], None]) -> Tensor:
        from pipeline.encode.kernels import add_norm

        width = hidden.shape[1]
        qkv = layer.qkv(hidden, self._buffer("qkv", hidden, 3 * width))
        mixed = self._buffer("mixed", hidden, width)
        attend(qkv, mixed)
        out = layer.out(mixed, self._buffer("out", hidden, width))
        # `mixed` has served; the norms read and write the same places, so they may work in place.
        add_norm(out, hidden, layer.norm.weight, layer.norm.bias, layer.norm.eps, mixed)
        up = self._buffer("up", hidden, layer.up.bias.shape[0])
        if self._weights.activation == "gelu":
            torch._addmm_activation(layer.up.bias, mixed, layer.up.weight.t(), use_gelu=True, out=up)
        else:
            self._activate(layer.up(mixed, up))
        layer.down(up, out)
        last = torch.empty_like(hidden)
        add_norm(out, mixed, layer.last_norm.weight, layer.last_norm.bias, layer.last_norm.eps, last)
        return last

    def _variable_length(self) -> None:
        """Attention is a kernel of this path's own."""

    def _attention(self, lengths: list[int], bounds: Tensor) -> Callable[[Tensor, Tensor], None]:
        from pipeline.encode.kernels import attend

        heads = self._heads
        return lambda qkv, out: attend(qkv, bounds, lengths, heads, out)
