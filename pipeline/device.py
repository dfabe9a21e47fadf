"""The device that `--device` means."""

from typing import TYPE_CHECKING

from pipeline.errors import DeviceError

if TYPE_CHECKING:
    import torch

__all__ = ["hardware", "resolve_device"]


def resolve_device(name: str) -> "torch.device":
    """`auto` is CUDA where there is one, else the CPU; `DeviceError` for a device that is not there."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index.isdecimal() or name == "cuda"):
        raise DeviceError(f"device {name!r}: expected auto, cpu, cuda or cuda:N; use one of these")
    if int(index or 0) >= count:
        raise DeviceError(f"device {name!r}: expected a GPU of that number, found {count} GPUs; use --device cpu")
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
