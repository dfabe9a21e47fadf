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
from functools import cache
from importlib.resources import files
from pathlib import Path

from pipeline.hashing import hash_file
from pipeline.progress import say
from pipeline.publish import cache_folder, sync_entries, work_folder

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
    sources = files(__name__)
    text = "".join((sources / name).read_text() for name in (*HEADERS, *SOURCES))
    name = hashlib.sha256("\0".join((text, *FLAGS, compiler, _processor())).encode()).hexdigest()[:16]
    try:
        folder = _own_folder(cache_folder())
        return ctypes.CDLL(str(_compiled(folder, name) or _compile(folder, name, compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        cause = str(error)
        if isinstance(error, subprocess.CalledProcessError):
            cause = error.stderr.strip().partition("\n")[0]
        say(f"the C code cannot be used ({cause}): plain PyTorch and numpy do its work, several times slower")
        return None


def _own_folder(folder: Path) -> Path:
    """The folder, made if need be; `OSError` where others could put a library there that this process would load."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix":
        about = folder.stat()
        if about.st_uid != os.geteuid():
            raise OSError(f"{folder}: expected a folder of this user's, found another's; set XDG_CACHE_HOME")
        if about.st_mode & 0o022:
            raise OSError(f"{folder}: expected a folder that only its owner writes to, found others may; chmod go-w it")
    return folder


def _compiled(folder: Path, name: str) -> Path | None:
    """The library, whose name ends in its SHA-256; what has another hash, or another owner, is removed."""
    for path in folder.glob(f"native-{name}-*.so"):
        own = os.name != "posix" or path.lstat().st_uid == os.geteuid()
        if own and path.is_file() and not path.is_symlink() and path.stem.endswith(f"-{hash_file(path)}"):
            return path
        path.unlink(missing_ok=True)
    return None


def _compile(folder: Path, name: str, compiler: str) -> Path:
    """Compile the library and rename it into `folder` when it is whole."""
    sources = files(__name__)
    with work_folder(folder) as work:
        made = work / "native.so"
        command = [compiler, *FLAGS, "-o", str(made), *(str(sources / source) for source in SOURCES), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        path = folder / f"native-{name}-{hash_file(made)}.so"
        sync_entries(made)
        os.replace(made, path)
    return path
