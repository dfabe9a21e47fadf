"""Measure packs of heads on an NVIDIA GPU: correctness first, then speed against the copy bandwidth and other code.

    python benchmarks/heads_gpu.py [--only check,bars,...] [--variants '[{"batch": 64, ...}]']

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
from bench.baselines import BASELINES, alone, missing, stacked
from heads_gpu_check import CASES, check
from heads_gpu_pack import GPU, ROWS, Pack

from pipeline.fit.data import FitData, fit_scaling
from pipeline.fit.train import train_pack
from pipeline.heads.config import HeadConfig
from pipeline.heads.cost import parameters
from pipeline.heads.resolve import resolve
from pipeline.tasks import TASKS


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


def baselines() -> None:
    """efficient-kan alone and under vmap, at batch 4, and packs beside them."""
    x = torch.randn(ROWS, 768, device=GPU)
    y = torch.randint(0, 2, (ROWS,), device=GPU)
    if why := missing("efficient_kan", 768):
        print(f"efficient-kan: {why}, not compared; python -m pip install --no-deps kan-gpt brings it")
        return
    network = BASELINES["efficient_kan"]((768, 64, 2)).to(GPU)

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
]  # fmt: skip
#: Hidden widths that `--match params` gives for effi_kan's 443,520 parameters, as in families.md.
EQUAL = [
    {"head": head, "batch": batch, "hidden": (hidden,)} for batch in (4, 64)
    for head, hidden in (("effi_kan", 64), ("mlp", 575), ("fast_kan", 64), ("faster_kan", 72), ("fourier_kan", 58),
                         ("cheby_kan", 144), ("bspline_mlp", 569), ("ensemble_kan", 22))
]  # fmt: skip
WIDER = [{"head": "effi_kan", "batch": batch, "hidden": (hidden,)} for hidden in (96, 128, 192) for batch in (4, 64)]


def main() -> None:
    """Print everything as Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="check,bars,small,families,equal,wider,baselines,recipe")
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
    parts = {"bars": BARS, "small": SMALL, "families": FAMILIES, "equal": EQUAL, "wider": WIDER}
    for name, cells in parts.items():
        if name in only:
            bars(bandwidth, cells)
    bars(bandwidth, json.loads(given.variants))
    if "baselines" in only:
        baselines()
    if "recipe" in only:
        recipe()


if __name__ == "__main__":
    main()
