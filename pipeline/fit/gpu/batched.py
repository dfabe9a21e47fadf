"""Matrix products of all heads whose sums have one order, whatever the pack.

A library picks its algorithm by the number of heads too, so that a head's last bits would depend on its neighbours; and
trained by few rows at a time those bits grow.
"""

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["product", "sum_rows"]

#: Programs that a head's product is cut into at least, where it is long enough.
PROGRAMS = 8
#: Terms of a sum that are worth a program.
FEWEST_TERMS = 256
#: Columns of a tile and its warps, for 16 rows at most and for more.
FEW_ROWS, MORE_ROWS = (64, 4), (32, 2)
#: Numbers that rows of a second factor are read in, where they are filled up to so many (32 bytes).
FILLED = 8
#: Numbers of a program that adds up parts.
BLOCK = 1024


@triton.jit
def _product(
    a_ptr, b_ptr, c_ptr, bias_ptr, m_size, n_size, k_size, a_head, a_row, a_column, b_head, b_row, b_column, c_part,
    c_head, c_row, bias_head, tiles, BIAS: tl.constexpr, ACROSS: tl.constexpr, TERMS: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, FILLED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of a head's a [m, k] times b [k, n], summed over TERMS of the k, for `tiles` a head, ACROSS in a row.

    The rows of b may be read up to a multiple of FILLED numbers.
    """
    head, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    part = tl.program_id(1)
    m = (tile // ACROSS) * BM + tl.arange(0, BM)
    n = (tile % ACROSS) * BN + tl.arange(0, BN)
    if FILLED > 1:
        b_row = tl.multiple_of(b_row, FILLED)
    n_read = (n_size + (FILLED - 1)) // FILLED * FILLED
    total = tl.zeros((BM, BN), tl.float32)
    for step in range(0, TERMS, BK):
        k = part * TERMS + step + tl.arange(0, BK)
        a = tl.load(
            a_ptr + head * a_head + m[:, None].to(tl.int64) * a_row + k[None, :] * a_column,
            mask=(m < m_size)[:, None] & (k < k_size)[None, :], other=0.0,
        )  # fmt: skip
        b = tl.load(
            b_ptr + head * b_head + k[:, None].to(tl.int64) * b_row + n[None, :] * b_column,
            mask=(k < k_size)[:, None] & (n < n_read)[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(a, b, total, input_precision=PRECISION)
    if BIAS:
        total += tl.load(bias_ptr + head * bias_head + n, mask=n < n_size, other=0.0)[None, :]
    c = c_ptr + part * c_part + head * c_head + m[:, None].to(tl.int64) * c_row + n[None, :]
    tl.store(c, total, mask=(m < m_size)[:, None] & (n < n_size)[None, :])


@triton.jit
def _sum(
    parts_ptr, out_ptr, bias_ptr, count, columns, each, bias_head, BIAS: tl.constexpr, PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of parts [PARTS, count] from first to last, `each` numbers a head."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(parts_ptr + i, mask=i < count, other=0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(parts_ptr + part * tl.cast(count, tl.int64) + i, mask=i < count, other=0.0)
    if BIAS:
        total += tl.load(bias_ptr + i // each * bias_head + i % columns, mask=i < count, other=0.0)
    tl.store(out_ptr + i, total, mask=i < count)


@triton.jit
def _sum_rows(
    x_ptr, out_ptr, columns, x_head, x_row, out_head, ROWS: tl.constexpr, BR: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """The sum of x [ROWS, columns] over the rows."""
    head = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BR, BN), tl.float32)
    for step in range(0, ROWS, BR):
        r = step + tl.arange(0, BR)
        total += tl.load(
            x_ptr + head * x_head + r[:, None] * x_row + n[None, :],
            mask=(r < ROWS)[:, None] & (n < columns)[None, :], other=0.0,
        )  # fmt: skip
    tl.store(out_ptr + head * out_head + n, tl.sum(total, axis=0), mask=n < columns)


def _filled(b: Tensor) -> int:
    """How many numbers at a time rows of b may be read, beyond their end too: filled up, they lie in vectors."""
    ends = -(-b.shape[2] // FILLED) * FILLED
    aligned = all(size % FILLED == 0 for size in (b.storage_offset(), *b.stride()[:2]))
    return FILLED if aligned and b.stride(2) == 1 and ends <= b.stride(1) else 1


def product(
    a: Tensor, b: Tensor, out: Tensor | None = None, *, bias: Tensor | None = None, precision: str = "tf32x3"
) -> Tensor:
    """a [heads, m, k] times b [heads, k, n], as `torch.bmm`, plus `bias` [heads, n].

    `out`'s last axis lies side by side in memory, as `bias`'s does. Tiles as measured on an H100
    (benchmarks/heads_gpu.md): two warps keep them off the asynchronous matrix units, which take TF32 only after turning
    one side over in shared memory, three times as long.
    """
    heads, rows, inner = a.shape
    columns = b.shape[2]
    most, warps = FEW_ROWS if rows <= 16 else MORE_ROWS
    warps = warps if columns > 32 else 2
    bm, bn = (min(limit, max(16, triton.next_power_of_2(size))) for limit, size in ((64, rows), (most, columns)))
    bk = 16 if inner <= 16 else 32
    across = triton.cdiv(columns, bn)
    tiles = triton.cdiv(rows, bm) * across
    parts = max(1, min(PROGRAMS // tiles, inner // FEWEST_TERMS))
    terms = triton.cdiv(triton.cdiv(inner, parts), bk) * bk
    target = a.new_empty(parts, heads, rows, columns) if out is None or parts > 1 else out.unsqueeze(0)
    addend, stride = (target, 0) if bias is None else (bias, bias.stride(0))
    _product[(heads * tiles, parts)](
        a, b, target, addend, rows, columns, inner, *a.stride(), *b.stride(), *target.stride()[:3], stride, tiles,
        BIAS=bias is not None and parts == 1, ACROSS=across, TERMS=terms, BM=bm, BN=bn, BK=bk, FILLED=_filled(b),
        PRECISION=precision, num_warps=warps, num_stages=3,
    )  # fmt: skip
    if parts == 1:
        return target[0]
    # A library's sum may pair the parts by how many numbers there are.
    found = target.new_empty(target.shape[1:])
    _sum[(triton.cdiv(found.numel(), BLOCK),)](
        target, found, addend, found.numel(), columns, rows * columns, stride, BIAS=bias is not None, PARTS=parts,
        BLOCK=BLOCK,
    )  # fmt: skip
    return found if out is None else out.copy_(found)


def sum_rows(x: Tensor, out: Tensor) -> Tensor:
    """The sum of x [heads, rows, columns] over the rows, to `out` [heads, columns]; last axes lie side by side."""
    heads, rows, columns = x.shape
    block = min(16, triton.next_power_of_2(rows))
    _sum_rows[(heads, triton.cdiv(columns, 128))](
        x, out, columns, *x.stride()[:2], out.stride(0), ROWS=rows, BR=block, BN=128
    )
    return out
