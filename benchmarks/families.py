"""Time a training step of every family at equal parameters, beside effi_kan's, in turn in one run.

    python benchmarks/families.py [--device cuda] [--heads N]

On processors two threads train the heads side by side, and the time is processor time, so that other work on the
machine does not count; on a GPU it is the clock's. Prints tables in Markdown; benchmarks/families.md keeps them.
"""

import argparse
import platform
import time

import torch

from pipeline.fit.engine import Epoch
from pipeline.fit.engines import choose_engine
from pipeline.fit.predict import FirstLayer
from pipeline.heads.cost import parameters
from pipeline.heads.families import PACKABLE, build_network
from pipeline.heads.initialization import stack, start
from pipeline.heads.match import cost_of, fit_widths
from pipeline.heads.resolve import resolve

INPUTS, CLASSES, ROUNDS = 768, 2, 21
#: Steps of an epoch by batch; on a GPU many times more, so that its end is not what is timed.
STEPS = {4: 40, 64: 10}
GPU_FACTOR = 10


class Contestant:
    """One family's pack, ready to train epochs of a few steps."""

    def __init__(self, head: str, batch: int, heads: int, device: torch.device, budget: int | None) -> None:
        def config(hidden: tuple[int, ...], seed: int = 0):
            return resolve(head, seed=seed, features="mean", options={"batch_size": batch, "hidden": hidden})

        hidden = (64,)
        if budget is not None:
            hidden = fit_widths((64,), budget, lambda widths: cost_of(config(widths), INPUTS, CLASSES, "params"))
        configs = [config(hidden, seed) for seed in range(heads)]
        self.network, self.device, self.hidden, self.batch = (
            build_network(configs[0], INPUTS, CLASSES),
            device,
            hidden,
            batch,
        )
        tensors = {n: t.to(device) for n, t in stack([start(one, self.network) for one in configs]).items()}
        generator = torch.Generator().manual_seed(0)
        self.steps = STEPS[batch] * (GPU_FACTOR if device.type == "cuda" else 1)
        self.rows = batch * self.steps
        x = torch.randn(self.rows, INPUTS, generator=generator)
        targets = torch.randint(0, CLASSES, (self.rows,), generator=generator).to(device)
        kind = choose_engine(self.network, configs[0], device)
        self.name, self.heads, self.number, self.best = kind.__name__, heads, 0, float("inf")
        self.engine = kind(self.network, tensors, configs, FirstLayer(self.network, x.numpy(), device), targets)
        self.order = torch.stack([torch.randperm(self.rows, generator=generator) for _ in configs])

    def round(self) -> None:
        """Train one epoch; keep the shortest time of a head's step, in milliseconds."""
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        begin = clock()
        self.engine.run(Epoch(self.order, torch.arange(self.heads), self.batch, self.number, ROUNDS))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.number += 1
        if self.number > 1:
            self.best = min(self.best, (clock() - begin) / self.steps / self.heads * 1e3)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--heads", type=int, default=2)
    chosen = options.parse_args()
    device = torch.device(chosen.device)
    torch.set_num_threads(2)
    budget = cost_of(resolve("effi_kan", seed=0, features="mean"), INPUTS, CLASSES, "params")
    where = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{where}, torch {torch.__version__}, {chosen.heads} heads, {INPUTS} inputs, budget {budget:,} parameters\n")
    for batch in STEPS:
        families = [name for name in PACKABLE if name != "linear"]
        packs = {name: Contestant(name, batch, chosen.heads, device, budget) for name in families}
        for _ in range(ROUNDS):
            for pack in packs.values():
                pack.round()
        unit = packs["effi_kan"].best
        print(f"Batch {batch}:\n\n| family | hidden | parameters | engine | ms a head-step | of effi_kan's |")
        print("|---|---|---|---|---|---|")
        for name, pack in packs.items():
            cells = (name, pack.hidden[0], f"{parameters(pack.network):,}", pack.name, f"{pack.best:.3f}")
            print("|", " | ".join(map(str, cells)), f"| {pack.best / unit:.2f} |")
        print()


if __name__ == "__main__":
    main()
