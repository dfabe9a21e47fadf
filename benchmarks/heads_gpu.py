"""Measure packs of heads on an NVIDIA GPU: correctness first, then speed against the copy bandwidth and other code.

    python benchmarks/heads_gpu.py [--only check,bars,small,families,rivals,recipe] [--variants '[{"batch": 64, ...}]']

The floor is 24 bytes a parameter (27.6 with the separate scaler) at the copy bandwidth of the same run.
"""

import argparse
import importlib.metadata
import itertools
import json
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.fit.data import FitData, fit_scaling
from pipeline.fit.engine import Engine, Epoch
from pipeline.fit.engines import choose_engine
from pipeline.fit.predict import FirstLayer
from pipeline.fit.rivals import RIVALS, alone, missing, stacked
from pipeline.fit.train import train_pack
from pipeline.heads.config import HeadConfig
from pipeline.heads.cost import parameters
from pipeline.heads.families import build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.network import NetworkSpec
from pipeline.heads.resolve import resolve
from pipeline.heads.starts import stack, start
from pipeline.tasks import TASKS

ROWS = 3668
GPU = torch.device("cuda")


def copy_bandwidth() -> float:
    """Bytes a second read and written by a copy far larger than any cache."""
    source = torch.randn(1 << 28, device=GPU)
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(20):
        target.copy_(source)
    torch.cuda.synchronize()
    return 20 * 2 * source.nbytes / (time.perf_counter() - begin)


class Pack:
    """Heads with starts, rows and an engine."""

    def __init__(
        self, head: str, *, batch: int, heads: int, inputs: int = 768, rows: int = ROWS, scaler: bool = False,
        distinct: bool = False, engine: type[Engine] | None = None, changes: dict | None = None, classes: int = 2,
        **options,
    ) -> None:  # fmt: skip
        if head == "effi_kan":
            options["spline_scaler"] = scaler
        per_head = {name: options.pop(name) for name in ("lr", "clip") if isinstance(options.get(name), list)}
        self.configs = [
            resolve(head, seed=seed, features="mean", options={"batch_size": batch} | options
                    | {name: values[seed] for name, values in per_head.items()})
            for seed in range(heads)
        ]  # fmt: skip
        self.batch, self.heads = batch, heads
        self.network = build_network(self.configs[0], inputs, classes)
        starts = [start(config, self.network) for config in (self.configs if distinct else self.configs[:1])]
        tensors = {name: tensor.to(GPU) for name, tensor in stack(starts).items()}
        if not distinct:
            tensors = {name: tensor.expand(heads, *tensor.shape[1:]).contiguous() for name, tensor in tensors.items()}
        self.start = tensors
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(rows, inputs, generator=generator)
        self.y = torch.randint(0, classes, (rows,), generator=generator).to(GPU)
        kind = engine or choose_engine(self.network, self.configs[0], GPU)
        source = FirstLayer(self.network, self.x.numpy(), GPU)
        own = {name: tensor.clone() for name, tensor in tensors.items()}
        self.engine = kind(self.network, own, self.configs, source, self.y, **(changes or {}))

    def epoch(self, rows: int, number: int = 0, of: int = 3) -> Epoch:
        """Every head has an order of its own."""
        generator = torch.Generator().manual_seed(number + 1)
        order = torch.stack([torch.randperm(len(self.x), generator=generator)[:rows] for _ in range(self.heads)])
        return Epoch(order, torch.arange(self.heads), self.batch, number, of)

    def microseconds(self, steps: int, repeats: int = 3) -> float:
        """Median time of a head-step."""
        # An epoch of so many that no step comes after the last: there a rate would be below zero, as if frozen.
        epoch = self.epoch(min(len(self.x) // self.batch, steps) * self.batch, of=repeats + 1)
        self.engine.run(epoch)
        torch.cuda.synchronize()
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            self.engine.run(epoch)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return statistics.median(times) / epoch.steps / self.heads * 1e6


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


def bars(bandwidth: float, cells: Sequence[dict]) -> None:
    """Time of a head-step against the floor."""
    print("| family | inputs | batch | heads | us a head-step | floor | share | engine |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for cell in cells:
        cell = dict(cell)
        head, batch, heads = cell.pop("head", "effi_kan"), cell.pop("batch"), cell.pop("heads", 512)
        steps, repeats = cell.pop("steps", 60), cell.pop("repeats", 3)
        try:
            pack = Pack(head, batch=batch, heads=heads, **cell)
            took = pack.microseconds(steps, repeats)
        except RuntimeError as error:
            print(f"{head} {batch} {cell}: {error!r:.300}")
            continue
        scaler = any(layer.scaler for layer in pack.network.layers)
        floor = (27.6 if scaler else 24) * parameters(pack.network) / bandwidth * 1e6
        told = " ".join(f"{name}={value}" for name, value in cell.items() if name != "inputs")
        print(
            f"| `{head}` {told} | {pack.network.inputs} | {batch} | {heads} | {took:.4f} | {floor:.3f} | "
            f"{floor / took:.1%} | {type(getattr(pack.engine, 'parts', [pack.engine])[0]).__name__} |",
            flush=True,
        )
        del pack
        torch.cuda.empty_cache()


def rivals() -> None:
    """efficient-kan alone and under vmap, at batch 4, and packs beside them."""
    x = torch.randn(ROWS, 768, device=GPU)
    y = torch.randint(0, 2, (ROWS,), device=GPU)
    if why := missing("efficient_kan", 768):
        print(f"efficient-kan: {why}, not compared; python -m pip install --no-deps kan-gpt brings it")
        return
    network = RIVALS["efficient_kan"]((768, 64, 2)).to(GPU)

    def timed(step, count: int) -> float:
        for _ in range(3):
            step()
        times = []
        for _ in range(3):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(count):
                step()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - begin) / count)
        return statistics.median(times) * 1e6

    ours = {name: Pack("effi_kan", batch=4, heads=512, scaler=name == "scaler").microseconds(100) for name in
            ("no scaler", "scaler")}  # fmt: skip
    lone = timed(alone(network, x, y, 4), 100)
    many = timed(stacked(network, 512, x, y, 4)[0], 5) / 512
    print(f"efficient-kan alone {lone:.0f} us a step, vmap over 512 {many:.2f} us a head-step, batch 4")
    for name, took in ours.items():
        print(f"  effi_kan, {name}: {took:.2f} us a head-step: {lone / took:.0f} times alone, {many / took:.1f} vmap")


def recipe(heads: int = 512, protocol: str = "published") -> None:
    """The whole published recipe on data of MRPC's size."""
    generator = np.random.default_rng(0)
    features = {name: generator.standard_normal((rows, 768), dtype=np.float32) * 0.5
                for name, rows in (("train", ROWS), ("validation", 408))}  # fmt: skip
    labels = {name: generator.integers(0, 2, len(x)) for name, x in features.items()}
    data = FitData(TASKS["mrpc"], "0" * 64, features, labels, fit_scaling("none", features["train"]))
    configs: list[HeadConfig] = [
        resolve("effi_kan", seed=seed, features="mean", protocol=protocol, options={}) for seed in range(heads)
    ]
    torch.cuda.synchronize()
    ends = [time.perf_counter()]
    done = train_pack(configs, data, GPU, lambda: ends.append(time.perf_counter()))
    end = time.perf_counter()
    epochs = ", ".join(f"{after - before:.2f}" for before, after in itertools.pairwise(ends))
    print(f"{protocol} recipe, {heads} effi_kan heads: {end - ends[0]:.1f} s; epochs (the first with setup) {epochs}; "
          f"outcomes {end - ends[-1]:.2f}; best epochs {sorted({one.epoch for one in done})}")  # fmt: skip


CASES = [
    ("effi_kan", {}), ("effi_kan", {"scaler": True}), ("mlp", {}), ("linear", {}), ("fast_kan", {}),
    ("faster_kan", {}), ("fourier_kan", {}), ("cheby_kan", {}), ("effi_kan", {"inputs": 8}),
    ("mlp", {"hidden": (575,)}), ("bspline_mlp", {"hidden": (569,)}), ("ensemble_kan", {"hidden": (22,)}),
]  # fmt: skip
BARS = [
    {"batch": 4}, {"batch": 64}, {"batch": 4, "scaler": True}, {"batch": 64, "scaler": True},
]  # fmt: skip
SMALL = [
    {"head": head, "batch": 4, "inputs": 8, "heads": 4096, "steps": 900}
    for head in ("effi_kan", "mlp", "fourier_kan", "cheby_kan")
]
FAMILIES = [
    {"head": head, "batch": batch} for head in ("mlp", "linear", "fast_kan", "faster_kan", "fourier_kan", "cheby_kan")
    for batch in (4, 64)
] + [
    {"head": head, "batch": batch, "hidden": (hidden,)} for batch in (4, 64)
    for head, hidden in (("mlp", 575), ("bspline_mlp", 569), ("ensemble_kan", 22), ("effi_kan", 192))
]  # fmt: skip


def main() -> None:
    """Print everything as Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="check,bars,small,families,rivals,recipe")
    parser.add_argument("--variants", default="[]")
    given = parser.parse_args()
    only = given.only.split(",")
    torch.manual_seed(0)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "triton")}
    print(torch.cuda.get_device_name(), versions)
    if "check" in only:
        check(CASES)
    bandwidth = copy_bandwidth()
    print(f"copy: {bandwidth / 1e12:.2f} TB/s read and written")
    for name, cells in (("bars", BARS), ("small", SMALL), ("families", FAMILIES)):
        if name in only:
            bars(bandwidth, cells)
    bars(bandwidth, json.loads(given.variants))
    if "rivals" in only:
        rivals()
    if "recipe" in only:
        recipe()


if __name__ == "__main__":
    main()
