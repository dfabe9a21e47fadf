"""Capture of a training step as a CUDA graph."""

import gc
from collections.abc import Callable

import torch

__all__ = ["captured"]


def captured(work: Callable[[], None], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """`work`, captured on `stream` as a graph to replay; it must have run there once before.

    Meanwhile the garbage collector does not start by itself, in any thread: the graph of an earlier pack, destroyed
    then, would end the capture with an error (https://github.com/pytorch/pytorch/pull/161037).
    """
    graph = torch.cuda.CUDAGraph()
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, stream=stream):
            work()
    finally:
        if collects:
            gc.enable()
    return graph
