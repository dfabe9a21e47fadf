"""C code compiled once for this machine by its own compiler, where it has one; everything here has a plain counterpart.

`library()` is `None` where there is no compiler, or where KANGLUE_NATIVE is 0: checksums are then numpy's work, and
heads are trained by plain PyTorch, slower, to the same numbers.
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

__all__ = ["library"]

HEADERS = ("head.h", "vectors.h")
SOURCES = (
    "bases.c", "checksum.c", "expand.c", "lanes.c", "products.c", "stream.c", "switch.c", "train.c", "weights.c",
)  # fmt: skip
# Not -ffast-math: loading such a library switches denormal numbers off for the whole process.
FLAGS = (
    "-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros",
    "-fassociative-math", "-freciprocal-math", "-fopenmp-simd", "-fPIC", "-shared",
    *(("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()),
)  # fmt: skip


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
    if os.environ.get("KANGLUE_NATIVE") == "0":
        return None
    if compiler is None:
        say("no C compiler (cc, gcc, clang) found: plain PyTorch and numpy do its work, several times slower")
        return None
    folder = files(__name__)
    text = "".join((folder / name).read_text() for name in (*HEADERS, *SOURCES))
    name = hashlib.sha256("\0".join((text, *FLAGS, compiler, _processor())).encode()).hexdigest()[:16]
    path = _cache_folder() / f"native-{name}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as work:
                made = Path(work) / path.name
                sources = [str(folder / source) for source in SOURCES]
                command = [compiler, *FLAGS, "-o", str(made), *sources, "-lm"]
                subprocess.run(command, check=True, capture_output=True, text=True)
                os.replace(made, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        cause = str(error)
        if isinstance(error, subprocess.CalledProcessError):
            cause = error.stderr.strip().partition("\n")[0]
        say(f"the C code could not be compiled ({cause}): plain PyTorch and numpy do its work, several times slower")
        return None
