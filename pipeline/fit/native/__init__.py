"""The trainer's step in C, compiled once for this machine by its own compiler.

`library()` is `None` where there is no compiler; the plain PyTorch engine then trains, slower, to the same numbers.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from pipeline.progress import say

__all__ = ["MAX_BRANCHES", "MAX_LAYERS", "Head", "Layer", "TensorPointers", "library"]

MAX_BRANCHES, MAX_LAYERS = 4, 8
SOURCES = ("bases.c", "products.c", "train.c")
# Not -ffast-math: loading such a library switches denormal numbers off for the whole process.
FLAGS = (
    "-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros",
    "-fassociative-math", "-freciprocal-math", "-fopenmp-simd", "-fPIC", "-shared",
    *(("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()),
)  # fmt: skip

_pointer = ctypes.c_void_p


class TensorPointers(ctypes.Structure):
    """`Tensor` of head.h."""

    _fields_ = (
        *((name, _pointer) for name in ("value", "first", "second", "gradient")),
        ("size", ctypes.c_int64),
    )


class Branch(ctypes.Structure):
    """`Branch` of head.h."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("basis", "width", "normed"))


class Layer(ctypes.Structure):
    """`Layer` of head.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("inputs", "outputs", "columns", "features")),
        *((name, ctypes.c_int32) for name in ("branches", "bias", "scaler", "normed")),
        ("branch", Branch * MAX_BRANCHES),
        *((name, ctypes.c_float) for name in ("low", "step", "sharpness")),
        ("order", ctypes.c_int32),
        *((name, TensorPointers) for name in ("weight_", "scaler_", "bias_", "norm_scale_", "norm_shift_")),
        *(
            (name, _pointer)
            for name in (
                "input", "normal", "deviation", "expansion", "expansion_gradient", "output", "delta", "effective",
            )
        ),
    )  # fmt: skip


class Head(ctypes.Structure):
    """`Head` of head.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "classes", "ready", "regression")),
        ("layer", Layer * MAX_LAYERS),
        *((name, ctypes.c_float) for name in ("lr", "weight_decay", "clip")),
        ("row", _pointer),
    )


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kanglue"


def _processor() -> str:
    """What `-march=native` depends on: a library compiled on one machine must not be loaded on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    except OSError:
        return platform.processor()


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library, from the user's cache folder where the same source was compiled before."""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        say("no C compiler found: heads train with plain PyTorch, several times slower")
        return None
    folder = files(__name__)
    text = "".join((folder / name).read_text() for name in ("head.h", *SOURCES))
    name = hashlib.sha256("\0".join((text, *FLAGS, compiler, _processor())).encode()).hexdigest()[:16]
    path = _cache_folder() / f"head-{name}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as work:
                made = Path(work) / path.name
                sources = [str(folder / source) for source in SOURCES]
                subprocess.run(
                    [compiler, *FLAGS, "-o", str(made), *sources, "-lm"], check=True, capture_output=True, text=True
                )
                os.replace(made, path)
        found = ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        cause = error.stderr.strip().splitlines()[:1] if isinstance(error, subprocess.CalledProcessError) else error
        say(f"the C kernels could not be compiled ({cause}): heads train with plain PyTorch, several times slower")
        return None
    found.train_head.restype = ctypes.c_int64
    found.train_head.argtypes = (
        ctypes.POINTER(Head), _pointer, ctypes.c_int64, _pointer, _pointer,
        *[ctypes.c_int64] * 5, ctypes.POINTER(ctypes.c_double),
    )  # fmt: skip
    return found
