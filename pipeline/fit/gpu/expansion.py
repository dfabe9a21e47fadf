"""`pipeline.heads.forward.expand` in one launch a basis, forward and backward, for layers that rows go through."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.fit.gpu.bases import KINDS, slope, value
from pipeline.fit.gpu.part import grid_numbers
from pipeline.heads import forward
from pipeline.heads.network import Branch, LayerSpec

__all__ = ["expand"]

#: Values of basis functions that a program works on.
NUMBERS = 4096


@triton.jit
def _expand(
    x_ptr, phi_ptr, count, inputs, features, at, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr,
    WIDTH: tl.constexpr, WIDTH_PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A basis of x [rows, inputs], to phi [rows, features] from column `at` on."""
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDTH_PAD)
    x = tl.load(x_ptr + e, mask=e < count, other=0.0)
    out = (e // inputs) * features + at + (e % inputs) * WIDTH
    y = value(x[:, None], k[None, :], low, inverse, sharpness, KIND, ORDER) + tl.zeros((BLOCK, WIDTH_PAD), tl.float32)
    tl.store(phi_ptr + out[:, None] + k[None, :], y, mask=(e < count)[:, None] & (k < WIDTH)[None, :])


@triton.jit
def _expand_backward(
    x_ptr, upper_ptr, down_ptr, count, inputs, features, at, low, inverse, sharpness, ADD: tl.constexpr,
    KIND: tl.constexpr, ORDER: tl.constexpr, WIDTH: tl.constexpr, WIDTH_PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient by x, of that by phi; added to what is there with ADD."""
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDTH_PAD)
    x = tl.load(x_ptr + e, mask=e < count, other=0.0)
    out = (e // inputs) * features + at + (e % inputs) * WIDTH
    mask = (e < count)[:, None] & (k < WIDTH)[None, :]
    upper = tl.load(upper_ptr + out[:, None] + k[None, :], mask=mask, other=0.0)
    down = tl.sum(upper * slope(x[:, None], k[None, :], low, inverse, sharpness, KIND, ORDER), axis=1)
    if ADD:
        down += tl.load(down_ptr + e, mask=e < count, other=0.0)
    tl.store(down_ptr + e, down, mask=e < count)


@triton.jit
def _unit_rows(
    x_ptr, unit_ptr, upper_ptr, out_ptr, rows, inputs, at, widths, low, inverse, sharpness, BACKWARD: tl.constexpr,
    ADD: tl.constexpr, KIND: tl.constexpr, ORDER: tl.constexpr, WIDTH: tl.constexpr, WIDTH_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Units' values of x [heads, rows, inputs] under coefficients [heads, inputs, widths] from column `at` on.

    With BACKWARD, the gradient by x, of that by the values (`upper`). Added to what is there with ADD.
    """
    head = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDTH_PAD)
    inside, here = e < rows * inputs, head * rows * inputs + e
    x = tl.load(x_ptr + here, mask=inside, other=0.0)
    c = tl.load(
        unit_ptr + ((head * inputs + e % inputs) * widths + at)[:, None] + k[None, :],
        mask=inside[:, None] & (k < WIDTH)[None, :], other=0.0,
    )  # fmt: skip
    if BACKWARD:
        y = tl.sum(c * slope(x[:, None], k[None, :], low, inverse, sharpness, KIND, ORDER), axis=1)
        y *= tl.load(upper_ptr + here, mask=inside, other=0.0)
    else:
        y = tl.sum(c * value(x[:, None], k[None, :], low, inverse, sharpness, KIND, ORDER), axis=1)
    if ADD:
        y += tl.load(out_ptr + here, mask=inside, other=0.0)
    tl.store(out_ptr + here, y, mask=inside)


@triton.jit
def _unit_gradient(
    x_ptr, upper_ptr, gradient_ptr, inputs, at, widths, low, inverse, sharpness, ROWS: tl.constexpr,
    KIND: tl.constexpr, ORDER: tl.constexpr, WIDTH: tl.constexpr, WIDTH_PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient by the coefficients: every unit's sum over the rows, one after another."""
    head = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDTH_PAD)
    total = tl.zeros((BLOCK, WIDTH_PAD), tl.float32)
    for row in range(ROWS):
        here = (head * ROWS + row) * inputs + i
        x = tl.load(x_ptr + here, mask=i < inputs, other=0.0)
        upper = tl.load(upper_ptr + here, mask=i < inputs, other=0.0)
        total += upper[:, None] * value(x[:, None], k[None, :], low, inverse, sharpness, KIND, ORDER)
    out = ((head * inputs + i) * widths + at)[:, None] + k[None, :]
    tl.store(gradient_ptr + out, total, mask=(i < inputs)[:, None] & (k < WIDTH)[None, :])


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


class _Expansion(torch.autograd.Function):
    """phi [heads, rows, features] of x [heads, rows, inputs] and, where a branch reads it, of x's norm."""

    @staticmethod
    def forward(ctx: Any, layer: LayerSpec, x: Tensor, normed: Tensor | None) -> Tensor:
        x, normed = x.contiguous(), None if normed is None else normed.contiguous()
        phi = x.new_empty(*x.shape[:-1], layer.features)
        at = 0
        for branch, width in zip(layer.branches, layer.widths, strict=True):
            basis = _basis(layer, branch, width)
            block = max(16, NUMBERS // basis["WIDTH_PAD"])
            _expand[(triton.cdiv(x.numel(), block),)](
                normed if branch.normed else x, phi, x.numel(), layer.inputs, layer.features, at,
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
                block, add = max(16, NUMBERS // basis["WIDTH_PAD"]), found[own] is not None
                found[own] = found[own] if add else torch.empty_like(x)
                _expand_backward[(triton.cdiv(x.numel(), block),)](
                    normed if own else x, upper, found[own], x.numel(), layer.inputs, layer.features, at,
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
        _Units._rows(layer, x, normed, unit, x, {False: values, True: values}, backward=False)
        ctx.layer = layer
        ctx.save_for_backward(x, normed, unit)
        return values

    @staticmethod
    def _rows(
        layer: LayerSpec, x: Tensor, normed: Tensor | None, unit: Tensor, upper: Tensor, out: dict[bool, Tensor], *,
        backward: bool,
    ) -> None:  # fmt: skip
        """`out` tells whether a branch reads the norm where its result goes to."""
        at, begun = 0, set()
        for branch, width in zip(layer.branches, layer.widths, strict=True):
            basis, target = _basis(layer, branch, width), out[branch.normed]
            block = max(16, NUMBERS // basis["WIDTH_PAD"])
            _unit_rows[(len(x), triton.cdiv(x[0].numel(), block))](
                normed if branch.normed else x, unit, upper, target, x.shape[1], layer.inputs, at, unit.shape[2],
                *_numbers(layer, branch), BACKWARD=backward, ADD=target.data_ptr() in begun, BLOCK=block, **basis,
            )  # fmt: skip
            begun.add(target.data_ptr())
            at += width

    @staticmethod
    def backward(ctx: Any, upper: Tensor) -> tuple[None, Tensor, Tensor | None, Tensor]:
        layer, (x, normed, unit) = ctx.layer, ctx.saved_tensors
        upper, gradient, at = upper.contiguous(), torch.empty_like(unit), 0
        out = {branch.normed: torch.empty_like(x) for branch in layer.branches}
        _Units._rows(layer, x, normed, unit, upper, out, backward=True)
        for branch, width in zip(layer.branches, layer.widths, strict=True):
            _unit_gradient[(len(x), triton.cdiv(layer.inputs, 64))](
                normed if branch.normed else x, upper, gradient, layer.inputs, at, unit.shape[2],
                *_numbers(layer, branch), ROWS=x.shape[1], BLOCK=64, **_basis(layer, branch, width),
            )  # fmt: skip
            at += width
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
