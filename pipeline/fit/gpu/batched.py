"""Matrix products of all heads whose sums have one order, whatever the pack.

A library picks its algorithm by the number of heads too, so that a head's last bits would depend on its neighbours; and
trained by few rows at a time those bits grow.
"""

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["product"]

#: Programs that a head's product is cut into at least, where it is long enough.
PROGRAMS = 8
#: Terms of a sum that are worth a program.
FEWEST_TERMS = 256
#: Numbers of a program that adds up parts.
BLOCK = 1024


@triton.jit
def _product(
    a_ptr, b_ptr, c_ptr, m_size, n_size, k_size, a_head, a_row, a_column, b_head, b_row, b_column, c_part, c_head,
    c_row, tiles, ACROSS: tl.constexpr, TERMS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of a head's a [m, k] times b [k, n], summed over TERMS of the k, for `tiles` a head, ACROSS in a row."""
    head, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    part = tl.program_id(1)
    m = (tile // ACROSS) * BM + tl.arange(0, BM)
    n = (tile % ACROSS) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for step in range(0, TERMS, BK):
        k = part * TERMS + step + tl.arange(0, BK)
        a = tl.load(
            a_ptr + head * a_head + m[:, None].to(tl.int64) * a_row + k[None, :] * a_column,
            mask=(m < m_size)[:, None] & (k < k_size)[None, :], other=0.0,
        )  # fmt: skip
        b = tl.load(
            b_ptr + head * b_head + k[:, None].to(tl.int64) * b_row + n[None, :] * b_column,
            mask=(k < k_size)[:, None] & (n < n_size)[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(a, b, total, input_precision=PRECISION)
    c = c_ptr + part * c_part + head * c_head + m[:, None].to(tl.int64) * c_row + n[None, :]
    tl.store(c, total, mask=(m < m_size)[:, None] & (n < n_size)[None, :])


@triton.jit
def _sum(parts_ptr, out_ptr, count, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of parts [PARTS, count] from first to last."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(parts_ptr + i, mask=i < count, other=0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(parts_ptr + part * tl.cast(count, tl.int64) + i, mask=i < count, other=0.0)
    tl.store(out_ptr + i, total, mask=i < count)


def product(a: Tensor, b: Tensor, out: Tensor | None = None, *, precision: str = "tf32x3") -> Tensor:
    """a [heads, m, k] times b [heads, k, n], as `torch.bmm`; `out`'s last axis lies side by side in memory.

    Tiles as measured on an H100 (benchmarks/heads_gpu.md): two warps keep them off the asynchronous matrix units, which
    take TF32 only after turning one side over in shared memory, three times as long.
    """
    heads, rows, inner = a.shape
    columns = b.shape[2]
    bm, bn = (min(most, max(16, triton.next_power_of_2(size))) for most, size in ((64, rows), (32, columns)))
    bk = 16 if inner <= 16 else 32
    across = triton.cdiv(columns, bn)
    tiles = triton.cdiv(rows, bm) * across
    parts = max(1, min(PROGRAMS // tiles, inner // FEWEST_TERMS))
    terms = triton.cdiv(triton.cdiv(inner, parts), bk) * bk
    target = a.new_empty(parts, heads, rows, columns) if out is None or parts > 1 else out.unsqueeze(0)
    _product[(heads * tiles, parts)](
        a, b, target, rows, columns, inner, *a.stride(), *b.stride(), *target.stride()[:3], tiles, ACROSS=across,
        TERMS=terms, BM=bm, BN=bn, BK=bk, PRECISION=precision, num_warps=2, num_stages=3,
    )  # fmt: skip
    if parts == 1:
        return target[0]
    # A library's sum may pair the parts by how many numbers there are.
    found = target.new_empty(target.shape[1:])
    _sum[(triton.cdiv(found.numel(), BLOCK),)](target, found, found.numel(), PARTS=parts, BLOCK=BLOCK)
    return found if out is None else out.copy_(found)
