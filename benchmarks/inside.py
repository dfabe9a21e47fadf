"""What the page docs/inside.md claims, measured: formulas found back, moons, a text task, finer grids, forgetting.

    python benchmarks/inside.py OUT [--cache DIR with minilm/mrpc.h5] [--seeds 0:10] [--only formula,moons,...]

Writes OUT/inside.json; each part is one command of fit_heads.py in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.sources.expressions import numeric, parse_formula

ROOT = Path(__file__).parents[1]
TRUTH = "exp(sin(pi*x) + y**2)"


def processor_seconds() -> float:
    """What finished children used, user and system."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(program: str, *arguments: object) -> dict:
    """A command's document, with its wall-clock and processor seconds."""
    begin, spent = time.perf_counter(), processor_seconds()
    done = subprocess.run(
        [sys.executable, ROOT / program, *map(str, arguments), "--json"], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        sys.exit(f"{program} {' '.join(map(str, arguments))}: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout)
    return found | {"wall": time.perf_counter() - begin, "processor": processor_seconds() - spent}


def formula(places: tuple, cache: Path, seeds: range) -> list[dict]:
    """For every seed: the head's test RMSE, the formula, and its largest distance from the truth on a grid."""
    command("embed.py", "toy", "formula", "--cache", cache)
    side = np.linspace(-1, 1, 41)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    true = numeric(*parse_formula(TRUTH))(grid)
    rows = []
    for seed in seeds:
        found = command("fit_heads.py", "explain", "--task", "formula", "--hidden", 5, "--seed", seed, *places)
        text = found["formulas"][0]["text"] if found.get("formulas") else None
        distance = float("inf")
        if text is not None and {"x", "y"} == set(parse_formula(text)[1]):
            distance = float(np.abs(numeric(*parse_formula(text))(grid) - true).max())
        rows.append({"seed": seed, "rmse": found["head_scores"]["rmse"], "formula": text, "largest_distance": distance,
                     "edges": found["pruned"]["edges"], "wall": found["wall"],
                     "processor": found["processor"]})  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def measure(name: str, options: argparse.Namespace) -> object:
    """One part by name."""
    own = options.out / "cache"
    places = ("--cache", own, "--results", options.out / "runs/results.sqlite")
    seeds = f"{options.seeds.start}:{options.seeds.stop}"
    if name == "formula":
        return formula(places, own, options.seeds)
    if name == "moons":
        command("embed.py", "toy", "moons", "--cache", own)
        return [command("fit_heads.py", "explain", "--task", "moons", "--seed", s, *places) for s in range(3)]
    if name == "mrpc":
        text = ("--cache", options.cache, "--results", options.out / "text/results.sqlite")
        return command("fit_heads.py", "explain", "--task", "mrpc", "--encoder", "minilm", *text)
    if name == "refine":
        command("embed.py", "toy", "formula", "--cache", own)
        heads = [command("fit_heads.py", "run", "formula", "--head", "kan", "--seed", s, *places) for s in range(3)]
        return [command("fit_heads.py", "refine", one["id"], "--grid", "10,20", *places) for one in heads]
    if name == "peaks":
        return command("fit_heads.py", "continual", "--scenario", "peaks", "--seeds", seeds, *places)
    command("embed.py", "toy", "digits", "--cache", own)
    reduced = ("--features", "reduced", "--epochs", 15, "--seeds", seeds)
    return command("fit_heads.py", "continual", "digits", *reduced, *places)


def main() -> None:
    """Measure the parts that were asked for; what was measured before stays in the file."""
    parts = ("formula", "moons", "mrpc", "refine", "peaks", "digits")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--seeds", type=lambda text: range(*map(int, text.split(":"))), default=range(10))
    parser.add_argument("--only", default=",".join(parts))
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.cache = options.cache.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "inside.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for part in options.only.split(","):
        found[part] = measure(part, options)
        file.write_text(json.dumps(found, indent=1))
        print(part, "done", flush=True)


if __name__ == "__main__":
    main()
