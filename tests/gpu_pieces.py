"""Errors of the GPU engines' pieces against PyTorch in float64, as JSON; a script, for Triton's interpreter."""

import json

import torch

from pipeline.fit.gpu.batched import product
from pipeline.fit.gpu.update import BLOCK, FlatAdamW


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def products() -> list[float]:
    """Sums cut into parts, sides turned over, and an output between other numbers, which stay as they are."""
    errors = []
    for m, k, n in ((4, 520, 22), (1, 5, 3), (70, 33, 40)):
        a, b = torch.randn(2, m, k), torch.randn(2, k, n)
        expected = torch.bmm(a.double(), b.double())
        errors.append(relative(product(a, b, precision="ieee"), expected))
        room = torch.full((2, m * n + 5), 7.0)
        turned = a.transpose(1, 2).contiguous().transpose(1, 2), b.transpose(1, 2).contiguous().transpose(1, 2)
        product(*turned, room[:, : m * n].view(2, m, n), precision="ieee")
        errors.append(relative(room[:, : m * n].view(2, m, n), expected))
        errors.append(float((room[:, m * n :] != 7).sum()))
    return errors


def updates() -> dict[str, list]:
    """100 steps of three heads, the second of which is given an infinite gradient at step 60."""
    shapes = {"wide": (33, 130), "small": (5,)}
    tensors = {name: torch.randn(3, *shape) for name, shape in shapes.items()}
    lr, decay, clip = torch.tensor([1e-3, 1e-2, 3e-3]), torch.tensor([0.1, 0.0, 0.5]), torch.tensor([1.0, 0.1, 1e9])
    found = FlatAdamW(tensors, lr, decay, clip)
    found.clock[1] = 100
    own = [{n: t[head].double().requires_grad_() for n, t in tensors.items()} for head in range(3)]
    optimisers = [
        torch.optim.AdamW(own[head].values(), lr=float(lr[head]), weight_decay=float(decay[head])) for head in range(3)
    ]
    for step in range(100):
        for name, gradient in found.gradients.items():
            gradient.normal_()
            if name == "wide" and step == 60:
                gradient[1, 2, 3] = torch.inf
        for head, optimiser in enumerate(optimisers):
            if head == 1 and step >= 60:
                continue
            for name, tensor in own[head].items():
                tensor.grad = found.gradients[name][head].double()
            torch.nn.utils.clip_grad_norm_(own[head].values(), float(clip[head]))
            optimiser.param_groups[0]["lr"] = float(lr[head]) * (1 - step / 100)
            optimiser.step()
        found.step(found.gradients, torch.zeros(3), 1.0)
    errors = [
        max(relative(found.tensors[name][head], tensor.detach()) for name, tensor in own[head].items())
        for head in range(3)
    ]
    return {"errors": errors, "diverged_at": found.diverged_at.tolist(), "blocks": -(-33 * 130 // BLOCK)}


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps({"products": products(), "updates": updates()}))
