"""Type-check the GPU kernels of some packs as Triton's compiler does, for a GPU that need not be there; a script.

The interpreter runs what the compiler refuses: a variable of a loop that changes its shape, say.
"""

import json
import sys

import torch
import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime import driver

from pipeline.fit.engine import Epoch
from pipeline.fit.gpu.engine import TritonEngine
from pipeline.fit.predict import FirstLayer
from pipeline.heads.families import build_network
from pipeline.heads.resolve import resolve
from pipeline.heads.starts import stack, start

H100 = GPUTarget("cuda", 90, 32)


class Absent:
    """A driver that knows what to compile for, and no more."""

    def get_current_target(self) -> GPUTarget:
        return H100

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


def check(source: ASTSource, target: GPUTarget, options: dict) -> object:
    """The first stage of `triton.compile`, in place of all."""
    backend = make_backend(target)
    options = backend.parse_options(options)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    return source.make_ir(target, options, functions, modules, context)


def checked(head: str, options: dict) -> int:
    """Kernels of a pack of two heads."""
    configs = [resolve(head, seed=seed, features="mean", options=options) for seed in range(2)]
    network = build_network(configs[0], 40, 2)
    rows = 2 * configs[0].batch_size
    source = FirstLayer(network, torch.randn(rows, 40).numpy(), torch.device("cpu"))
    tensors = stack([start(config, network) for config in configs])
    engine = TritonEngine(network, tensors, configs, source, torch.zeros(rows, dtype=torch.int64))
    of_head = torch.zeros(2, dtype=torch.int64)
    engine._begin(Epoch(torch.arange(rows)[None], of_head, configs[0].batch_size, 0, 1))
    return sum(len(part.compile()) for part in engine.parts)


if __name__ == "__main__":
    driver.set_active(Absent())
    triton.compiler.compile = check
    print(json.dumps([checked(head, options) for head, options in json.loads(sys.argv[1])]))
