"""What a sweep on processors spends besides training, whether packs change numbers, and how soon a done sweep answers.

    python benchmarks/heads_cpu.py shares|same|stored      (figures: heads_cpu.md; training steps: fit_heads.py bench)

Made-up features of MRPC's sizes: 3,668 training and 408 validation rows, 768 wide. Shares are of
processor time, all threads together, so that other processes matter little.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.fit import train
from pipeline.fit.data import FitData, fit_scaling
from pipeline.heads.resolve import resolve
from pipeline.tasks import TASKS

ROWS = {"train": 3668, "validation": 408}
WIDTH = 768
ROOT = Path(__file__).parents[1]


def made_up(scale: str, rows: dict[str, int] = ROWS) -> FitData:
    generator = np.random.default_rng(0)
    features = {split: generator.normal(size=(count, WIDTH)).astype(np.float32) for split, count in rows.items()}
    noise = {split: generator.normal(size=count) for split, count in rows.items()}
    labels = {split: (x[:, 0] + x[:, 1] + noise[split] > -0.5).astype(np.int64) for split, x in features.items()}
    scaling = fit_scaling(scale, features["train"])
    return FitData(TASKS["mrpc"], "0" * 64, {split: scaling.apply(x) for split, x in features.items()}, labels, scaling)


def configs(head: str, protocol: str, heads: int, **options):
    return [
        resolve(
            head, seed=seed % 8, features="pooled", protocol=protocol, options={"lr": 1e-3 * (1 + seed // 8)} | options
        )
        for seed in range(heads)
    ]


def shares() -> dict:
    """Processor seconds of setting up, training, choosing epochs and final outputs of one pack of each kind."""
    found = []
    for head, protocol, epochs in (
        ("effi_kan", "clean", 5), ("effi_kan", "published", 2), ("fast_kan", "clean", 2), ("mlp", "clean", 20),
        ("linear", "clean", 20),
    ):  # fmt: skip
        spent = {"setting up": 0.0, "training": 0.0, "choosing": 0.0, "final": 0.0}

        def timed(function, name, spent=spent):
            def call(*args, **kwargs):
                began = time.process_time()
                try:
                    return function(*args, **kwargs)
                finally:
                    spent[name] += time.process_time() - began

            return call

        originals = {name: getattr(train._Pack, name) for name in ("__init__", "run_epoch", "select", "outcomes")}
        for (name, function), what in zip(originals.items(), spent, strict=True):
            setattr(train._Pack, name, timed(function, what))
        one = configs(head, protocol, 8, epochs=epochs)
        train.train_pack(one, made_up(one[0].scale), torch.device("cpu"))
        for name, function in originals.items():
            setattr(train._Pack, name, function)
        total = sum(spent.values())
        found.append(
            {"head": head, "protocol": protocol, "epochs": one[0].epochs, "processor_seconds": round(total, 2)}
            | {f"share of {name}": round(value / total, 4) for name, value in spent.items()}
        )
        print(found[-1], file=sys.stderr, flush=True)
    return {"shares": found}


def same(heads: int = 512) -> dict:
    """One epoch of a head in a pack and alone, 768-64-2: largest difference of logits over their spread."""
    one = configs("effi_kan", "clean", heads, epochs=1)
    data = made_up("standard")
    pack = train.train_pack(one, data, torch.device("cpu"))
    worst = 0.0
    for place in (0, heads // 2, heads - 1):
        (alone,) = train.train_pack([one[place]], data, torch.device("cpu"))
        ours, theirs = pack[place].outputs["validation"], alone.outputs["validation"]
        worst = max(worst, float(np.abs(ours - theirs).max() / theirs.std()))
    return {"heads": heads, "largest_difference_over_spread": worst}


def stored(heads: int = 1000) -> dict:
    """Seconds until a sweep answers whose results all exist."""
    sys.path.insert(0, str(ROOT))
    from tests.helpers.synthetic_caches import write_cache

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_cache(root / "cache", "mrpc", "tiny")
        command = [
            sys.executable, str(ROOT / "fit_heads.py"), "sweep", "--task", "mrpc", "--encoder", "tiny", "--head",
            "linear,mlp", "--seeds", f"0:{heads // 2}", "--epochs", "1", "--json", "--device", "cpu",
            "--cache", str(root / "cache"), "--results", str(root / "runs/results.sqlite"),
        ]  # fmt: skip
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            seconds.append(time.perf_counter() - began)
        assert (done["trained"], done["skipped"]) == (0, heads)
    return {"heads": heads, "first": round(seconds[0], 2), "again": [round(one, 2) for one in seconds[1:]]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("shares", "same", "stored"))
    print(json.dumps({"shares": shares, "same": same, "stored": stored}[parser.parse_args().what](), indent=1))
