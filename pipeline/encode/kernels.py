"""Triton kernels of the unpadded path on a GPU: one pass over memory where PyTorch's operators take several.

`bounds` is int32 [n + 1] everywhere: row i of a batch is the tokens `bounds[i]:bounds[i + 1]`. Sums, statistics and
softmax are float32 whatever the tensors' precision is.
"""

# Triton reads types from the arguments; only its own `constexpr` is annotated.
# ruff: noqa: ANN202

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["HEAD_WIDTHS", "add_norm", "attend", "embed_norm", "row_sums"]

#: Widths of one attention head that `attend` takes.
HEAD_WIDTHS = (16, 32, 64, 128)
#: Rows up to so many tokens are one tile of queries and one of keys; longer ones are cut into tiles of the last size.
TILES = (16, 32, 64, 128)
LONG_TILE = 64
LOG2_E = 1.4426950408889634


@triton.jit
def _attend(
    qkv, out, bounds, first, scale,
    HEADS: tl.constexpr, HEAD: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    row = first + tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    width: tl.constexpr = HEADS * HEAD
    start = tl.load(bounds + row).to(tl.int64)
    length = (tl.load(bounds + row + 1) - start).to(tl.int32)
    begin = tl.program_id(1) * QUERIES
    if begin < length:
        queries = begin + tl.arange(0, QUERIES)
        dims = tl.arange(0, HEAD)
        base = qkv + start * (3 * width) + head * HEAD
        real = queries[:, None] < length
        q = tl.load(base + queries[:, None] * (3 * width) + dims[None, :], mask=real, other=0.0)
        best = tl.full([QUERIES], float("-inf"), tl.float32)
        total = tl.zeros([QUERIES], tl.float32)
        mixed = tl.zeros([QUERIES, HEAD], tl.float32)
        for at in range(0, length, KEYS):
            keys = at + tl.arange(0, KEYS)
            inside = keys < length
            k = tl.load(base + width + keys[:, None] * (3 * width) + dims[None, :], mask=inside[:, None], other=0.0)
            v = tl.load(base + 2 * width + keys[:, None] * (3 * width) + dims[None, :], mask=inside[:, None], other=0.0)
            scores = tl.where(inside[None, :], tl.dot(q, tl.trans(k)) * scale, float("-inf"))
            top = tl.maximum(best, tl.max(scores, 1))
            shares = tl.exp2(scores - top[:, None])
            keep = tl.exp2(best - top)
            total = total * keep + tl.sum(shares, 1)
            mixed = mixed * keep[:, None] + tl.dot(shares.to(v.dtype), v)
            best = top
        mixed = mixed / total[:, None]
        place = out + start * width + head * HEAD + queries[:, None] * width + dims[None, :]
        tl.store(place, mixed.to(out.dtype.element_ty), mask=real)


def attend(qkv: Tensor, bounds: Tensor, lengths: Sequence[int], heads: int, out: Tensor) -> None:
    """Attention inside each row: reads `qkv` [T, 3D], writes `out` [T, D]; `lengths` fall, as batches are sorted."""
    head = out.shape[1] // heads
    scale = LOG2_E / head**0.5
    cuts = [bisect_left(lengths, -tile, key=lambda size: -size) for tile in TILES]
    # From long rows to short ones, which are behind them.
    edges = [0, *reversed(cuts), len(lengths)]
    tiles = [LONG_TILE, *reversed(TILES)]
    for (first, last), tile in zip(pairwise(edges), tiles, strict=False):
        if first < last:
            grid = (heads * (last - first), -(-lengths[first] // tile))
            warps = 8 if tile == 128 else 4 if tile >= 64 else 2 if tile == 32 else 1
            _attend[grid](qkv, out, bounds, first, scale, heads, head, tile, tile, num_warps=warps)


@triton.jit
def _normed(x, inside, scale, shift, eps, D: tl.constexpr):
    mean = tl.sum(x, 1) / D
    x = tl.where(inside[None, :], x - mean[:, None], 0.0)
    spread = tl.rsqrt(tl.sum(x * x, 1) / D + eps)
    return x * spread[:, None] * scale.to(tl.float32)[None, :] + shift.to(tl.float32)[None, :]


@triton.jit
def _add_norm(x, y, scale, shift, out, tokens, eps, D: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = columns < D
    mask = (rows < tokens)[:, None] & inside[None, :]
    places = rows.to(tl.int64)[:, None] * D + columns[None, :]
    both = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
    both += tl.load(y + places, mask=mask, other=0.0).to(tl.float32)
    weight, bias = tl.load(scale + columns, mask=inside, other=0.0), tl.load(shift + columns, mask=inside, other=0.0)
    found = _normed(both, inside, weight, bias, eps, D)
    tl.store(out + places, found.to(out.dtype.element_ty), mask=mask)


def add_norm(x: Tensor, y: Tensor, scale: Tensor, shift: Tensor, eps: float, out: Tensor, *, rows: int = 2) -> None:
    """Layer norm of x + y, [T, D] each, into `out`; `out` may be `x` or `y`."""
    tokens, width = x.shape
    grid = (-(-tokens // rows),)
    columns = triton.next_power_of_2(width)
    _add_norm[grid](x, y, scale, shift, out, tokens, eps, width, columns, rows, num_warps=4)


@triton.jit
def _embed_norm(
    ids, places, types, words, positions, kinds, scale, shift, out, tokens, eps,
    D: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, TYPES: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = columns < D
    real = rows < tokens
    mask = real[:, None] & inside[None, :]
    word = tl.load(ids + rows, mask=real, other=0).to(tl.int64)
    x = tl.load(words + word[:, None] * D + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    place = tl.load(places + rows, mask=real, other=0).to(tl.int64)
    x += tl.load(positions + place[:, None] * D + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    if TYPES:
        kind = tl.load(types + rows, mask=real, other=0).to(tl.int64)
        x += tl.load(kinds + kind[:, None] * D + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    weight, bias = tl.load(scale + columns, mask=inside, other=0.0), tl.load(shift + columns, mask=inside, other=0.0)
    found = _normed(x, inside, weight, bias, eps, D)
    tl.store(out + rows.to(tl.int64)[:, None] * D + columns[None, :], found.to(out.dtype.element_ty), mask=mask)


def embed_norm(
    ids: Tensor, places: Tensor, types: Tensor, words: Tensor, positions: Tensor, kinds: Tensor | None,
    scale: Tensor, shift: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """Layer norm of the sum of word, position and (where there are any) type embeddings: [T, D]."""
    width = words.shape[1]
    out = words.new_empty(len(ids), width)
    columns = triton.next_power_of_2(width)
    grid = (-(-len(ids) // 2),)
    kind = words if kinds is None else kinds
    _embed_norm[grid](
        ids, places, types, words, positions, kind, scale, shift, out, len(ids), eps, width, columns, 2,
        kinds is not None, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _row_sums(x, bounds, out, D: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, stop = tl.load(bounds + row), tl.load(bounds + row + 1)
    total = tl.zeros([COLUMNS], tl.float32)
    for at in range(start, stop, STEP):
        rows = at + tl.arange(0, STEP)
        mask = (rows < stop)[:, None] & (columns < D)[None, :]
        part = tl.load(x + rows.to(tl.int64)[:, None] * D + columns[None, :], mask=mask, other=0.0)
        total += tl.sum(part.to(tl.float32), 0)
    tl.store(out + row.to(tl.int64) * D + columns, total, mask=columns < D)


def row_sums(x: Tensor, bounds: Tensor) -> Tensor:
    """The sum of each row's tokens in float32: [T, D] to [n, D]."""
    rows, width = len(bounds) - 1, x.shape[1]
    out = torch.empty(rows, width, device=x.device)
    if rows:
        columns = min(1024, triton.next_power_of_2(width))
        _row_sums[(rows, -(-width // columns))](x, bounds, out, width, columns, 8, num_warps=4)
    return out
