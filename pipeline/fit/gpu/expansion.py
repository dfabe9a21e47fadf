"""`pipeline.heads.forward.expand` in one launch a basis, forward and backward, for layers that rows go through."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.fit.gpu.bases import KINDS, slope, value
from pipeline.fit.gpu.stack import grid_numbers
from pipeline.heads import forward
from pipeline.heads.network import Branch, LayerSpec

__all__ = ["expand"]

#: Values of basis functions that a program works on.
NUMBERS = 4096
#: Numbers that a program of units works on: all rows of some inputs.
UNIT_NUMBERS = 2048


@triton.jit
def _expand(
    x_ptr, phi_ptr, rows, inputs, features, at, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr,
    WIDTH: tl.constexpr, WIDTH_PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A basis of x [heads, rows, inputs], to phi [heads, rows, features] from column `at` on."""
    head = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDTH_PAD)
    inside = e < rows * inputs
    x = tl.load(x_ptr + head * rows * inputs + e, mask=inside, other=0.0)
    out = head * rows * features + ((e // inputs) * features + at + (e % inputs) * WIDTH)
    y = value(x[:, None], k[None, :], low, inverse, sharpness, KIND, ORDER) + tl.zeros((BLOCK, WIDTH_PAD), tl.float32)
    tl.store(phi_ptr + out[:, None] + k[None, :], y, mask=inside[:, None] & (k < WIDTH)[None, :])


@triton.jit
def _expand_backward(
    x_ptr, upper_ptr, down_ptr, rows, inputs, features, at, low, inverse, sharpness, ADD: tl.constexpr,
    KIND: tl.constexpr, ORDER: tl.constexpr, WIDTH: tl.constexpr, WIDTH_PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient by x, of that by phi; added to what is there with ADD."""
    head = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDTH_PAD)
    inside, here = e < rows * inputs, head * rows * inputs + e
    x = tl.load(x_ptr + here, mask=inside, other=0.0)
    out = head * rows * features + ((e // inputs) * features + at + (e % inputs) * WIDTH)
    mask = inside[:, None] & (k < WIDTH)[None, :]
    upper = tl.load(upper_ptr + out[:, None] + k[None, :], mask=mask, other=0.0)
    down = tl.sum(upper * slope(x[:, None], k[None, :], low, inverse, sharpness, KIND, ORDER), axis=1)
    if ADD:
        down += tl.load(down_ptr + here, mask=inside, other=0.0)
    tl.store(down_ptr + here, down, mask=inside)


@triton.jit
def _units(
    x_ptr, unit_ptr, upper_ptr, out_ptr, gradient_ptr, rows, inputs, at, widths, low, inverse, sharpness,
    BACKWARD: tl.constexpr, ADD: tl.constexpr, KIND: tl.constexpr, ORDER: tl.constexpr, WIDTH: tl.constexpr,
    ROWS_PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Units' values of x [heads, rows, inputs] under coefficients [heads, inputs, widths] from column `at` on.

    With BACKWARD, the gradient by x, of that by the values (`upper`), and the one by the coefficients. What goes to
    `out` is added to what is there with ADD.
    """
    head = tl.program_id(0).to(tl.int64)
    r = tl.arange(0, ROWS_PAD)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (r < rows)[:, None] & (i < inputs)[None, :]
    here = head * rows * inputs + r[:, None] * inputs + i[None, :]
    x = tl.load(x_ptr + here, mask=inside, other=0.0)
    coefficients = (head * inputs + i) * widths + at
    y = tl.zeros((ROWS_PAD, BLOCK), tl.float32)
    if BACKWARD:
        upper = tl.load(upper_ptr + here, mask=inside, other=0.0)
    for k in range(WIDTH):
        c = tl.load(unit_ptr + coefficients + k, mask=i < inputs, other=0.0)[None, :]
        phi = value(x, k, low, inverse, sharpness, KIND, ORDER)
        if BACKWARD:
            y += c * slope(x, k, low, inverse, sharpness, KIND, ORDER)
            tl.store(gradient_ptr + coefficients + k, tl.sum(upper * phi, axis=0), mask=i < inputs)
        else:
            y += c * phi
    if BACKWARD:
        y *= upper
    if ADD:
        y += tl.load(out_ptr + here, mask=inside, other=0.0)
    tl.store(out_ptr + here, y, mask=inside)


@triton.jit
def _affine_gradient(
    x_ptr, upper_ptr, scale_ptr, shift_ptr, inputs, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The gradients by scale and shift: every input's sums over the rows, one after another."""
    head = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    scale, shift = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for row in range(ROWS):
        here = (head * ROWS + row) * inputs + i
        upper = tl.load(upper_ptr + here, mask=i < inputs, other=0.0)
        scale += upper * tl.load(x_ptr + here, mask=i < inputs, other=0.0)
        shift += upper
    tl.store(scale_ptr + head * inputs + i, scale, mask=i < inputs)
    tl.store(shift_ptr + head * inputs + i, shift, mask=i < inputs)


class _Affine(torch.autograd.Function):
    """x * scale + shift for x [heads, rows, inputs]; PyTorch's sums over the rows would depend on the pack."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return torch.addcmul(shift.unsqueeze(1), x, scale.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        x, upper = x.contiguous(), upper.contiguous()
        found = x.new_empty(2, len(x), x.shape[2])
        _affine_gradient[(len(x), triton.cdiv(x.shape[2], 128))](
            x, upper, *found, x.shape[2], ROWS=x.shape[1], BLOCK=128
        )
        return upper * scale.unsqueeze(1) if ctx.needs_input_grad[0] else None, found[0], found[1]


def _norm(layer: LayerSpec, x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """`pipeline.heads.forward.norm`."""
    normed = torch.nn.functional.layer_norm(x, (layer.inputs,), eps=forward.NORM_EPSILON)
    return _Affine.apply(normed, tensors["norm_scale"], tensors["norm_shift"])


def _basis(layer: LayerSpec, branch: Branch, width: int) -> dict[str, int]:
    padded = triton.next_power_of_2(width)
    order = layer.grid.intervals if branch.basis == "fourier" else layer.grid.order
    return {"KIND": KINDS[branch.basis], "ORDER": order, "WIDTH": width, "WIDTH_PAD": padded}


def _cut(x: Tensor, basis: dict[str, int]) -> tuple[tuple[int, int], int]:
    """A launch for x [heads, rows, inputs], and how many of a head's numbers a program of it takes."""
    block = max(16, NUMBERS // basis["WIDTH_PAD"])
    return (len(x), triton.cdiv(x.shape[1] * x.shape[2], block)), block


class _Expansion(torch.autograd.Function):
    """phi [heads, rows, features] of x [heads, rows, inputs] and, where a branch reads it, of x's norm."""

    @staticmethod
    def forward(ctx: Any, layer: LayerSpec, x: Tensor, normed: Tensor | None) -> Tensor:
        x, normed = x.contiguous(), None if normed is None else normed.contiguous()
        phi = x.new_empty(*x.shape[:-1], layer.features)
        at = 0
        for branch, width in zip(layer.branches, layer.widths, strict=True):
            basis = _basis(layer, branch, width)
            grid, block = _cut(x, basis)
            _expand[grid](
                normed if branch.normed else x, phi, x.shape[1], layer.inputs, layer.features, at,
                *_numbers(layer, branch), BLOCK=block, **basis,
            )  # fmt: skip
            at += layer.inputs * width
        ctx.layer = layer
        ctx.save_for_backward(x, normed)
        return phi

    @staticmethod
    def backward(ctx: Any, upper: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        layer, (x, normed) = ctx.layer, ctx.saved_tensors
        upper, found, at = upper.contiguous(), {False: None, True: None}, 0
        for branch, width in zip(layer.branches, layer.widths, strict=True):
            basis, own = _basis(layer, branch, width), branch.normed
            if ctx.needs_input_grad[2 if own else 1]:
                (grid, block), add = _cut(x, basis), found[own] is not None
                found[own] = found[own] if add else torch.empty_like(x)
                _expand_backward[grid](
                    normed if own else x, upper, found[own], x.shape[1], layer.inputs, layer.features, at,
                    *_numbers(layer, branch), ADD=add, BLOCK=block, **basis,
                )  # fmt: skip
            at += layer.inputs * width
        return None, found[False], found[True]


class _Units(torch.autograd.Function):
    """Units' values [heads, rows, inputs]: each input's own weighted sum of its bases."""

    @staticmethod
    def forward(ctx: Any, layer: LayerSpec, x: Tensor, normed: Tensor | None, unit: Tensor) -> Tensor:
        x, normed = x.contiguous(), None if normed is None else normed.contiguous()
        unit = unit.contiguous()
        values = torch.empty_like(x)
        _Units._launch(layer, x, normed, unit, x, {False: values, True: values}, None)
        ctx.layer = layer
        ctx.save_for_backward(x, normed, unit)
        return values

    @staticmethod
    def _launch(
        layer: LayerSpec, x: Tensor, normed: Tensor | None, unit: Tensor, upper: Tensor, out: dict[bool, Tensor],
        gradient: Tensor | None,
    ) -> None:  # fmt: skip
        """`out` tells whether a branch reads the norm where its result goes to; with `gradient`, backward."""
        at, begun, rows = 0, set(), triton.next_power_of_2(x.shape[1])
        block = min(128, max(8, UNIT_NUMBERS // rows))
        for branch, width in zip(layer.branches, layer.widths, strict=True):
            basis, target = _basis(layer, branch, width), out[branch.normed]
            basis.pop("WIDTH_PAD")
            _units[(len(x), triton.cdiv(layer.inputs, block))](
                normed if branch.normed else x, unit, upper, target, unit if gradient is None else gradient,
                x.shape[1], layer.inputs, at, unit.shape[2], *_numbers(layer, branch), BACKWARD=gradient is not None,
                ADD=target.data_ptr() in begun, ROWS_PAD=rows, BLOCK=block, **basis,
            )  # fmt: skip
            begun.add(target.data_ptr())
            at += width

    @staticmethod
    def backward(ctx: Any, upper: Tensor) -> tuple[None, Tensor | None, Tensor | None, Tensor]:
        layer, (x, normed, unit) = ctx.layer, ctx.saved_tensors
        gradient, out = torch.empty_like(unit), {branch.normed: torch.empty_like(x) for branch in layer.branches}
        _Units._launch(layer, x, normed, unit, upper.contiguous(), out, gradient)
        return None, out.get(False), out.get(True), gradient


def _numbers(layer: LayerSpec, branch: Branch) -> tuple[float, float, float]:
    """low, 1 / step and sharpness; a grid of one centre has no step, and needs none."""
    return grid_numbers(layer) if branch is layer.branches[0] else (0.0, 1.0, 1.0)


def expand(layer: LayerSpec, x: Tensor, tensors: Mapping[str, Tensor] = MappingProxyType({})) -> Tensor:
    """As `pipeline.heads.forward.expand`, for x [heads, rows, inputs] in float32.

    Bases without a kernel (polynomials), knots of one's own and units that all inputs share take PyTorch's operations.
    """
    if layer.knots or layer.units == 1 != layer.inputs or any(one.basis not in KINDS for one in layer.branches):
        return forward.expand(layer, x, tensors)
    normed = _norm(layer, x, tensors) if layer.normed else None
    if layer.units:
        return _Units.apply(layer, x, normed, tensors["unit"])
    return _Expansion.apply(layer, x, normed)
