"""The device that `--device` means."""

import re
from typing import TYPE_CHECKING

from pipeline.errors import DeviceError

if TYPE_CHECKING:
    import torch

__all__ = ["check_device_name", "free_bytes", "hardware", "resolve_device"]


def check_device_name(name: str) -> None:
    """Raise `DeviceError` for a name that no machine has; needs no PyTorch."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise DeviceError(f"device {name!r}: expected auto, cpu, cuda or cuda:N; use one of these")


def resolve_device(name: str) -> "torch.device":
    """`auto` is CUDA where there is one, else the CPU; `DeviceError` for a device that is not there."""
    import torch

    check_device_name(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    index = name.partition(":")[2]
    if int(index or 0) >= count:
        raise DeviceError(f"device {name!r}: expected a GPU of that number, found {count} GPUs; use `device='cpu'`")
    return torch.device("cuda", int(index or 0))


def hardware(device: "torch.device") -> str:
    """The device's make in words: a GPU's name, or the processor's model and how many of them there are."""
    import os
    import platform
    from pathlib import Path

    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{os.cpu_count()} x {model or platform.machine()}"


def free_bytes(device: "torch.device") -> int:
    """Bytes of memory that can still be had on a device; on a processor also by the limits of this process's group."""
    from pathlib import Path

    if device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached

    def number(path: str) -> int | None:
        try:
            return int(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None  # not there, or "max"

    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        found = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        import os

        found = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most, used = number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory.current")
    if most is not None and used is not None:
        statistics = Path("/sys/fs/cgroup/memory.stat").read_text(encoding="ascii").split()
        files = int(statistics[statistics.index("inactive_file") + 1])  # given back when memory is wanted
        found = min(found, max(0, most - used + files))
    return found
