"""Errors of the GPU engines' pieces against PyTorch in float64, as JSON; a script, for Triton's interpreter."""

import json

import torch
import triton
import triton.language as tl

from pipeline.fit.gpu.bases import KINDS, on_grid, value
from pipeline.fit.gpu.batched import product, sum_rows
from pipeline.fit.gpu.loss import loss
from pipeline.fit.gpu.products import deltas_of, gradient_terms, gradient_tile, outputs_of
from pipeline.fit.gpu.update import BLOCK, FlatAdamW
from pipeline.fit.step import row_losses


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def products() -> list[float]:
    """Sums cut into parts, sides turned over, rows filled up with what is no number, outputs between other numbers."""
    errors = []
    for m, k, n in ((4, 520, 22), (1, 5, 3), (70, 33, 40)):
        a, b = torch.randn(2, m, k), torch.randn(2, k, n)
        expected = torch.bmm(a.double(), b.double())
        errors.append(relative(product(a, b, precision="ieee"), expected))
        room = torch.full((2, m * n + 5), 7.0)
        bias = torch.randn(2, n + 3)[:, :n]
        biased = product(a, b, bias=bias, precision="ieee")
        errors.append(relative(biased, expected + bias.double().unsqueeze(1)))
        filled = torch.full((2, k, -(-n // 8) * 8), torch.nan)[..., :n].copy_(b)
        errors.append(relative(product(a, filled, precision="ieee"), expected))
        turned = a.transpose(1, 2).contiguous().transpose(1, 2), b.transpose(1, 2).contiguous().transpose(1, 2)
        product(*turned, room[:, : m * n].view(2, m, n), precision="ieee")
        errors.append(relative(room[:, : m * n].view(2, m, n), expected))
        errors.append(float((room[:, m * n :] != 7).sum()))
        sums = torch.full((2, n + 5), 7.0)
        errors.append(relative(sum_rows(expected.float(), sums[:, :n]), expected.sum(1)))
        errors.append(float((sums[:, n:] != 7).sum()))
    return errors


@triton.jit
def _gradients(
    x_ptr, delta_ptr, gradient_ptr, low, inverse, sharpness, KIND: tl.constexpr, ROWS: tl.constexpr,
    TILE: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """The gradient [TILE, OUT] of basis 0 of x [ROWS, TILE] by delta [ROWS, OUT]."""
    b, i, o = tl.arange(0, ROWS), tl.arange(0, TILE), tl.arange(0, OUT)
    x = on_grid(tl.load(x_ptr + b[:, None] * TILE + i[None, :]), low, inverse, KIND, 3)
    terms = gradient_terms(x, 0, inverse, sharpness, KIND, 3, ROWS, False, "tf32x3")
    delta = deltas_of(delta_ptr, b, outputs_of((OUT,)), OUT, ROWS, False, "tf32x3")
    g = gradient_tile(terms, delta[0], False, "tf32x3")
    tl.store(gradient_ptr + i[:, None] * OUT + o[None, :], g)


@triton.jit
def _values(x_ptr, y_ptr, k, low, inverse, sharpness, KIND: tl.constexpr, ORDER: tl.constexpr, N: tl.constexpr):
    """Basis k of x [N]."""
    n = tl.arange(0, N)
    tl.store(y_ptr + n, value(tl.load(x_ptr + n), k, low, inverse, sharpness, KIND, ORDER))


def gradients() -> list[float]:
    """Errors of gradients by float16 halves, as shares of what `scaled_halves` allows.

    Inputs and outputs' gradients are of very different sizes, an output has none, bases are far from their centres, and
    a row without a gradient has features far larger than the others'.
    """
    rows, tile, out, errors = 32, 16, 16, []
    delta = torch.randn(rows, out) * 10 ** torch.linspace(-25, 6, out)
    delta[:, 3] = delta[5] = 0
    wide = torch.randn(rows, tile) * 10 ** torch.linspace(-6, 6, tile)
    wide[5] *= 1e8
    near = torch.rand(rows, tile) * 0.3 + torch.linspace(0, 6, tile)
    ones = torch.ones(tile, dtype=torch.float64)
    for kind, x, phi, largest in (
        ("identity", wide, wide.double(), None), ("silu", wide, torch.nn.functional.silu(wide.double()), None),
        ("radial", near, (-(near.double() ** 2)).exp(), ones), ("switch", near, 1 / near.double().cosh() ** 2, ones),
    ):  # fmt: skip
        found = torch.empty(tile, out)
        _gradients[(1,)](x, delta, found, 0.0, 1.0, 1.0, KIND=KINDS[kind], ROWS=rows, TILE=tile, OUT=out)
        sizes = delta.double().abs()
        lost = torch.outer(phi.abs().amax(0) if largest is None else largest, sizes.amax(0)) * rows * 2**-38
        error = (found - phi.mT @ delta.double()).abs()
        allowed = phi.abs().mT @ sizes * 1e-6 + lost
        errors.append(float((error / allowed.where(allowed > 0, torch.ones(()))).max()))
    return errors


def largest() -> list[float]:
    """The largest values of the bases that gradients take to be at most 1, of every order."""
    x, found = torch.cat([torch.linspace(-9, 9, 1000), 10 ** torch.linspace(1, 30, 24)]), []
    for kind, code in KINDS.items():
        for order in range(1, 6) if code >= KINDS["b_spline"] else ():
            for k in range(6 if kind != "chebyshev" else order + 1):
                y = torch.empty_like(x)
                _values[(1,)](x, y, k, -2.0, 1.5, 2.0, KIND=code, ORDER=order, N=len(x))
                found.append(float(y.abs().max()) / (1 + 1e-6))
    return found


def updates(steps: int = 100, out: int = 130, rows: int = 0) -> dict[str, list]:
    """Steps of three heads, the second of which is given an infinite gradient at three fifths of them.

    With `rows`, the wide tensor's gradient comes as its factors of so many rows; what fills up its rows must stay zero.
    """
    shapes, broken = {"wide": (33, out), "small": (5,)}, steps * 3 // 5
    tensors = {name: torch.randn(3, *shape) for name, shape in shapes.items()}
    lr, decay, clip = torch.tensor([1e-3, 1e-2, 3e-3]), torch.tensor([0.1, 0.0, 0.5]), torch.tensor([1.0, 0.1, 1e9])
    found = FlatAdamW(tensors, lr, decay, clip, ["wide"] if rows else [], rows)
    found.clock[1] = steps
    own = [{n: t[head].double().requires_grad_() for n, t in tensors.items()} for head in range(3)]
    optimisers = [
        torch.optim.AdamW(own[head].values(), lr=float(lr[head]), weight_decay=float(decay[head])) for head in range(3)
    ]
    stopped = None
    for step in range(steps):
        gradients = dict(found.gradients)
        for gradient in gradients.values():
            gradient.normal_()
        if rows:
            gradients["wide"] = torch.randn(3, rows, 33), torch.randn(3, rows, out)
        if step == broken:
            (gradients["wide"][1] if rows else gradients["wide"])[1, 2, 3] = torch.inf
            stopped = {name: tensor[1].clone() for name, tensor in found.tensors.items()}
        wide = gradients | ({"wide": gradients["wide"][0].double().mT @ gradients["wide"][1].double()} if rows else {})
        for head, optimiser in enumerate(optimisers):
            if head == 1 and step >= broken:
                continue
            for name, tensor in own[head].items():
                tensor.grad = wide[name][head].double()
            torch.nn.utils.clip_grad_norm_(own[head].values(), float(clip[head]))
            optimiser.param_groups[0]["lr"] = float(lr[head]) * (1 - step / steps)
            optimiser.step()
        found.step(gradients, torch.zeros(3), 1.0)
    errors = [
        max(relative(found.tensors[name][head], tensor.detach()) for name, tensor in own[head].items())
        for head in range(3)
    ]
    frozen = all(torch.equal(found.tensors[name][1], tensor) for name, tensor in stopped.items())
    for tensor in found.tensors.values():
        tensor.zero_()
    return {
        "errors": errors, "diverged_at": found.diverged_at.tolist(), "frozen": frozen,
        "blocks": -(-33 * out // BLOCK), "filled": int(found._flat.count_nonzero()),
    }  # fmt: skip


def losses() -> list[float]:
    """Class numbers and values, with rows that weigh nothing."""
    errors = []
    weights = torch.tensor([0.2] * 5 + [0.0])
    for classes, targets in ((3, torch.randint(0, 3, (2, 6))), (1, torch.randn(2, 6))):
        outputs = torch.randn(2, 6, classes) * 5
        exact = outputs.double().requires_grad_()
        wide = targets if targets.dtype == torch.int64 else targets.double()
        expected = (row_losses(exact, wide) * weights.double()).sum(1)
        expected.sum().backward()
        found = loss(outputs, targets, weights)
        errors += [relative(found[0], expected.detach()), relative(found[1], exact.grad)]
    return errors


if __name__ == "__main__":
    torch.manual_seed(0)
    found = {
        "products": products(),
        "gradients": gradients(),
        "largest": largest(),
        "losses": losses(),
        "updates": updates(),
    }
    print(json.dumps(found | {"factored": [updates(6, 42, 70), updates(6, 19, 3)]}))
