"""The one module that imports pykan, and works round what pykan does to its surroundings.

Its constructor reseeds three global generators, edits the caller's widths and (with `auto_save`) writes `./model`;
importing it sets up matplotlib. Here it is imported and called under a lock, with all of that put back.
"""

import contextlib
import importlib
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.fit.kan_forward import depth, layer_of, order_of

__all__ = ["guarded", "pykan_network", "symbols", "to_pykan"]

_LOCK = threading.RLock()


@contextlib.contextmanager
def guarded() -> Iterator[Any]:
    """pykan's package, imported; global generators, default dtype, warnings and matplotlib are as before afterwards.

    Raises `ConfigError` where pykan is not installed.
    """
    import warnings

    with _LOCK:
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import matplotlib as mpl

                with mpl.rc_context():
                    try:
                        # Not `import kan.MultKAN`: the package hides its module behind the class of the same name.
                        package = importlib.import_module("kan.MultKAN")
                    except ImportError as error:
                        raise ConfigError(
                            f"head 'kan': expected the package pykan and what it needs, found that {error}; "
                            "run `pip install 'kanglue[kan]'`"
                        ) from error
                    yield package
        finally:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)


def pykan_network(widths: Sequence[int], intervals: int, order: int, low_high: Sequence[float], seed: int) -> Any:
    """A new `MultKAN` of pykan's (float32) that writes no files."""
    with guarded() as package:
        torch.set_default_dtype(torch.float32)
        return package.MultKAN(
            width=[int(width) for width in widths], grid=int(intervals), k=int(order), seed=int(seed),
            auto_save=False, grid_range=list(low_high), device="cpu",
        )  # fmt: skip


def to_pykan(tensors: Mapping[str, Tensor]) -> Any:
    """A head as pykan's own `MultKAN` (float32), to go on with in pykan; nothing is written anywhere."""
    layers = [layer_of(tensors, index) for index in range(depth(tensors))]
    widths = [layers[0]["coef"].shape[0], *(layer["coef"].shape[1] for layer in layers)]
    order = order_of(layers[0])
    network = pykan_network(widths, layers[0]["coef"].shape[2] - order, order, (-1, 1), 0)
    for own, layer in zip(network.act_fun, layers, strict=True):
        for name, tensor in layer.items():
            getattr(own, name).data = tensor.detach().float().clone()
    return network


def symbols() -> dict[str, tuple[Any, Any, int]]:
    """pykan's library of symbols: name to (function of tensors, function of sympy expressions, complexity)."""
    with guarded():
        from kan.utils import SYMBOLIC_LIB

        return {name: (entry[0], entry[1], entry[2]) for name, entry in SYMBOLIC_LIB.items()}
