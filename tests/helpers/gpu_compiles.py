"""What Triton's compiler says of GPU kernels, for a GPU that need not be there, as JSON; a script.

The kernels of some packs are type-checked: the interpreter runs what the compiler refuses, as a variable of a loop that
changes its shape. And a small pack is compiled to the end, for a GPU with hardly any shared memory and for another.
"""

import contextlib
import json
import sys

import torch
import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.compiler.compiler import max_shared_mem
from triton.runtime import driver

from pipeline.fit.engine import Epoch
from pipeline.fit.gpu.engine import TritonEngine
from pipeline.fit.predict import FirstLayer
from pipeline.heads.families import build_network
from pipeline.heads.initialization import stack, start
from pipeline.heads.resolve import resolve

H100 = GPUTarget("cuda", 90, 32)


class Absent:
    """A driver that knows what to compile for, and no more."""

    def get_current_target(self) -> GPUTarget:
        return H100

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


class Loading(Absent):
    """One that loads kernels, as far as these can tell."""

    def __init__(self, shared_memory: int) -> None:
        self.utils, self._properties = self, {"max_shared_mem": shared_memory}

    def get_current_device(self) -> int:
        return 1  # Triton keeps its compiler by the device

    def get_device_properties(self, _: int) -> dict[str, int]:
        return self._properties

    def load_binary(self, *_) -> tuple[int, ...]:
        return 1, 1, 64, 0, 1024

    def launcher_cls(self, *_) -> object:
        return lambda *_: None


def check(source: ASTSource, target: GPUTarget, options: dict) -> object:
    """The first stage of `triton.compile`, in place of all."""
    backend = make_backend(target)
    options = backend.parse_options(options)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    return source.make_ir(target, options, functions, modules, context)


def pack(head: str, options: dict) -> tuple:
    """Two heads: network, configurations, training rows and targets."""
    configs = [resolve(head, seed=seed, features="mean", options=options) for seed in range(2)]
    network = build_network(configs[0], 40, 2)
    rows = 2 * configs[0].batch_size
    source = FirstLayer(network, torch.randn(rows, 40).numpy(), torch.device("cpu"))
    return network, configs, source, torch.zeros(rows, dtype=torch.int64)


def checked(head: str, options: dict) -> int:
    """Kernels of a pack."""
    network, configs, source, targets = pack(head, options)
    tensors = stack([start(config, network) for config in configs])
    engine = TritonEngine(network, tensors, configs, source, targets)
    of_head = torch.zeros(2, dtype=torch.int64)
    engine._begin(Epoch(torch.arange(len(targets))[None], of_head, configs[0].batch_size, 0, 1))
    return sum(len(part.compile()) for part in engine.parts)


def fits(shared_memory: int) -> list[bool]:
    """What the engine says of two packs of one shape, one after the other."""
    driver.set_active(Loading(shared_memory))
    max_shared_mem.cache_clear()
    given = pack("linear", {"batch_size": 4})
    return [TritonEngine.prepare(*given) for _ in range(2)]


if __name__ == "__main__":
    torch.cuda.device = lambda _: contextlib.nullcontext()
    found = {"fits": fits(64) + fits(1 << 17)}
    driver.set_active(Absent())
    triton.compiler.compile = check
    found["kernels"] = [checked(head, options) for head, options in json.loads(sys.argv[1])]
    print(json.dumps(found))
