"""Sums and products over a minibatch of 1, 2 or 4 rows that small heads' kernel is made of, as tuples of tensors."""

import triton
import triton.language as tl

__all__ = ["expansions", "outer_products", "row_numbers", "sums_of"]


@triton.jit
def _add2(a0, a1, b0, b1):
    return a0 + b0, a1 + b1


@triton.jit
def _add4(a0, a1, a2, a3, b0, b1, b2, b3):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3


@triton.jit
def sums_of(parts, BATCH: tl.constexpr):
    """The sum over axis 0 of every member of a tuple of BATCH tensors, in one exchange between warps."""
    if BATCH == 1:
        found = (tl.sum(parts[0], axis=0),)
    elif BATCH == 2:
        found = tl.reduce(parts, 0, _add2)
    else:
        found = tl.reduce(parts, 0, _add4)
    return found


@triton.jit
def expansions(phi_ptr, at, f, inside, FEATURES: tl.constexpr, BATCH: tl.constexpr):
    """Columns f of the ready-made expansion of every row."""
    found = ()
    for r in tl.static_range(BATCH):
        found = found + (tl.load(phi_ptr + at[r] * FEATURES + f, mask=inside, other=0.0),)
    return found


@triton.jit
def row_numbers(order_ptr, turn, steps, BATCH: tl.constexpr):
    """Row numbers of a step's minibatch, of the last one behind it."""
    found = ()
    for r in tl.static_range(BATCH):
        found = found + (tl.load(order_ptr + tl.minimum(turn, steps - 1) * BATCH + r).to(tl.int64),)
    return found


@triton.jit
def outer_products(phi, d, BATCH: tl.constexpr):
    """Sum over the minibatch of phi [functions] times d [hidden]."""
    g = phi[0][:, None] * d[0][None, :]
    for r in tl.static_range(1, BATCH):
        g += phi[r][:, None] * d[r][None, :]
    return g
