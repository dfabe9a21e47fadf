"""Weights whose gradients are never written: the norm from the two factors' Gram matrices, AdamW on each tile at once.

The gradient of a linear map's weights is v^T d for the expansion v [rows, features] and the gradient d [rows, out] by
its outputs. Its squared norm is the sum over rows r and s of (v v^T)_rs (d d^T)_rs, so clipping need not wait for it.
"""

from collections.abc import Mapping

import triton
import triton.language as tl
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.fit.gpu.products import adamw
from pipeline.heads.network import LayerSpec

__all__ = ["ALIGNED", "gram_tiles", "squares", "update", "worth"]

#: A row of weights begins at a multiple of so many numbers (a sector of 32 bytes).
ALIGNED = 8
#: Rows of a tile of a Gram matrix, at most, and terms of its sums at a time.
GRAM_ROWS, GRAM_TERMS = 64, 64
#: A tile of weights: features, outputs, rows of the factors at a time, warps and Triton's stages, as measured on an
#: H100 (benchmarks/heads_gpu.md). With 64 features asynchronous matrix units would take it (see `batched.product`).
FEATURES, OUTPUTS, TERMS, WARPS, STAGES = 32, 64, 16, 4, 4


@triton.jit
def _gram(
    a_ptr, i, j, inside_i, inside_j, stride, COLUMNS: tl.constexpr, SAME: tl.constexpr, BM: tl.constexpr,
    BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of a a^T, for a [rows, COLUMNS]."""
    total = tl.zeros((BM, BM), tl.float32)
    for step in range(0, COLUMNS, BK):
        k = step + tl.arange(0, BK)
        a = tl.load(
            a_ptr + i[:, None] * stride + k[None, :], mask=inside_i[:, None] & (k < COLUMNS)[None, :], other=0.0
        )
        if SAME:
            b = tl.trans(a)
        else:
            b = tl.load(
                a_ptr + j[None, :] * stride + k[:, None], mask=inside_j[None, :] & (k < COLUMNS)[:, None], other=0.0
            )
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def _squares(
    v_ptr, d_ptr, partial_ptr, rows, v_head, v_row, d_head, d_row, partial_head, FEATURES: tl.constexpr,
    OUT: tl.constexpr, ACROSS: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile's part of the squared norm of v^T d, to `partial` [heads, tiles]."""
    head, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i, j = (tile // ACROSS) * BM + tl.arange(0, BM), (tile % ACROSS) * BM + tl.arange(0, BM)
    same: tl.constexpr = ACROSS == 1
    v = _gram(v_ptr + head * v_head, i, j, i < rows, j < rows, v_row, FEATURES, same, BM, BK, PRECISION)
    d = _gram(d_ptr + head * d_head, i, j, i < rows, j < rows, d_row, OUT, same, BM, BK, PRECISION)
    tl.store(partial_ptr + head * partial_head + tile, tl.sum(tl.sum(v * d, axis=1), axis=0))


@triton.jit
def _update(
    v_ptr, d_ptr, weight_ptr, first_ptr, second_ptr, scalar_ptr, features, out, v_head, v_row, d_head, d_row,
    w_head, w_row, tiles, ACROSS: tl.constexpr, ROWS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """AdamW on one tile of a head's weights [features, out] and their moments, unless the head is frozen."""
    head, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    rate = tl.load(scalar_ptr + head * 4 + 1)
    if rate >= 0:
        w_row = tl.multiple_of(w_row, ALIGNED)
        i = (tile // ACROSS) * BM + tl.arange(0, BM)
        o = (tile % ACROSS) * BN + tl.arange(0, BN)
        # What fills up a row is zero, and stays so: a mask within a vector would cut it up.
        inside = (i < features)[:, None] & (o < w_row)[None, :]
        at = head * w_head + i[:, None].to(tl.int64) * w_row + o[None, :]
        w = tl.load(weight_ptr + at, mask=inside, other=0.0)
        m = tl.load(first_ptr + at, mask=inside, other=0.0)
        s = tl.load(second_ptr + at, mask=inside, other=0.0)
        g = tl.zeros((BM, BN), tl.float32)
        for step in range(0, ROWS, BK):
            r = step + tl.arange(0, BK)
            v = tl.load(
                v_ptr + head * v_head + r[None, :] * v_row + i[:, None],
                mask=(r < ROWS)[None, :] & (i < features)[:, None], other=0.0,
            )  # fmt: skip
            d = tl.load(
                d_ptr + head * d_head + r[:, None] * d_row + o[None, :],
                mask=(r < ROWS)[:, None] & (o < out)[None, :], other=0.0,
            )  # fmt: skip
            g = tl.dot(v, d, g, input_precision=PRECISION)
        g *= tl.load(scalar_ptr + head * 4 + 3)
        w, m, s = adamw(w, m, s, g, tl.load(scalar_ptr + head * 4), rate, tl.load(scalar_ptr + head * 4 + 2))
        tl.store(weight_ptr + at, w, mask=inside)
        tl.store(first_ptr + at, m, mask=inside)
        tl.store(second_ptr + at, s, mask=inside)


def worth(layer: LayerSpec, rows: int) -> bool:
    """Whether a layer's gradients need not be written, and Gram matrices of minibatches of `rows` are cheaper.

    A separate scaler needs the gradients; a narrow layer (768 by 64) would pay more for the norm.
    """
    return not layer.scaler and max(64, rows) * (layer.features + layer.outputs) <= layer.features * layer.outputs


def _gram_rows(rows: int) -> int:
    return min(GRAM_ROWS, max(16, triton.next_power_of_2(rows)))


def gram_tiles(rows: int) -> int:
    """Tiles that the Gram matrices of minibatches of `rows` are cut into."""
    return triton.cdiv(rows, _gram_rows(rows)) ** 2


def squares(values: Tensor, delta: Tensor, partial: Tensor, *, precision: str = "tf32x3") -> None:
    """Parts of the squared norm of values [heads, rows, features]^T delta [heads, rows, out].

    They go to `partial` [heads, `gram_tiles`]. Rounding may leave a sum just below zero where the norm is all but zero.
    """
    heads, rows, features = values.shape
    if partial.shape[1] != gram_tiles(rows):
        raise ConfigError(f"minibatch of {rows} rows: expected as many as the engine was made for")
    block = _gram_rows(rows)
    _squares[heads, gram_tiles(rows)](
        values, delta, partial, rows, *values.stride()[:2], *delta.stride()[:2], partial.stride(0), FEATURES=features,
        OUT=delta.shape[2], ACROSS=triton.cdiv(rows, block), BM=block, BK=GRAM_TERMS, PRECISION=precision,
        num_warps=block // 16, num_stages=3,
    )  # fmt: skip


def update(
    state: Mapping[str, Tensor], values: Tensor, delta: Tensor, scalars: Tensor, *, precision: str = "tf32x3"
) -> None:
    """AdamW with the gradient values^T delta, clipped by `scalars` [heads, 4] (as `pipeline.fit.gpu.update` has them).

    `state` are the `weight` [heads, features, out] and its `first` and `second` moments, which lie alike: rows at
    multiples of `ALIGNED`, zero where they are filled up.
    """
    heads, rows, features = values.shape
    weight, out = state["weight"], delta.shape[2]
    across = triton.cdiv(weight.stride(1), OUTPUTS)
    tiles = triton.cdiv(features, FEATURES) * across
    _update[(heads * tiles,)](
        values, delta, weight, state["first"], state["second"], scalars, features, out, *values.stride()[:2],
        *delta.stride()[:2], *weight.stride()[:2], tiles, ACROSS=across, ROWS=rows, BM=FEATURES, BN=OUTPUTS,
        BK=TERMS, ALIGNED=ALIGNED, PRECISION=precision, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
