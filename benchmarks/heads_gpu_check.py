"""Correctness of every family's kernels on a GPU, as Markdown: gradients, AdamW, packs and alone, diverging heads.

Run by `benchmarks/heads_gpu.py --only check`.
"""

from collections.abc import Sequence

import torch
from heads_gpu_pack import GPU, ROWS, Pack
from torch import Tensor

from pipeline.fit.engine import Epoch
from pipeline.heads.forward import network_forward
from pipeline.heads.network import NetworkSpec

CASES = [
    ("effi_kan", {}), ("effi_kan", {"scaler": True}), ("mlp", {}), ("linear", {}), ("fast_kan", {}),
    ("faster_kan", {}), ("fourier_kan", {}), ("cheby_kan", {}), ("effi_kan", {"inputs": 8}),
    ("mlp", {"hidden": (575,)}), ("bspline_mlp", {"hidden": (569,)}), ("ensemble_kan", {"hidden": (22,)}),
    ("faster_kan", {"hidden": (72,)}), ("effi_kan", {"hidden": (96,), "scaler": True}),
]  # fmt: skip


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def logits(network: NetworkSpec, x: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Logits [heads, rows, classes] of rows x [rows, inputs]."""
    heads = len(next(iter(tensors.values())))
    return network_forward(network, x.to(GPU).expand(heads, *x.shape), tensors)


def gradient_error(head: str, batch: int, **options) -> float:
    """Gradients of the first step, read from the first moments, against float64 autograd; the worst of the heads."""
    pack = Pack(head, batch=batch, heads=3, rows=batch, distinct=True, clip=float("inf"), **options)
    epoch = pack.epoch(batch)
    pack.engine.run(epoch)
    found = pack.engine.first_moments()
    wide = {name: tensor.double().requires_grad_() for name, tensor in pack.start.items()}
    x, y = pack.x.to(GPU)[epoch.order.to(GPU)].double(), pack.y[epoch.order.to(GPU)]
    out = network_forward(pack.network, x, wide)
    torch.nn.functional.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum").div(batch).backward()
    worst = 0.0
    for one in range(3):
        error = sum((found[name][one].double() * 10 - wide[name].grad[one]).norm() ** 2 for name in wide) ** 0.5
        size = sum(wide[name].grad[one].norm() ** 2 for name in wide) ** 0.5
        worst = max(worst, float(error / size))
    return worst


def optimiser_error(head: str, batch: int, **options) -> tuple[float, float]:
    """Weights after 100 steps against torch.optim.AdamW in float64, relative to the weights' norm: the worst tensor.

    First with float64 gradients at the weights that the engine has before each step, so that the optimiser alone is
    compared; then with a training of its own, whose weights may lead to other gradients.
    """
    worst = []
    for follows in (True, False):
        pack = Pack(head, batch=batch, heads=2, rows=100 * batch, distinct=True, lr=1e-3, **options)
        order = pack.epoch(100 * batch, of=1).order.view(2, 100, batch)
        own = [{name: tensor[one : one + 1].double().requires_grad_() for name, tensor in pack.start.items()}
               for one in range(2)]  # fmt: skip
        optimisers = [torch.optim.AdamW(one.values(), lr=pack.configs[0].lr, weight_decay=pack.configs[0].weight_decay)
                      for one in own]  # fmt: skip
        for step in range(100):
            for one, optimiser in enumerate(optimisers):
                at = own[one]
                if follows:
                    now = pack.engine.tensors
                    at = {name: now[name][one : one + 1].double().requires_grad_() for name in at}
                rows = order[one, step].to(GPU)
                out = network_forward(pack.network, pack.x.to(GPU)[rows].double().unsqueeze(0), at)
                torch.nn.functional.cross_entropy(out[0], pack.y[rows]).backward()
                for name, tensor in at.items():
                    own[one][name].grad = tensor.grad
                torch.nn.utils.clip_grad_norm_(own[one].values(), pack.configs[0].clip)
                for group in optimiser.param_groups:
                    group["lr"] = pack.configs[0].lr * (1 - step / 100)
                optimiser.step()
                optimiser.zero_grad()
            pack.engine.run(Epoch(order[:, step], torch.arange(2), batch, step, 100))
        worst.append(max(relative(pack.engine.tensors[name][one], tensor[0].detach())
                         for one in range(2) for name, tensor in own[one].items()))  # fmt: skip
    return worst[0], worst[1]


def alone_error(head: str, batch: int, heads: int = 512, **options) -> float:
    """Logits after an epoch, in a pack and alone, relative to their spread: the worst of three heads."""
    many = Pack(head, batch=batch, heads=heads, **options)
    epoch = many.epoch(ROWS, of=1)
    many.engine.run(epoch)
    worst = 0.0
    for one in (0, heads // 2, heads - 1):
        single = Pack(head, batch=batch, heads=1, **options)
        single.engine.run(Epoch(epoch.order[one : one + 1], torch.zeros(1, dtype=torch.int64), batch, 0, 1))
        own = {name: tensor[one : one + 1] for name, tensor in many.engine.tensors.items()}
        expected = logits(single.network, single.x, single.engine.tensors)
        worst = max(worst, float((logits(many.network, many.x, own) - expected).abs().max() / expected.std()))
    return worst


def check(cases: Sequence[tuple[str, dict]]) -> None:
    """Correctness of every family's kernels."""
    print("| family | batch | gradient, float64 autograd | 100 steps of torch.optim.AdamW, same weights / own weights "
          "| pack of 512 and alone | engine |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---|")
    for head, options in cases:
        for batch in (4, 64):
            try:
                pair = optimiser_error(head, batch, **options)
                found = [
                    f"{gradient_error(head, batch, **options):.1e}", f"{pair[0]:.1e} / {pair[1]:.1e}",
                    f"{alone_error(head, batch, **options):.1e}",
                    type(Pack(head, batch=batch, heads=1, **options).engine).__name__,
                ]  # fmt: skip
            except RuntimeError as error:
                found = [repr(error)[:200]]
            print(f"| `{head}` {options or ''} | {batch} | " + " | ".join(found) + " |", flush=True)
    steady = Pack("effi_kan", batch=4, heads=3, lr=[1e-3, 1e-3, 1e-3])
    broken = Pack("effi_kan", batch=4, heads=3, lr=[1e-3, 1e30, 1e-3])
    for pack in (steady, broken):
        pack.engine.run(pack.epoch(400))
    same = all(torch.equal(broken.engine.tensors[n][[0, 2]], t[[0, 2]]) for n, t in steady.engine.tensors.items())
    print(f"diverging head: frozen at step {broken.engine.diverged_at.tolist()}, neighbours unchanged: {same}")
