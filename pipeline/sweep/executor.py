"""Executors: what takes a pack and gives back its trained heads, here or elsewhere.

`Work` describes a pack in plain data that pickles, so it can travel to another process or another machine; `PackResult`
comes back the same way to the process that stores results. Grouping heads into packs, their sizes, storing and
progress are the runner's (`pipeline.sweep.runner`), whatever the executor.
"""

import gc
import platform
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.device import free_bytes, hardware, resolve_device
from pipeline.errors import DeviceError
from pipeline.heads.config import HeadConfig
from pipeline.models.caches import CacheRef, load_data
from pipeline.versions import version

if TYPE_CHECKING:
    import torch

    from pipeline.fit.data import FitData, Scaling
    from pipeline.fit.train import Outcome

__all__ = ["Executor", "LocalExecutor", "PackResult", "PackTooLargeError", "Trainer", "Work", "run_versions"]


class PackTooLargeError(DeviceError):
    """A pack that did not fit into memory; half of it may."""


@dataclass(frozen=True)
class Work:
    """A pack to train: heads of one shape on one embedding of one cache, which a worker opens by its path.

    The cache's fingerprint is compared when it is opened, so a worker that sees another file refuses it.
    """

    cache: CacheRef
    configs: tuple[HeadConfig, ...]


@dataclass(frozen=True)
class PackResult:
    """The trained heads of a pack, in the order of its configurations, and what they share.

    `train_rows` are the labelled training rows; `device` and `versions` say what trained them.
    """

    outcomes: "tuple[Outcome, ...]"
    scaling: "Scaling"
    target_scale: tuple[float, float]
    train_rows: int
    device: str
    versions: dict[str, str]


def run_versions(device: "torch.device") -> dict[str, str]:
    """The hardware and the versions that a head's record names."""
    packages = {name: version(name) for name in ("kanglue", "torch", "numpy")}
    return {"python": platform.python_version(), "hardware": hardware(device)} | packages


class Trainer:
    """Trains packs on one device of this process; keeps the rows of the last pack, which the next one mostly shares."""

    def __init__(self, device: str) -> None:
        """Raises `DeviceError` for a device that is not there."""
        self.device = resolve_device(device)
        self.versions = run_versions(self.device)
        self._data: FitData | None = None
        self._loaded: Any = None

    def data(self, work: Work) -> "FitData":
        """The rows that a pack trains on."""
        config = work.configs[0]
        key = (work.cache, config.features, config.scale, config.token_pool)
        if key != self._loaded:
            self._data = self._loaded = None  # freed before the next ones are read
            self._data, self._loaded = load_data(*key), key
        return self._data

    def __call__(self, work: Work, on_epoch: Callable[[], None] = lambda: None) -> PackResult:
        """Train a pack; `on_epoch` is called after every epoch. Raises `PackTooLargeError` where memory runs out."""
        from pipeline.fit.train import train_pack

        data = self.data(work)
        try:
            outcomes = train_pack(list(work.configs), data, self.device, on_epoch)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        else:
            return PackResult(
                tuple(outcomes), data.scaling, data.target_scale, len(data.labels["train"]), str(self.device),
                self.versions,
            )  # fmt: skip
        # Outside the handler, where the exception no longer holds the pack's tensors.
        _release(self.device)
        raise PackTooLargeError(f"{self.device}: expected memory for {len(work.configs)} heads, found too little")


class Executor(AbstractContextManager["Executor"]):
    """Trains packs, `slots` of them at the same time; leaving it as a context ends whatever it started."""

    #: Packs that may be submitted before the first of them is done.
    slots: int = 1
    #: Name of the device that trains a pack: `cpu`, `cuda:0`.
    device: str

    @abstractmethod
    def submit(self, work: Work, on_epoch: Callable[[], None]) -> "Future[PackResult]":
        """Begin to train a pack.

        `on_epoch` is called after every epoch where the executor learns of it, never after the future is done. The
        future's exception is a `PackTooLargeError` where memory ran out.
        """

    @abstractmethod
    def free_bytes(self) -> int:
        """Bytes of memory free for the next pack."""


class LocalExecutor(Executor):
    """Trains in this process, one pack after another: `submit` returns when the pack is done."""

    def __init__(self, device: str) -> None:
        """Raises `DeviceError` for a device that is not there."""
        self._trainer = Trainer(device)
        self.device = str(self._trainer.device)

    def submit(self, work: Work, on_epoch: Callable[[], None]) -> "Future[PackResult]":
        """Train the pack now."""
        future: Future[PackResult] = Future()
        try:
            future.set_result(self._trainer(work, on_epoch))
        except Exception as error:
            future.set_exception(error)
        return future

    def free_bytes(self) -> int:
        """Bytes that are free on the device."""
        return free_bytes(self._trainer.device)

    def __exit__(self, *exception: object) -> None:
        """Nothing was started."""


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a processor or on a GPU."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in message for words in ("not enough memory", "can't allocate memory", "out of memory")
    )


def _release(device: "torch.device") -> None:
    """Give back what a failed pack held."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
