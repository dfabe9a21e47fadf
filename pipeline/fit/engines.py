"""Which engine trains a pack."""

import importlib.util
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.fit.engine import Engine, PlainEngine
from pipeline.fit.predict import FirstLayer
from pipeline.heads.config import HeadConfig
from pipeline.heads.network import NetworkSpec
from pipeline.progress import say

__all__ = ["choose_engine", "ready_engine"]


def choose_engine(network: NetworkSpec, config: HeadConfig, device: torch.device) -> type[Engine]:
    """The fastest engine for a pack on a device; KANGLUE_ENGINE=plain asks for the one that runs everywhere."""
    if os.environ.get("KANGLUE_ENGINE") == "plain" or network.pool is not None:
        return PlainEngine
    if device.type == "cpu":
        from pipeline.fit.native_engine import NativeEngine, supports

        return NativeEngine if supports(network, config) else PlainEngine
    if device.type == "cuda" and importlib.util.find_spec("triton"):
        from pipeline.fit.gpu import engine, graphed

        if engine.supports(network, config):
            return engine.TritonEngine
        return graphed.GraphedEngine if graphed.supports(network, config) else PlainEngine
    return PlainEngine


def ready_engine(
    network: NetworkSpec, configs: Sequence[HeadConfig], source: Callable[[], FirstLayer], targets: Tensor
) -> type[Engine]:
    """`choose_engine`'s for a pack, its kernels compiled; another one where a GPU cannot hold them.

    `source` makes the training rows for an engine that compiles.
    """
    kind = choose_engine(network, configs[0], targets.device)
    if not hasattr(kind, "prepare") or kind.prepare(network, configs, source(), targets):
        return kind
    from pipeline.fit.gpu.graphed import GraphedEngine

    say(f"{configs[0].head}: fused kernels need more memory on the chip than this GPU has; steps go layer by layer")
    return GraphedEngine
