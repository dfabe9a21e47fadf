"""What the C trainer is handed, as `ctypes` structures: the mirror of pipeline/native/head.h."""

import ctypes
from functools import cache

from pipeline.native import library

__all__ = ["MAX_BRANCHES", "MAX_LAYERS", "TILE", "Head", "Layer", "TensorPointers", "trainer"]

MAX_BRANCHES, MAX_LAYERS = 4, 24
#: Features that are taken at once.
TILE = 128

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
        *((name, ctypes.c_int32) for name in ("inputs", "outputs", "columns", "features", "stride")),
        *((name, ctypes.c_int32) for name in ("branches", "bias", "scaler", "normed", "units")),
        ("branch", Branch * MAX_BRANCHES),
        *((name, ctypes.c_float) for name in ("low", "step", "sharpness")),
        ("order", ctypes.c_int32),
        *((name, TensorPointers) for name in ("weight_", "scaler_", "bias_", "norm_scale_", "norm_shift_", "unit_")),
        *(
            (name, _pointer)
            for name in (
                "input", "normal", "deviation", "expansion", "expansion_gradient", "output", "delta", "strip",
                "values", "turned_input", "turned_normal", "turned",
            )
        ),
    )  # fmt: skip


class Head(ctypes.Structure):
    """`Head` of head.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "depth", "classes", "ready", "regression")),
        ("layer", Layer * MAX_LAYERS),
        *((name, ctypes.c_float) for name in ("lr", "weight_decay", "clip")),
        ("row", _pointer),
        ("stop", _pointer),
    )


@cache
def trainer() -> ctypes.CDLL | None:
    """The compiled library with its functions declared, `None` where there is none."""
    found = library()
    if found is not None:
        found.train_head.restype = ctypes.c_int64
        found.train_head.argtypes = (
            ctypes.POINTER(Head), _pointer, ctypes.c_int64, _pointer, _pointer,
            *[ctypes.c_int64] * 5, ctypes.POINTER(ctypes.c_double),
        )  # fmt: skip
        found.head_outputs.restype = None
        found.head_outputs.argtypes = (
            ctypes.POINTER(Head), _pointer, ctypes.c_int64, _pointer, *[ctypes.c_int64] * 2, _pointer
        )  # fmt: skip
    return found
