"""The engine for processors: each head trains an epoch on one core, in C, with its state in that core's caches."""

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.fit.engine import Epoch
from pipeline.fit.native_structs import MAX_BRANCHES, MAX_LAYERS, TILE, Head, Layer, TensorPointers, trainer
from pipeline.fit.predict import FirstLayer, row_stride
from pipeline.heads.config import HeadConfig
from pipeline.heads.network import LayerSpec, NetworkSpec

__all__ = ["NativeEngine", "supports"]

#: Codes of head.h, in its order.
BASES = (
    "identity", "relu", "gelu", "silu", "tanh", "sigmoid", "b_spline", "radial", "switch", "square_relu", "polynomial2",
    "polynomial3", "polynomial5", "fourier", "chebyshev",
)  # fmt: skip
#: Weight columns are rounded up to the widest vector in use, or to half of it where the matrix is narrow.
VECTOR, NARROW = 16, 256
#: Rows that are evaluated at a time, at least.
EVALUATED = 64
#: A tensor with its moments; gradients are a worker's own.
_STATE = ("value", "first", "second")


def supports(network: NetworkSpec, config: HeadConfig) -> bool:
    """Whether the C engine can train this network here: its bases are known and the library is there."""
    known = all(branch.basis in BASES for layer in network.layers for branch in layer.branches)
    fits = len(network.layers) <= MAX_LAYERS and all(len(layer.branches) <= MAX_BRANCHES for layer in network.layers)
    return known and fits and not config.extras and trainer() is not None


@dataclass(frozen=True)
class _Workspace:
    """What one thread needs for a step: gradients by tensor name, and buffers by layer and name."""

    gradients: dict[str, Tensor]
    buffers: list[dict[str, Tensor]]
    row: Tensor


def _columns(network: NetworkSpec, outputs: int) -> int:
    """Columns that `outputs` of them take; a scaler's code takes whole vectors only, and sums of stacks equal ones."""
    whole = outputs <= VECTOR or outputs > NARROW or any(layer.scaler for layer in network.layers)
    unit = VECTOR if whole else VECTOR // 2
    return -(-outputs // unit) * unit


def _buffers(layer: LayerSpec, rows: int, columns: int) -> dict[str, Tensor]:
    whole = -(-rows // VECTOR) * VECTOR
    sizes = {
        "input": rows * row_stride(layer.inputs),
        "normal": rows * row_stride(layer.inputs),
        "deviation": rows + 3 * layer.inputs,
        "expansion": rows * row_stride(layer.features),
        "expansion_gradient": rows * max(row_stride(layer.features), columns),
        "output": rows * columns,
        "delta": rows * columns,
        "strip": TILE * columns,
        "turned_input": whole * row_stride(layer.inputs),
        "turned_normal": whole * row_stride(layer.inputs) if layer.normed else 0,
        "turned": whole * 4 * columns,
        "values": (rows + 1) * layer.inputs * sum(layer.widths) if layer.units else 0,
    }
    return {name: torch.zeros(size) for name, size in sizes.items()}


class NativeEngine:
    """Trains heads side by side on `torch.get_num_threads()` threads, one head a thread at a time."""

    def __init__(
        self, network: NetworkSpec, tensors: dict[str, Tensor], configs: Sequence[HeadConfig], source: FirstLayer,
        targets: Tensor,
    ) -> None:  # fmt: skip
        """`tensors` [heads, ...] are copied; `source` and `targets` are the training rows."""
        self.network, self.configs, self.source, self.targets = network, configs, source, targets
        self._state: dict[str, dict[str, Tensor]] = {}
        self.tensors = {}
        for name, tensor in tensors.items():
            columns = _columns(network, tensor.shape[-1])
            inner = name.endswith((".norm_scale", ".norm_shift", ".unit"))
            shape = tensor.shape if inner else (*tensor.shape[:-1], columns)
            self._state[name] = {kind: torch.zeros(shape) for kind in _STATE}
            self.tensors[name] = self._state[name]["value"][..., : tensor.shape[-1]]
            self.tensors[name].copy_(tensor)
        self.diverged_at = torch.full((len(configs),), -1, dtype=torch.int64)
        self._library = trainer()
        self._threads = max(1, min(torch.get_num_threads(), len(configs)))
        self._spaces: list[_Workspace] = []
        self._stop = torch.zeros(1, dtype=torch.int32)

    def _workspace(self, rows: int) -> _Workspace:
        gradients = {name: torch.zeros(state["value"].shape[1:]) for name, state in self._state.items()}
        buffers = [_buffers(layer, rows, _columns(self.network, layer.outputs)) for layer in self.network.layers]
        for name in ("input", "normal", "turned_input", "turned_normal"):
            firsts = [buffers[chain.start] for chain in self.network.chains]
            widest = max((one[name] for one in firsts), key=Tensor.numel)
            for one in firsts:  # stacks share their input, and its norm before scale and shift
                one[name] = widest
        return _Workspace(gradients, buffers, torch.zeros(rows, dtype=torch.int64))

    def _head(self, index: int, space: _Workspace, source: FirstLayer) -> Head:
        config = self.configs[index]
        head = Head(
            layers=len(self.network.layers),
            depth=len(self.network.layers) // self.network.stacks,
            classes=self.network.outputs,
            ready=int(source.ready is not None),
            regression=int(self.targets.dtype == torch.float32),
            lr=config.lr, weight_decay=config.weight_decay, clip=min(config.clip, 3e38), row=space.row.data_ptr(),
            stop=self._stop.data_ptr(),
        )  # fmt: skip
        for number, (layer, buffers) in enumerate(zip(self.network.layers, space.buffers, strict=True)):
            self._fill(head.layer[number], layer, buffers)
            for name in layer.shapes():
                full = f"layers.{number}.{name}"
                state, gradient = self._state[full], space.gradients[full]
                pointers = {kind: state[kind][index].data_ptr() for kind in _STATE}
                one = TensorPointers(**pointers, gradient=gradient.data_ptr(), size=gradient.numel())
                setattr(head.layer[number], f"{name}_", one)
        return head

    def _fill(self, to: Layer, layer: LayerSpec, buffers: dict[str, Tensor]) -> None:
        to.inputs, to.outputs, to.features = layer.inputs, layer.outputs, layer.features
        to.stride = row_stride(layer.features)
        to.columns = _columns(self.network, layer.outputs)
        to.branches, to.bias, to.scaler, to.normed = len(layer.branches), layer.bias, layer.scaler, layer.normed
        to.units = layer.units
        to.low, to.sharpness, to.order = layer.grid.low, layer.grid.sharpness, layer.grid.order
        splines = any(branch.basis == "b_spline" for branch in layer.branches)
        to.step = (layer.grid.high - layer.grid.low) / (layer.grid.intervals if splines else layer.grid.centres - 1)
        for place, branch, width in zip(to.branch, layer.branches, layer.widths, strict=False):
            place.basis, place.width, place.normed = BASES.index(branch.basis), width, branch.normed
        for name, buffer in buffers.items():
            setattr(to, name, buffer.data_ptr())

    def run(self, epoch: Epoch) -> Tensor:
        """Train one epoch; returns the mean loss of every head [heads]."""
        size, steps = min(epoch.batch_size, epoch.rows), epoch.steps
        rows = _rows(self.source)
        order = epoch.order.contiguous()
        losses = torch.zeros(len(self.configs))

        def train(index: int, space: _Workspace) -> None:
            if self.diverged_at[index] >= 0:
                losses[index] = float("nan")
                return
            head, loss = self._head(index, space, self.source), ctypes.c_double(0)
            mine = order[epoch.replicate_of[index]]
            self.diverged_at[index] = self._library.train_head(
                ctypes.byref(head), rows.data_ptr(), rows.stride(0), mine.data_ptr(), self.targets.data_ptr(),
                size, steps, epoch.rows - (steps - 1) * size, epoch.number * steps, steps * epoch.of,
                ctypes.byref(loss),
            )  # fmt: skip
            losses[index] = loss.value / epoch.rows

        self._for_every_head(size, train)
        return losses

    def outputs(self, source: FirstLayer, rows: Tensor) -> Tensor:
        """Outputs [heads, rows, classes] of the rows [rows], or [heads, rows], of a split."""
        found = torch.empty(len(self.configs), rows.shape[-1], self.network.outputs)
        taken, rows = _rows(source), rows.expand(len(self.configs), -1)

        def evaluate(index: int, space: _Workspace) -> None:
            head, mine = self._head(index, space, source), rows[index].contiguous()
            self._library.head_outputs(
                ctypes.byref(head), taken.data_ptr(), taken.stride(0), mine.data_ptr(), len(mine), len(space.row),
                found[index].data_ptr(),
            )  # fmt: skip

        self._for_every_head(1, evaluate)
        return found

    def _for_every_head(self, rows: int, work: Callable[[int, _Workspace], None]) -> None:
        """Do some work for every head, on all threads; each has a workspace for `rows` rows or more to itself."""
        rows = max(rows, EVALUATED)
        if not self._spaces or len(self._spaces[0].row) < rows:
            self._spaces = [self._workspace(rows) for _ in range(self._threads)]
        free = list(self._spaces)

        def one(index: int) -> None:
            space = free.pop()
            try:
                work(index, space)
            finally:
                free.append(space)

        with ThreadPoolExecutor(self._threads) as pool:
            try:
                list(pool.map(one, range(len(self.configs))))
            except BaseException:  # an interrupt: leave now, not when the epoch is done
                self._stop[0] = 1
                pool.shutdown(cancel_futures=True)
                raise


def _rows(source: FirstLayer) -> Tensor:
    return source.features if source.ready is None else source.ready
