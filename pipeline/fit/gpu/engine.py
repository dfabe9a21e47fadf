"""The engine for NVIDIA GPUs: four launches a step, captured once as a CUDA graph and replayed."""

from collections.abc import Callable, Sequence

import torch
import triton
from torch import Tensor

from pipeline.fit.engine import Epoch, head_vectors
from pipeline.fit.gpu.bases import KINDS
from pipeline.fit.gpu.first_layer import clip_norm, update_and_forward
from pipeline.fit.gpu.last_layer import clip_and_update, loss_and_gradients
from pipeline.fit.predict import FirstLayer
from pipeline.heads.config import HeadConfig
from pipeline.heads.network import LayerSpec, NetworkSpec

__all__ = ["TritonEngine", "supports"]

#: Largest minibatch, hidden width and number of classes that fit the kernels' registers.
MOST_ROWS, MOST_HIDDEN, MOST_CLASSES = 128, 128, 16
#: Up to this many rows, products are sums over rows on the ordinary units; above, they go to the matrix units.
FEW_ROWS = 4


def supports(network: NetworkSpec, batch_size: int) -> bool:
    """Whether the kernels cover a network: one or two layers, no norm in front, at most two bases a layer."""
    layers = network.layers
    if network.stacks > 1 or not all(branch.basis in KINDS for layer in layers for branch in layer.branches):
        return False
    simple = all(not layer.inner and len(layer.branches) <= 2 and layer.widths[-1:] <= (8,) for layer in layers)
    second = all(len(layer.branches) == 1 or layer.widths[1] == 1 for layer in layers)
    # The scaler's kernels regroup a tile by input, which needs a power of two.
    scaler = all(not layer.scaler or layer.widths[0] & (layer.widths[0] - 1) == 0 for layer in layers)
    widths = layers[0].outputs <= MOST_HIDDEN and network.outputs <= MOST_CLASSES
    return 1 <= len(layers) <= 2 and simple and second and scaler and widths and batch_size <= MOST_ROWS


def _kinds(layer: LayerSpec) -> tuple[int, int, int]:
    """First basis, its width, second basis (-1 for none)."""
    second = KINDS[layer.branches[1].basis] if len(layer.branches) > 1 else -1
    return KINDS[layer.branches[0].basis], layer.widths[0], second


def _grid(layer: LayerSpec) -> tuple[float, float, float]:
    """low, 1 / step and sharpness of a layer's grid."""
    grid = layer.grid
    parts = grid.intervals if layer.branches[0].basis == "b_spline" else grid.centres - 1
    return grid.low, parts / (grid.high - grid.low), grid.sharpness


class TritonEngine:
    """Trains all heads of a pack side by side on one GPU (or, for tests, under Triton's interpreter)."""

    def __init__(
        self, network: NetworkSpec, tensors: dict[str, Tensor], configs: Sequence[HeadConfig], source: FirstLayer,
        targets: Tensor, *, precision: str = "tf32x3",
    ) -> None:  # fmt: skip
        """`tensors` [heads, ...] are copied; `precision` is that of products on the matrix units (`tl.dot`)."""
        self.network, self.precision = network, precision
        self.device = targets.device
        self.x = source.features
        self.targets = targets if targets.dtype == torch.float32 else targets.to(torch.int64)
        heads = len(configs)
        self._lay_out(tensors, heads)
        self.rate, self.decay, self.clip = head_vectors(configs, self.device)
        self.clip.clamp_(max=3e38)
        self.diverged_at = torch.full((heads,), -1, dtype=torch.int64, device=self.device)
        self.batch = configs[0].batch_size
        self.rows = self.batch if self.batch <= FEW_ROWS and self.batch & (self.batch - 1) == 0 else max(
            16, triton.next_power_of_2(self.batch)
        )  # fmt: skip
        self.step = torch.zeros((), dtype=torch.int32, device=self.device)
        self.done, self.all_steps = torch.zeros_like(self.step), torch.zeros_like(self.step)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._order: Tensor | None = None
        self._buffers(heads)

    def _lay_out(self, tensors: dict[str, Tensor], heads: int) -> None:
        """The first layer's weights by themselves, everything small flat and side by side."""
        big = ["layers.0.weight", *(["layers.0.scaler"] if self.network.layers[0].scaler else [])]
        small = [name for name in tensors if name not in big]
        sizes = {name: tensors[name][0].numel() for name in small}
        self.small_size = sum(sizes.values())
        self.tensors: dict[str, Tensor] = {name: tensors[name].clone().contiguous() for name in big}
        self.moments = {name: [torch.zeros_like(self.tensors[name]) for _ in range(2)] for name in big}
        self.small = torch.zeros(4, heads, max(1, self.small_size), device=self.device)
        self.at = {}
        start = 0
        for name in small:
            self.at[name] = start
            part = self.small[0][:, start : start + sizes[name]].view(heads, *tensors[name].shape[1:])
            part.copy_(tensors[name])
            self.tensors[name] = part
            start += sizes[name]

    def _buffers(self, heads: int) -> None:
        first = self.network.layers[0]
        self.out_pad = max(16, triton.next_power_of_2(first.outputs))
        few = self.rows < 16
        # Chosen by measurement on an H100 (benchmarks/heads_gpu.md): larger tiles spill registers.
        self.tile = 8 if few else 16
        self.warps, self.middle_warps, self.stages = 4, 4, 3
        tiles = -(-first.inputs // self.tile)
        self.splits = max(1, min(8 if few else 4, tiles))
        self.output = torch.zeros(heads, self.splits, self.rows, self.out_pad, device=self.device)
        self.gram = torch.zeros(heads, self.splits, self.rows, self.rows, device=self.device)
        self.delta = torch.zeros(heads, self.rows, self.out_pad, device=self.device)
        self.norm, self.loss, self.total = (torch.zeros(heads, device=self.device) for _ in range(3))
        self.more = torch.zeros(heads, self.splits, device=self.device)
        self.scalar = torch.zeros(heads, 4, device=self.device)

    def _first(self, kernel: Callable, *, update: bool, forward: bool) -> None:
        first, heads = self.network.layers[0], len(self.loss)
        weight, (m, v) = self.tensors["layers.0.weight"], self.moments["layers.0.weight"]
        scaler = self.tensors.get("layers.0.scaler", weight)
        sm, sv = self.moments.get("layers.0.scaler", (m, v))
        kind0, width0, kind1 = _kinds(first)
        kernel[(heads, self.splits)](
            weight, m, v, scaler, sm, sv, self.x, self._order, self._replicate, self.delta, self.scalar, self.output,
            self.gram, self.step, self._order.shape[1], *_grid(first),
            INPUTS=first.inputs, FEATURES=first.features, OUT=first.outputs, OUT_PAD=self.out_pad, BATCH=self.batch,
            ROWS=self.rows, KIND0=kind0, WIDTH0=width0, KIND1=kind1, ORDER=first.grid.order, TILE=self.tile,
            SPLITS=self.splits, UPDATE=update, FORWARD=forward, GRAM=not first.scaler, SCALER=first.scaler,
            PRECISION=self.precision, num_warps=self.warps, num_stages=self.stages,
        )  # fmt: skip

    def _middle(self) -> None:
        """Loss, small gradients, clipping and small updates of the current step."""
        first, last, heads = self.network.layers[0], self.network.layers[-1], len(self.loss)
        deep = len(self.network.layers) == 2
        kind0, width0, kind1 = _kinds(last) if deep else (0, 1, -1)
        small, small_first, small_second, small_gradient = self.small
        loss_and_gradients[(heads,)](
            self.output, self.gram, small, small_gradient, self.delta, self.norm, self.loss, self.total, self.targets,
            self._order, self._replicate, self.step, self._order.shape[1], self._steps, self._last, *_grid(last),
            SMALL=small.shape[1], SPLITS=self.splits, BATCH=self.batch, ROWS=self.rows, OUT=first.outputs,
            OUT_PAD=self.out_pad, CLASSES=last.outputs,
            CLASSES_PAD=max(2 if self.rows < 16 else 16, triton.next_power_of_2(last.outputs)),
            REGRESSION=self.targets.dtype == torch.float32, DEEP=deep, KIND0=kind0, WIDTH0=width0, KIND1=kind1,
            ORDER=last.grid.order, AT_WEIGHT=self.at.get("layers.1.weight", -1),
            AT_SCALER=self.at.get("layers.1.scaler", -1), AT_BIAS0=self.at.get("layers.0.bias", -1),
            AT_BIAS1=self.at.get("layers.1.bias", -1), GRAM=not first.scaler, PRECISION=self.precision,
            num_warps=self.middle_warps,
        )  # fmt: skip
        if first.scaler:
            kind0, width0, kind1 = _kinds(first)
            clip_norm[(heads, self.splits)](
                self.tensors["layers.0.weight"], self.tensors["layers.0.scaler"], self.x, self._order,
                self._replicate, self.delta, self.more, self.step, self._order.shape[1], *_grid(first),
                INPUTS=first.inputs, FEATURES=first.features, OUT=first.outputs, OUT_PAD=self.out_pad,
                BATCH=self.batch, ROWS=self.rows, KIND0=kind0, WIDTH0=width0, KIND1=kind1, ORDER=first.grid.order,
                TILE=self.tile, SPLITS=self.splits, PRECISION=self.precision, num_warps=self.warps,
                num_stages=self.stages,
            )  # fmt: skip
        numbers = self.rows * self.out_pad
        clip_and_update[(heads,)](
            small, small_first, small_second, small_gradient, self.delta, self.norm, self.more, self.loss,
            self.diverged_at, self.scalar, self.rate, self.decay, self.clip, self.step, self.done, self.all_steps,
            SMALL=self.small_size, SMALL_PAD=triton.next_power_of_2(max(1, self.small_size)), SPLITS=self.splits,
            SPLITS_PAD=triton.next_power_of_2(self.splits), DELTA=numbers, DELTA_PAD=triton.next_power_of_2(numbers),
            MORE=first.scaler, num_warps=4,
        )  # fmt: skip

    def _one_step(self) -> None:
        self._middle()
        self._first(update_and_forward, update=True, forward=True)
        self.step.add_(1)

    def run(self, epoch: Epoch) -> Tensor:
        """Train one epoch; returns the mean loss of every head [heads]."""
        steps = epoch.steps
        if self._order is None:
            self._order = torch.zeros(len(epoch.order), steps * self.batch, dtype=torch.int32, device=self.device)
            self._replicate = epoch.replicate_of.to(self.device, torch.int32)
            self._steps, self._last = steps, epoch.rows - (steps - 1) * self.batch
        self._order[:, : epoch.rows] = epoch.order.to(self.device, torch.int32)
        self.step.zero_()
        self.done.fill_(epoch.number * steps)
        self.all_steps.fill_(steps * epoch.of)
        self.total.zero_()
        self._first(update_and_forward, update=False, forward=True)
        for _ in range(steps - 1):
            self._replay()
        self._middle()
        self._first(update_and_forward, update=True, forward=False)
        return self.total / epoch.rows

    def _replay(self) -> None:
        if self.device.type != "cuda":
            self._one_step()
            return
        if self._graph is None:
            # The first step compiles the kernels; the graph is captured behind it.
            self._one_step()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._one_step()
            return
        self._graph.replay()
