"""The launches of a part of a pack: heads that go through their steps on a stream of their own."""

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from pipeline.fit.engine import Epoch
from pipeline.fit.gpu.capture import captured
from pipeline.fit.gpu.clipping import finish
from pipeline.fit.gpu.stack import Heads, Stack, launch_kernel, out_pad, passes

__all__ = ["Part"]


class Part(Heads):
    """Steps of some heads: loss and small tensors, then the first layers' update and next forward in one pass.

    A lone stack whose norm takes no pass of its own over the weights is clipped where its loss is found; otherwise a
    kernel of its own waits for all parts of the norm. On a GPU a step is captured as a graph; the small kernels are on
    a stream of higher priority, so that they start while another part's pass still fills the processor.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        device = self.total.device
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self.stream, self._urgent = torch.cuda.Stream(device), torch.cuda.Stream(device, priority=-1)
        self._buffers()

    def _buffers(self) -> None:
        """The stacks, and what their kernels leave for each other."""
        network, splits, device = self.network, self.tuning.splits, self.total.device
        count, wide = network.stacks, out_pad(network)
        classes = max(2 if self.padded < 16 else 16, triton.next_power_of_2(network.outputs))
        slots = count
        slot_of = []
        for chain in network.chains:
            slot_of.append(slots)
            slots += splits * passes(network.layers[chain[0]])
        shape = (count, self.count, self.padded)
        shared = {
            "delta": torch.zeros(*shape, wide, device=device),
            "logits": torch.zeros(*shape, classes if len(network.chains[0]) == 2 else wide, device=device),
            "squares": torch.zeros(self.count, slots, device=device),
        }
        self._delta, self._squares = shared["delta"], shared["squares"]
        self.stacks = [Stack(self, number, shared, slot) for number, slot in enumerate(slot_of)]
        self._lone = count == 1 and slots == 1

    def begin(self, epoch: Epoch, order: Tensor, replicate_of: Tensor) -> None:
        """Start an epoch: `order` int32 [replicates, at least (steps + 1) * batch], `replicate_of` int32 [heads]."""
        if self.order is not order:
            # A captured step knows these by their addresses.
            self.order, self.replicate_of, self._graph = order, replicate_of.clone(), None
        self.replicate_of.copy_(replicate_of)
        self.turn.zero_()
        span = (epoch.number * epoch.steps, epoch.of * epoch.steps, epoch.steps, epoch.last)
        self.span.copy_(torch.tensor(span, dtype=torch.int32))
        self.total.zero_()

    def compile(self) -> list[Any]:
        """Ask for the kernels of all launches; after `begin`. In `triton.AsyncCompileMode` they may not be ready."""
        asked = []
        self.start = lambda kernel, grid, *arguments, **options: asked.append(
            kernel.warmup(*arguments, grid=grid, **options)
        )
        self._first(update=False)
        self._step()
        self.start = launch_kernel
        return asked

    def _first(self, *, update: bool) -> None:
        for stack in self.stacks:
            stack.update_and_forward(update=update)

    def _losses(self) -> None:
        """The losses and small gradients of the current step."""
        if len(self.stacks) > 1:
            for stack in self.stacks:
                stack.outputs()
        for stack in self.stacks:
            stack.loss()

    def _finish(self) -> None:
        numbers, slots = self.small.shape[2], self._squares.shape[1]
        delta = self._delta[0, 0].numel()
        self.start(
            finish, (self.count,),
            *self.small, self._delta, self._squares, self.loss, self.diverged_at, self.scalar, *self.vectors,
            self.turn, self.span, SMALL=numbers, SMALL_PAD=triton.next_power_of_2(numbers), DELTA=delta,
            STACKS=len(self.stacks), SLOTS=slots,
            SLOTS_PAD=triton.next_power_of_2(slots), num_warps=self.tuning.middle_warps,
        )  # fmt: skip

    def _urgently(self, work: Callable[[], None]) -> None:
        if self.total.device.type != "cuda":
            work()
            return
        self._urgent.wait_stream(self.stream)
        with torch.cuda.stream(self._urgent):
            work()
        self.stream.wait_stream(self._urgent)

    def _step(self) -> None:
        """One step and the next one's forward."""
        self._urgently(self._losses)
        if not self._lone:
            for stack in self.stacks:
                stack.norm()
            self._urgently(self._finish)
        self._first(update=True)

    def launches(self, steps: int) -> int:
        """Launches of an epoch of so many steps, in order."""
        return steps + 1

    def launch(self, number: int) -> None:
        """The first minibatch's forward, then steps. The last one's forward is of rows that no step will see."""
        if number == 0:
            self._first(update=False)
        elif self._graph is not None:
            self._graph.replay()
        else:
            self._step()
            if self.total.device.type == "cuda":
                # The first step compiles the kernels; the graph is captured behind it.
                torch.cuda.current_stream().synchronize()
                self._graph = captured(self._step, self.stream)
