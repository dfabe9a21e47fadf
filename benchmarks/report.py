"""Size and time of the report of a made-up sweep of 10,000 heads.

    python benchmarks/report.py [--heads 10000]

Three shapes of a sweep, each with four tasks (277 to 1,043 reported rows) and five families: many seeds of few
configurations, ten seeds of many configurations, and one seed of very many (a random search). Writes
benchmarks/report.md.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pipeline.hashing import hash_json
from pipeline.heads.resolve import resolve
from pipeline.metrics import classification_metrics, regression_metrics
from pipeline.sweep.results import Results
from pipeline.tasks import TASKS

PAGE = Path(__file__).with_suffix(".md")
ROWS = {"rte": 277, "mrpc": 408, "sst2": 872, "cola": 1043}
FAMILIES = ("linear", "mlp", "effi_kan", "fast_kan", "faster_kan")
SIZES = {"linear": 770, "mlp": 24_770, "effi_kan": 222_336, "fast_kan": 223_298, "faster_kan": 198_528}


def made_up_results(path, *, rows=None, families=FAMILIES, seeds=10, configurations=1, protocol="clean", gain=None,
                    encoder=lambda _: "minilm", labels=True, epochs=20):  # fmt: skip
    """A results database of heads that answer by rows, seeds and chance; `gain` adds to a family's skill.

    `rows` maps tasks to their reported rows; the k-th configuration has a learning rate of its own. Returns the path.
    """
    gain = gain or {}
    with Results(path, create=True) as store:
        for task, count in (rows or ROWS).items():
            known = TASKS.get(task)
            rng = np.random.default_rng((count, len(task)))
            regression = known is not None and known.labels is None
            truth = rng.normal(3, 1, count) if regression else (rng.random(count) < 0.6).astype(np.int64)
            level = 0.8 * rng.standard_normal(count) + 0.5
            fingerprint = f"{task} {encoder(task)}".encode().hex().ljust(64, "0")
            shared = 0.3 * rng.standard_normal((seeds, count))
            metric = known.main_metric if known else "accuracy"
            majority = {"pearson": None, "spearmanr": None}
            if not regression:
                scores = classification_metrics(np.ones((1, count), np.int64), truth, 2)
                majority = {name: float(value[0]) for name, value in scores.items()}
            names = known.labels if known else ("no", "yes")
            attributes = {"fingerprint": fingerprint, "labels": names, "task": task}
            store.add_cache(attributes, {"validation": truth} if labels else {}, {"validation": majority})
            for family in families:
                store.add(
                    _head(rng, task, family, seed, configuration, protocol, truth, regression, metric, epochs,
                          level + shared[seed] + gain.get(family, 0.0), fingerprint, encoder(task))
                    for configuration in range(configurations) for seed in range(seeds)
                )  # fmt: skip
    return Path(path)


def _head(rng, task, family, seed, configuration, protocol, truth, regression, metric, epochs, level, fingerprint,
          encoder):  # fmt: skip
    rows = len(truth)
    if regression:
        outputs = (truth + rng.standard_normal(rows) / (1 + max(level.mean(), 0)))[:, None].astype(np.float32)
        found = regression_metrics(outputs.T, truth)
    else:
        margin = level + 0.5 * rng.standard_normal(rows)
        outputs = np.stack([np.where(truth == 0, margin, 0), np.where(truth == 1, margin, 0)], 1).astype(np.float32)
        found = classification_metrics(outputs.argmax(1)[None], truth, 2)
    scores = {name: float(value[0]) for name, value in found.items()}
    config = resolve(family, seed=seed, features="mean", protocol=protocol, options={"lr": 1e-3 * (1 + configuration)})
    rise = 1 - np.exp(-np.arange(1, epochs + 1) / 4)
    best = scores.get(metric, scores.get("pearson"))
    return {
        "id": hash_json([task, family, configuration, seed, encoder])[:16],
        "task": task, "cache": task, "pairs": "joint", "row_limit": None, "inputs": 64, "folds": 1, "trained": "head",
        "still_improving": None, "coverage": None, "source": "made up", "encoder": encoder,
        "fingerprint": fingerprint, "head": family,
        "main_metric": metric, "features": "mean", "protocol": protocol, "seed": seed, "config": config.to_json(),
        "status": "trained", "diverged_at": None, "epoch": epochs, "parameters": SIZES[family],
        "flops": 2 * SIZES[family], "fit_seconds": float(rng.lognormal(-1, 0.3)), "train_rows": 9 * rows,
        "device": "cpu", "versions": {"kanglue": version("kanglue")}, "sha256": "0" * 64,
        "metrics": {"validation": scores, "selection": scores},
        "curve": np.stack([0.7 - 0.6 * rise, 0.7 - 0.3 * rise, best * rise], 1) + 0.01 * rng.random((epochs, 3)),
        "outputs": {"validation": outputs},
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=10_000)
    heads = parser.parse_args().heads
    lines = []
    for seeds, configurations in ((heads // 20, 1), (10, heads // 200), (1, heads // 20)):
        with tempfile.TemporaryDirectory() as folder:
            results = made_up_results(Path(folder) / "results.sqlite", seeds=seeds, configurations=configurations)
            page = Path(folder) / "report.html"
            command = [sys.executable, "fit_heads.py", "report", "--results", str(results), "--out", str(page),
                       "--cache", folder]  # fmt: skip
            begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)
            seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
            busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            sizes = [path.stat().st_size / 1e6 for path in (results, page)]
            total = 20 * seeds * configurations
            measured = (f"{sizes[0]:.0f}", f"{seconds:.1f}", f"{busy:.1f}", f"{sizes[1]:.2f}")
            cells = (str(seeds), str(configurations), f"{total:,}", *measured)
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    text = [
        f"# The report of {heads:,} heads",
        "",
        "Made-up sweeps of four tasks (277, 408, 872, 1,043 reported rows) and five families; the whole command,",
        "imports included. Bars: 30 s, 5 MB.",
        "",
        "| seeds | configurations of a family | heads | database MB | seconds | processor seconds | report MB |",
        "|---|---|---|---|---|---|---|",
        *lines,
        "",
        f"`python benchmarks/report.py --heads {heads}` on {os.cpu_count()} cores ({platform.machine()}), busy with "
        f"other work, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "jinja2")) + ".",
    ]  # fmt: skip
    PAGE.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
