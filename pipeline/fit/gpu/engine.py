"""The engine for NVIDIA GPUs: the pack in parts, each a stream that replays a step of few launches."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from pipeline.fit.engine import Epoch, head_vectors
from pipeline.fit.gpu.bases import KINDS
from pipeline.fit.gpu.part import Part
from pipeline.fit.gpu.small_part import SmallPart, stays_on_chip
from pipeline.fit.gpu.stack import Rows, passes
from pipeline.fit.gpu.tuning import Tuning, padded_rows, row_stride
from pipeline.fit.predict import FirstLayer
from pipeline.heads.config import HeadConfig
from pipeline.heads.forward import NORM_EPSILON, expand
from pipeline.heads.network import LayerSpec, NetworkSpec

__all__ = ["TritonEngine", "supports"]

#: Largest minibatch, hidden width and number of classes that fit the kernels' registers.
MOST_ROWS, MOST_HIDDEN, MOST_CLASSES = 128, 128, 16
#: Share of a device's memory that the products of all pairs of rows may take.
TABLE_SHARE = 1 / 16
#: Numbers that the expansion of a slice of the inputs may have while these products are made.
SLICE_NUMBERS = 1 << 26


def supports(network: NetworkSpec, config: HeadConfig) -> bool:
    """Whether the kernels cover a network: stacks of one or two layers of at most two bases, the second of width 1."""
    layers = network.layers
    if config.extras or config.batch_size > MOST_ROWS or len(network.chains[0]) > 2:
        return False
    if any(layer.units for layer in layers):
        return False
    known = all(branch.basis in KINDS for layer in layers for branch in layer.branches)
    bases = all(len(layer.branches) == 1 or layer.widths[1:] == (1,) for layer in layers)
    return known and bases and layers[0].outputs <= MOST_HIDDEN and network.outputs <= MOST_CLASSES


def _memory(device: torch.device) -> int:
    """Bytes of a GPU, whether in use or not; of the interpreter a GiB."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 1 << 30


def products_of_rows(layer: LayerSpec, features: Tensor) -> Tensor:
    """Products [rows, rows] of all pairs of rows' expansions, slice of inputs by slice of inputs."""
    rows = len(features)
    table = torch.zeros(rows, rows, device=features.device)
    chunk = max(1, SLICE_NUMBERS // (rows * sum(layer.widths)))
    for start in range(0, layer.inputs, chunk):
        part = features[:, start : start + chunk]
        phi = expand(replace(layer, inputs=part.shape[1]), part)
        table.addmm_(phi, phi.T)
    return table


def _make_ready(kernel: Any) -> None:
    """Wait until a kernel is compiled, then compile what launches it; raises `OutOfResources` where it does not fit.

    Each time: `CompiledKernel.run` would raise the first time alone.
    """
    compiled = kernel.result() if hasattr(kernel, "result") else kernel
    _ = compiled[(1, 1, 1)]


class TritonEngine:
    """Trains all heads of a pack side by side on one GPU (or, for tests, under Triton's interpreter)."""

    def __init__(
        self, network: NetworkSpec, tensors: dict[str, Tensor], configs: Sequence[HeadConfig], source: FirstLayer,
        targets: Tensor, *, tuning: Tuning | None = None, **changes: int | str,
    ) -> None:  # fmt: skip
        """`tensors` [heads, ...] are copied; `changes` replace fields of the tuning."""
        self.network, self.device, heads = network, targets.device, len(configs)
        self.batch = configs[0].batch_size
        padded = padded_rows(network, self.batch)
        tuning = replace(tuning or Tuning.chosen(network, padded, heads), **changes)
        self._small_heads = stays_on_chip(network, self.batch)
        self._lay_out(tensors, heads)
        vectors = head_vectors(configs, self.device)
        vectors[2].clamp_(max=3e38)
        self.diverged_at = torch.full((heads,), -1, dtype=torch.int64, device=self.device)
        self._total = torch.zeros(heads, device=self.device)
        self._order: Tensor | None = None
        rows = self._rows(source, targets, tuning.table)
        kind = SmallPart if rows.expansion is not None else Part
        count = min(tuning.parts, heads) if kind is Part else 1
        bounds = [heads * part // count for part in range(count + 1)]
        self.slices = [slice(*pair) for pair in itertools.pairwise(bounds)]
        self.parts = [
            kind(
                network, rows, tuning, batch=self.batch, padded=padded,
                tensors={name: self.tensors[name][own] for name in self._moments},
                moments={name: [moment[own] for moment in pair] for name, pair in self._moments.items()},
                small=self._small[:, own], at=self._at, vectors=[vector[own] for vector in vectors],
                diverged_at=self.diverged_at[own], total=self._total[own],
            )
            for own in self.slices
        ]  # fmt: skip

    def _lay_out(self, tensors: dict[str, Tensor], heads: int) -> None:
        """The first layers' weights by themselves, everything small flat and side by side."""
        firsts = [chain[0] for chain in self.network.chains]
        big = [name for first in firsts for name in (f"layers.{first}.weight", f"layers.{first}.scaler")
               if name in tensors]  # fmt: skip
        small = [name for name in tensors if name not in big]
        sizes = {name: tensors[name][0].numel() for name in small}
        self.tensors: dict[str, Tensor] = {}
        self._moments: dict[str, list[Tensor]] = {}
        for name in big:
            *rows, width = tensors[name].shape
            stride = width if self._small_heads or name.endswith("scaler") else row_stride(width)
            own, *self._moments[name] = (
                torch.zeros(*rows, stride, device=self.device)[..., :width] for _ in range(3)
            )  # fmt: skip
            self.tensors[name] = own.copy_(tensors[name])
        self._small = torch.zeros(4, heads, max(1, sum(sizes.values())), device=self.device)
        self._at, start = {}, 0
        for name in small:
            self._at[name] = start
            part = self._small[0][:, start : start + sizes[name]].view(heads, *tensors[name].shape[1:])
            part.copy_(tensors[name])
            self.tensors[name] = part
            start += sizes[name]

    def first_moments(self) -> dict[str, Tensor]:
        """The first moment of every tensor's gradient [heads, ...] (after one step a tenth of the clipped gradient)."""
        found = {name: pair[0] for name, pair in self._moments.items()}
        for name, start in self._at.items():
            own = self.tensors[name]
            found[name] = self._small[1][:, start : start + own[0].numel()].view_as(own)
        return found

    def _rows(self, source: FirstLayer, targets: Tensor, kept: bool) -> Rows:
        firsts, x = [self.network.layers[chain[0]] for chain in self.network.chains], source.features
        targets = targets if targets.dtype == torch.float32 else targets.to(torch.int64)
        needed = any(first.normed for first in firsts)
        normed = torch.nn.functional.layer_norm(x, x.shape[1:], eps=NORM_EPSILON) if needed else x
        # Whether Gram matrices are looked up depends on the data and the device alone: a head is to have the same bits
        # in every pack.
        kept = kept and len(x) ** 2 * 4 <= TABLE_SHARE * _memory(self.device)
        tables = tuple(products_of_rows(first, x) if kept and not passes(first) else None for first in firsts)
        expansion = None
        if self._small_heads and tables[0] is not None:
            expansion = expand(firsts[0], x) if source.ready is None else source.ready.contiguous()
        return Rows(x, normed, targets, tables, expansion)

    @classmethod
    def prepare(
        cls, network: NetworkSpec, configs: Sequence[HeadConfig], source: FirstLayer, targets: Tensor
    ) -> bool:  # fmt: skip
        """Compile the kernels side by side, for a pack of any size like this, while its heads are not drawn yet.

        One after another, and each one's launcher behind it, they take as long as some epochs. Returns whether the GPU
        has what they need: wide layers and large minibatches can take more shared memory than there is.
        """
        device = targets.device
        blank = {name: torch.zeros(2, *shape, device=device) for name, shape in network.shapes().items()}
        two = [configs[0]] * 2
        order = torch.zeros(1, 2, dtype=torch.int64)
        with torch.cuda.device(device), ThreadPoolExecutor() as workers:
            engine = cls(network, blank, two, source, targets)
            engine._begin(Epoch(order, torch.zeros(2, dtype=torch.int64), configs[0].batch_size, 0, 1))
            with triton.AsyncCompileMode(workers):
                asked = [kernel for part in engine.parts for kernel in part.compile()]
                ready = [workers.submit(_make_ready, kernel) for kernel in asked]
            try:
                for one in ready:
                    one.result()
            except OutOfResources:
                return False
        return True

    def run(self, epoch: Epoch) -> Tensor:
        """Train one epoch; returns the mean loss of every head [heads]."""
        self._begin(epoch)
        with self._streams() as streams:
            for number in range(self.parts[0].launches(epoch.steps)):
                for part, stream in zip(self.parts, streams, strict=True):
                    with stream:
                        part.launch(number)
        return self._total / epoch.rows

    def _begin(self, epoch: Epoch) -> None:
        """Rows and numbers of the epoch to where the parts look for them."""
        shape = (len(epoch.order), (epoch.steps + 1) * self.batch)
        if self._order is None or len(self._order) != shape[0] or self._order.shape[1] < shape[1]:
            self._order = torch.zeros(shape, dtype=torch.int32, device=self.device)
        self._order[:, : epoch.rows] = epoch.order.to(torch.int32).to(self.device)
        # What fills up the last minibatch weighs nothing, but shares its scales (`gpu.products.scaled_halves`).
        self._order[:, epoch.rows : shape[1]] = self._order[:, epoch.rows - 1 : epoch.rows]
        replicate_of = epoch.replicate_of.to(self.device, torch.int32)
        for part, own in zip(self.parts, self.slices, strict=True):
            part.begin(epoch, self._order, replicate_of[own])

    @contextlib.contextmanager
    def _streams(self) -> Iterator[list[contextlib.AbstractContextManager]]:
        """Every part's stream as a context; they begin behind what was launched before and end before what follows."""
        if self.device.type != "cuda":
            yield [contextlib.nullcontext() for _ in self.parts]
            return
        current = torch.cuda.current_stream(self.device)
        for part in self.parts:
            part.stream.wait_stream(current)
        yield [torch.cuda.stream(part.stream) for part in self.parts]
        for part in self.parts:
            current.wait_stream(part.stream)
