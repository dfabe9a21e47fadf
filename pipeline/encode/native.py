"""The unpadded path on a CPU in float32: the layers of `packed` with what lies between products in one pass, in C."""

import ctypes
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from pipeline.encode.packed import PackedEncoder
from pipeline.encode.shapes import Layer, Linear, Norm, Weights
from pipeline.errors import EncoderError
from pipeline.native import library

__all__ = ["NativeEncoder", "encoder_functions", "is_native"]

#: Floats in a cache line; rows of a buffer that are read down a column must not lie a multiple of 4 KiB apart.
LINE = 16
#: Width of an attention head, at most (`MOST_HEAD` of encoder.c).
MOST_HEAD = 512
#: Queries that attention takes at once, at most, and floats that it may read behind an end (encoder.c).
QUERIES, SLACK = 12, 16


@cache
def encoder_functions() -> ctypes.CDLL | None:
    """The compiled library with its functions declared, `None` where there is none."""
    found = library()
    if found is not None:
        array, size, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float
        norm = (array, array, number, array)
        for function, arguments in (
            (found.encoder_attend, (array, size, array, size, array, whole, whole, array, whole, array, array)),
            (found.encoder_add_norm, (array, array, array, size, whole, *norm)),
            (found.encoder_embed, (*(array,) * 7, size, whole, *norm)),
            (found.encoder_gelu, (array, array, size, whole)),
        ):
            function.restype, function.argtypes = None, arguments
        found.encoder_embed.restype = whole
    return found


def is_native(weights: Weights) -> bool:
    """Whether these weights are on a device and in a precision for this path."""
    words = weights.words
    if words.device.type != "cpu" or words.dtype != torch.float32 or encoder_functions() is None:
        return False
    return words.shape[1] // weights.heads <= MOST_HEAD


class NativeEncoder(PackedEncoder):
    """`PackedEncoder` with C for embeddings, attention, norms and GELU; they add the biases, products are PyTorch's.

    Keys are computed turned, [D, T], so that a row's scores are a product of plain rows. Their bias adds the same to
    all scores of a query, which softmax does not see: it is left out.
    """

    def __init__(self, weights: Weights, layers: tuple[int, ...] | None) -> None:
        super().__init__(replace(weights, layers=tuple(map(_turned, weights.layers))), layers)
        self._c = encoder_functions()

    def _embed(self, ids: Tensor, types: Tensor, lengths: list[int], bounds: Tensor) -> Tensor:  # noqa: ARG002
        weights = self._weights
        tables = (weights.words, weights.positions, weights.types)
        numbers = (ids, self._place(ids, lengths), None if weights.types is None else types)
        numbers = [part if part is None else part.to(torch.int64).contiguous() for part in numbers]
        sizes = (ctypes.c_int64 * 3)(*(0 if table is None else len(table) for table in tables))
        out = torch.empty(len(ids), weights.words.shape[1])
        arrays = (None if part is None else part.data_ptr() for part in (*numbers, *tables))
        if not self._c.encoder_embed(*arrays, sizes, *out.shape, *_norm_of(weights.norm), out.data_ptr()):
            raise EncoderError(
                f"expected token ids, positions and token types below {', '.join(map(str, sizes))} (the encoder's "
                f"tables), found larger ones; the tokenizer belongs to another model"
            )
        return out

    def _layer(self, layer: Layer, hidden: Tensor, attend: Callable[[Linear, Tensor, Tensor], None]) -> Tensor:
        width = hidden.shape[1]
        mixed = self._buffer("mixed", hidden, width)
        attend(layer.qkv, hidden, mixed)
        out = torch.mm(mixed, layer.out.weight.t(), out=self._buffer("out", hidden, width))
        # `mixed` has served; the norms read and write the same places, so they may work in place.
        self._add_norm(out, layer.out.bias, hidden, layer.norm, mixed)
        up = self._buffer("up", hidden, layer.up.bias.shape[0])
        if self._weights.activation == "gelu":
            torch.mm(mixed, layer.up.weight.t(), out=up)
            self._c.encoder_gelu(up.data_ptr(), layer.up.bias.data_ptr(), *up.shape)
        else:
            self._activate(layer.up(mixed, up))
        torch.mm(up, layer.down.weight.t(), out=out)
        last = torch.empty_like(hidden)
        self._add_norm(out, layer.down.bias, mixed, layer.last_norm, last)
        return last

    def _attention(self, lengths: list[int], bounds: Tensor) -> Callable[[Linear, Tensor, Tensor], None]:
        heads, rows = self._heads, len(lengths)
        bounds = bounds.to(torch.int32).contiguous()
        work = torch.empty(QUERIES * (max(lengths) + SLACK))

        def attend(qvk: Linear, hidden: Tensor, out: Tensor) -> None:
            tokens, width = hidden.shape
            values = self._spread("values", hidden, tokens, 2 * width)
            keys = self._spread("keys", hidden, width, tokens)
            torch.mm(hidden, qvk.weight[: 2 * width].t(), out=values)
            torch.mm(qvk.weight[2 * width :], hidden.t(), out=keys)
            self._c.encoder_attend(
                values.data_ptr(), values.stride(0), keys.data_ptr(), keys.stride(0), qvk.bias.data_ptr(),
                heads, width // heads, bounds.data_ptr(), rows, out.data_ptr(), work.data_ptr(),
            )  # fmt: skip

        return attend

    def _add_norm(self, x: Tensor, bias: Tensor, residual: Tensor, norm: Norm, out: Tensor) -> None:
        pointers = (part.data_ptr() for part in (x, bias, residual))
        self._c.encoder_add_norm(*pointers, *x.shape, *_norm_of(norm), out.data_ptr())

    def _spread(self, name: str, like: Tensor, rows: int, columns: int) -> Tensor:
        """Memory as `_buffer` gives it, [rows, columns] with an odd number of cache lines from row to row."""
        stride = (-(-columns // LINE) | 1) * LINE
        flat = self._buffer(name, like, -(-(rows * stride + SLACK) // len(like)))
        return flat.view(-1)[: rows * stride].view(rows, stride)[:, :columns]


def _turned(layer: Layer) -> Layer:
    """The layer with queries, values and keys in this order in `qkv`."""
    parts = [part.chunk(3) for part in (layer.qkv.weight, layer.qkv.bias)]
    return replace(layer, qkv=Linear(*(torch.cat((query, value, key)) for query, key, value in parts)))


def _norm_of(norm: Norm) -> tuple[int, int, float]:
    return norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps
