"""The encoder of a run, loaded once: its device, its tokenizer, and its weights in each precision that is asked for."""

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.encode.encoders import Encoder
from pipeline.progress import say

if TYPE_CHECKING:
    import torch

    from pipeline.encode.load import Loaded
    from pipeline.encode.tokens import Tokeniser

__all__ = ["Models"]


class Models:
    """Loads on demand, since a run that finds its files complete needs no encoder and no PyTorch."""

    def __init__(
        self, encoder: Encoder, max_length: int, layers: tuple[int, ...] | None, device: str, precision: str
    ) -> None:
        """`device` and `precision` are the options' words; `auto` is resolved when it is needed."""
        self._encoder, self._max_length, self._layers = encoder, max_length, layers
        self._device_name, self._precision = device, precision
        self._loaded: dict[str, Loaded] = {}

    @cached_property
    def device(self) -> "torch.device":
        """The device; raises `DeviceError` where it is not there."""
        from pipeline.device import resolve_device

        device = resolve_device(self._device_name)
        if device.type == "cuda":
            # A context is made while files are read; a fault of it shows where it is first used.
            threading.Thread(target=_make_context, args=(device,), daemon=True).start()
        return device

    @property
    def default_precision(self) -> str:
        """What was asked for; `auto` is float16 on a GPU and float32 on a CPU."""
        if self._precision != "auto":
            return self._precision
        return "float16" if self.device.type == "cuda" else "float32"

    @cached_property
    def tokeniser(self) -> "Tokeniser":
        """The tokenizer, truncating as the run does."""
        from pipeline.encode.tokens import load_tokeniser

        return load_tokeniser(self._encoder.folder, self._encoder.name, self._max_length)

    @cached_property
    def _weights(self) -> Any:
        """The encoder in float32 on the device, which nobody changes."""
        from pipeline.encode.load import load_weights

        return load_weights(self._encoder, self.device)

    def has(self, precision: str) -> bool:
        """Whether `get` would have nothing to load."""
        return precision in self._loaded

    def get(self, precision: str) -> "Loaded":
        """The encoder in a precision."""
        if precision not in self._loaded:
            if precision != "float32" and self.device.type == "cpu":
                say(f"{precision} on a CPU is many times slower than float32 where the processor has no unit for it")
            say(f"loading {self._encoder.name} on {self.device} in {precision}")
            self._loaded[precision] = self._load(precision)
        return self._loaded[precision]

    @cached_property
    def exact(self) -> "Loaded":
        """What other precisions are compared with: the same weights in float32, through PyTorch's operators alone."""
        return self._load("float32", plain=True)

    def _load(self, precision: str, *, plain: bool = False) -> "Loaded":
        from pipeline.encode.load import load

        return load(
            self._encoder, self._max_length, self.device, precision, self._layers, plain=plain,
            tokeniser=self.tokeniser, weights=self._weights,
        )  # fmt: skip


def _make_context(device: "torch.device") -> None:
    import contextlib

    import torch

    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device=device)
