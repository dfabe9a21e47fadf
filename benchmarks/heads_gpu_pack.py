"""Packs of heads with starts, rows and orders of minibatches on a GPU, for what is measured there."""

import statistics
import time

import torch

from pipeline.fit.engine import Engine, Epoch
from pipeline.fit.engines import choose_engine
from pipeline.fit.predict import FirstLayer
from pipeline.heads.families import build_network
from pipeline.heads.initialization import stack, start
from pipeline.heads.resolve import resolve

ROWS = 3668
GPU = torch.device("cuda")


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
