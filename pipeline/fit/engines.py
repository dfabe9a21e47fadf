"""Which engine trains a pack."""

import importlib.util
import os

import torch

from pipeline.fit.engine import Engine, PlainEngine
from pipeline.heads.config import HeadConfig
from pipeline.heads.network import NetworkSpec

__all__ = ["choose_engine"]


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
