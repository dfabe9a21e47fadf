"""How fast packs train, against other packages' own training steps, all in turn in one run."""

import copy
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from pipeline.device import hardware, resolve_device
from pipeline.fit.engine import Epoch
from pipeline.fit.engines import ready_engine
from pipeline.fit.predict import FirstLayer
from pipeline.heads.cost import parameters
from pipeline.heads.families import build_network
from pipeline.heads.initialization import stack, start
from pipeline.heads.resolve import resolve
from pipeline.progress import bar, say

from .baselines import BASELINES, alone, missing, stacked
from .document import Contestant, document, shape_name

__all__ = ["bench"]

#: Rows of the made-up training split: MRPC's.
ROWS = 3668
#: Networks and batch sizes, what matters most first, with their shares of the time.
CELLS: dict[tuple[tuple[int, ...], int], int] = {
    ((768, 64, 2), 4): 4, ((768, 64, 2), 64): 4, ((8, 64, 2), 4): 1, ((8, 64, 2), 64): 1, ((768, 64, 2), 256): 1,
    ((8, 64, 2), 256): 1,
}  # fmt: skip
#: The first cells are measured even when a busy machine has used up the time.
MATTER = 2
#: Heads of our packs, and under `vmap`, by device and inputs.
PACKS = {"cpu": {768: 8, 8: 64}, "cuda": {768: 512, 8: 4096}}
STACKED = {"cpu": {768: 8, 8: 8}, "cuda": {768: 512, 8: 512}}
#: Steps of a visit to a pack, at least: in training, a core keeps a head for all steps of an epoch (57 on MRPC at batch
#: 64), but visits of a step or two would mostly move its state from memory and back.
FEWEST_STEPS = {"cpu": 8, "cuda": 1}
#: Seconds for all cells, and for one visit to a contestant.
LIMIT, VISIT = {True: 28.0, False: 180.0}, {True: 0.1, False: 0.15}
#: Visits, at least, to what the speedups need; turns from one copy to the next, which costs as much as a visit.
FEWEST_VISITS, COPY_EVERY = 5, 3


def bench(*, device: str = "auto", quick: bool = False) -> dict[str, Any]:
    """Measure and compare; the document of `fit_heads.py bench`.

    For every network and batch size the contestants take turns, visit after visit; medians over their visits count.
    Half of the time belongs to the packs and to efficient-kan alone, whose visits stand side by side in every turn.
    `speedup_vs_efficient_kan_batch4` and `_batch64` compare like with like at 768-64-2: a head-step of effi_kan with
    the separate scaler, in a pack, against a step of efficient-kan, which has that scaler, with one head alone and as
    many threads as suit it better (one, or all). `microseconds_per_head_step` is the former at batch 4. The project's
    default, effi_kan without scaler, has figures of its own, with `_without_scaler` in their names.

    In `measured`, `bytes_per_head_step` is what AdamW must move at least (24 a parameter; with a scaler also one more
    read of spline weights and scaler, for clipping), and `share_of_copy_bandwidth` sets that a second against a plain
    copy's bytes read and written, measured in between. `processor_microseconds_per_head_step` adds up what all threads
    ran, spinning included, without the time that other programs took on a busy machine.
    """
    on, began, threads = resolve_device(device), time.perf_counter(), torch.get_num_threads()
    say(f"measuring on {hardware(on)} with {threads} threads: some {LIMIT[quick]:.0f} s")
    cells: list[_Cell] = []
    # Compiling what other packages compile takes minutes: a quick run takes it uncompiled.
    torch.compiler.set_stance("force_eager" if quick else "default")
    try:
        with bar("measuring", len(CELLS), "cells") as progress:
            for (widths, batch), share in CELLS.items():
                progress.describe(f"{shape_name(widths)}, batch {batch}")
                left = began + LIMIT[quick] - time.perf_counter()
                ahead = sum(CELLS.values()) - sum(CELLS[cell.widths, cell.batch] for cell in cells)
                cell = _Cell(widths, batch, on, threads, time.perf_counter() + left * share / ahead, VISIT[quick])
                if left > 0 or len(cells) < MATTER:
                    cell.measure()
                else:
                    cell.left_out.append({"name": "all", "mode": "all", "why": "no time left"})
                cells.append(cell)
                gc.collect()
                progress.advance(1)
    finally:
        torch.compiler.set_stance("default")
        torch.set_num_threads(threads)
    return document(cells, on, threads, quick, time.perf_counter() - began)


class _Cell:
    """All contestants on one network and one batch size."""

    def __init__(
        self, widths: tuple[int, ...], batch: int, on: torch.device, threads: int, end: float, visit: float
    ) -> None:
        self.widths, self.batch, self.on, self.threads, self.end, self.visit = widths, batch, on, threads, end, visit
        self.contestants: list[Contestant] = []
        self.left_out: list[dict[str, Any]] = []
        self.copies: list[float] = []
        self.x = torch.randn(ROWS, widths[0], generator=torch.Generator().manual_seed(0)).mul_(0.7).to(on)
        self.y = torch.arange(ROWS, device=on) % widths[-1]

    def measure(self) -> None:
        """Visit the contestants in turn until the time is up."""
        began = time.perf_counter()
        for name, mode, make in self._builders():
            # Half the time is for visits: on a busy machine the less important stay out.
            why = missing(name, self.widths[0]) if mode != "pack" else None
            if not why and not _needed(name, mode) and time.perf_counter() > (began + self.end) / 2:
                why = "no time left"
            try:
                if not why:
                    for one in make():
                        took = min(self._timed(one, 2) for _ in range(2))
                        fewest = FEWEST_STEPS[self.on.type] if mode == "pack" else 1
                        one.steps = max(fewest, round(self.visit / took / one.heads))
                        self.contestants.append(one)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                why = str(error).partition("\n")[0]
            if why:
                self.left_out.append({"name": name, "mode": mode, "why": why})
        self._visit_all()

    def _visit_all(self) -> None:
        """What the speedups need is visited in every turn, the others one by one for as long as that took."""
        needed = [one for one in self.contestants if _needed(one.name, one.mode)]
        others = [one for one in self.contestants if one not in needed]
        rest, spent = itertools.cycle(others), 0.0
        for turn in itertools.count():
            if turn % COPY_EVERY == 0:
                self.copies.append(_copy(self.on))
            began = time.perf_counter()
            for one in needed:
                if not (turn >= FEWEST_VISITS and _hopeless(one, needed)):
                    self._visit(one)
            spent -= time.perf_counter() - began
            while others and spent < 0 and time.perf_counter() < self.end:
                began = time.perf_counter()
                self._visit(next(rest))
                spent += time.perf_counter() - began
            if turn + 1 >= FEWEST_VISITS and time.perf_counter() >= self.end:
                return

    def _visit(self, one: Contestant) -> None:
        processor = time.process_time()
        one.seconds.append(self._timed(one, one.steps))
        one.processor_seconds.append((time.process_time() - processor) / (one.done * one.heads))

    def _builders(self) -> Iterator[tuple[str, str, Callable[[], list[Contestant]]]]:
        for scaler in (True, False):
            yield "effi_kan", "pack", partial(self._pack, scaler)
        for mode in (self._alone, self._vmap):
            for name in BASELINES:
                yield name, mode.__name__.removeprefix("_"), partial(mode, name)

    def _pack(self, scaler: bool) -> list[Contestant]:
        widths, batch, heads = self.widths, self.batch, PACKS[self.on.type][self.widths[0]]
        options = {"batch_size": batch, "hidden": list(widths[1:-1]), "spline_scaler": scaler, "grid_range": [-1, 1]}
        configs = [resolve("effi_kan", seed=seed, features="pooled", options=options) for seed in range(heads)]
        network = build_network(configs[0], widths[0], widths[-1])
        one = start(configs[0], network)
        tensors = {name: tensor.to(self.on) for name, tensor in stack([one] * heads).items()}
        source = FirstLayer(network, self.x.cpu().numpy(), self.on)
        engine = ready_engine(network, configs, lambda: source, self.y)(network, tensors, configs, source, self.y)
        generator = torch.Generator().manual_seed(1)
        orders = torch.stack([torch.randperm(ROWS, generator=generator) for _ in range(heads)])
        which, epochs = torch.arange(heads), itertools.count()

        def visit(steps: int) -> int:
            steps = min(steps, ROWS // batch)
            engine.run(Epoch(orders[:, : steps * batch].contiguous(), which, batch, next(epochs), 1000))
            return steps

        weights, clipping = parameters(network), 0
        for number, layer in enumerate(network.layers):
            if layer.scaler:
                clipping += 4 * one[f"layers.{number}.scaler"].numel() * (1 + layer.widths[0])
        name = "effi_kan with scaler" if scaler else "effi_kan"
        return [Contestant(name, "pack", heads, self.threads, weights, 24 * weights + clipping, visit)]

    def _network(self, name: str) -> tuple[torch.nn.Module, int]:
        network = BASELINES[name](self.widths).to(self.on)
        return network, sum(one.numel() for one in network.parameters() if one.requires_grad)

    def _alone(self, name: str) -> list[Contestant]:
        network, weights = self._network(name)
        found = []
        for threads in {self.threads, 1 if self.on.type == "cpu" else self.threads}:
            step = alone(copy.deepcopy(network), self.x, self.y, self.batch)
            found.append(Contestant(name, "alone", 1, threads, weights, 24 * weights, _steps(step)))
        return found

    def _vmap(self, name: str) -> list[Contestant]:
        network, weights = self._network(name)
        heads = STACKED[self.on.type][self.widths[0]]
        step, _ = stacked(network, heads, self.x, self.y, self.batch)
        return [Contestant(name, "vmap", heads, self.threads, weights, 24 * weights, _steps(step))]

    def _timed(self, one: Contestant, steps: int) -> float:
        """Seconds a head-step of one visit."""
        torch.set_num_threads(one.threads)
        _wait(self.on)
        began = time.perf_counter()
        one.done = one.visit(steps)
        _wait(self.on)
        return (time.perf_counter() - began) / (one.done * one.heads)


def _needed(name: str, mode: str) -> bool:
    """Whether the speedups need a contestant."""
    return mode == "pack" or (name, mode) == ("efficient_kan", "alone")


def _hopeless(one: Contestant, all_of_them: list[Contestant]) -> bool:
    """Whether the same with another number of threads has been twice as fast: only the faster one counts."""
    return any(
        other.median < one.median / 2 for other in all_of_them if (other.name, other.mode) == (one.name, one.mode)
    )


def _steps(step: Callable[[], None]) -> Callable[[int], int]:
    def visit(steps: int) -> int:
        for _ in range(steps):
            step()
        return steps

    return visit


def _copy(on: torch.device) -> float:
    """Bytes a second that a copy reads and writes, far larger than any cache: the best of three."""
    source = torch.ones(1 << (25 if on.type == "cpu" else 28), device=on)
    target = torch.empty_like(source)
    times = []
    for _ in range(4):
        _wait(on)
        began = time.perf_counter()
        target.copy_(source)
        _wait(on)
        times.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(times[1:])


def _wait(on: torch.device) -> None:
    if on.type == "cuda":
        torch.cuda.synchronize(on)
