"""The launches of small heads, which stay on the chip for many steps at a time."""

from typing import Any

import torch
import triton

from pipeline.fit.gpu.part import Part
from pipeline.fit.gpu.small import train_small
from pipeline.fit.gpu.stack import grid_numbers, kinds
from pipeline.heads.network import NetworkSpec

__all__ = ["SmallPart", "stays_on_chip"]

#: Numbers of the first layer's weights, padded, that a program can hold three times over in registers.
MOST_NUMBERS = 8192
#: More classes would be more products one after another.
MOST_CLASSES = 4
#: Steps of a launch: some tenths of a second of a large pack.
LAUNCH_STEPS = 4096


def stays_on_chip(network: NetworkSpec, batch: int) -> bool:
    """Whether heads train in registers: two small layers without scaler or norm, and 1, 2 or 4 rows a step."""
    if len(network.layers) != 2 or batch not in (1, 2, 4) or network.outputs > MOST_CLASSES:
        return False
    if not network.constant or any(layer.scaler or layer.inner for layer in network.layers):
        return False
    first, last = network.layers
    numbers = triton.next_power_of_2(first.inputs * first.widths[0]) * triton.next_power_of_2(first.outputs)
    return numbers <= MOST_NUMBERS and last.widths[0] <= 16


class SmallPart(Part):
    """Small heads: one launch trains them for thousands of steps."""

    def _buffers(self) -> None:
        """None: what a step leaves for the next one stays in registers."""

    def launches(self, steps: int) -> int:
        """Launches of an epoch of so many steps."""
        return -(-steps // LAUNCH_STEPS)

    def compile(self) -> list[Any]:
        """Ask for nothing: there is only one kernel."""
        return []

    def launch(self, number: int) -> None:  # noqa: ARG002
        """Train up to `LAUNCH_STEPS` steps."""
        (first, last), rows = self.network.layers, self.rows
        split = first.inputs * first.widths[0]
        train_small[(self.count,)](
            self.tensors["layers.0.weight"], *self.moments["layers.0.weight"], *self.small[:3], rows.expansion,
            rows.tables[0], rows.targets, self.order, self.replicate_of, self.diverged_at, self.total, *self.vectors,
            self.turn, self.span, self.order.shape[1], len(rows.targets), LAUNCH_STEPS, *grid_numbers(last),
            FEATURES=first.features, SPLIT=split, FIRST_PAD=triton.next_power_of_2(split),
            SECOND_PAD=triton.next_power_of_2(max(1, first.features - split)), OUT=first.outputs,
            OUT_PAD=max(16, triton.next_power_of_2(first.outputs)), CLASSES=last.outputs, BATCH=self.batch,
            SMALL=self.small.shape[2], **{k: v for k, v in kinds(last).items() if not k.startswith("NORM")},
            ROWS_PAD=triton.next_power_of_2(max(last.widths[0], last.outputs)),
            REGRESSION=rows.targets.dtype == torch.float32, AT_WEIGHT=self.at["layers.1.weight"],
            AT_BIAS0=self.at.get("layers.0.bias", -1), AT_BIAS1=self.at.get("layers.1.bias", -1),
            num_warps=self.tuning.small_warps,
        )  # fmt: skip
