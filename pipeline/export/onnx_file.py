"""A head as an ONNX file with a free number of rows, compared with PyTorch before it is handed over."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ResultsError
from pipeline.export.torch_file import module_of
from pipeline.optional import require

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.saved import SavedHead

__all__ = ["write_onnx"]

#: Largest difference to PyTorch, beside outputs of size one.
TOLERANCE = 1e-5


def write_onnx(head: "SavedHead", folder: Path) -> None:
    """Write `head.onnx`: input `features` [rows, inputs], output `logits` (or `value`) [rows, outputs].

    Raises `MissingPackageError` without the extra, `ResultsError` where onnxruntime does not agree with PyTorch.
    """
    require("onnx", "onnxscript", "onnxruntime")
    import torch

    module = module_of(head)
    example = _features(head, 3)
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated calls
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                module, (example,), dynamo=True, verbose=False, input_names=["features"],
                output_names=["value" if head.labels is None else "logits"],
                dynamic_shapes={"features": {0: torch.export.Dim("rows")}},
            )  # fmt: skip
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
    program.save(folder / "head.onnx", external_data=False)
    _check(module, folder / "head.onnx", head)


def _features(head: "SavedHead", rows: int) -> "Tensor":
    """Features [rows, inputs] that are standard normal once the head has scaled them: where its bases are at work."""
    import torch

    drawn = torch.randn(rows, head.network.inputs, generator=torch.Generator().manual_seed(rows))
    return drawn / torch.from_numpy(head.scaling.factor) + torch.from_numpy(head.scaling.shift)


def _check(module: "object", file: Path, head: "SavedHead") -> None:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for rows in (1, 7):
        x = _features(head, rows)
        with torch.inference_mode():
            expected = module(x).numpy()
        (found,) = session.run(None, {"features": x.numpy()})
        worst = float((abs(found - expected) / (1 + abs(expected))).max())
        if not worst <= TOLERANCE:
            raise ResultsError(
                f"{file.name}: expected PyTorch's outputs within {TOLERANCE:g}, found {worst:.2g} between them; "
                "export with `format='torch'`"
            )
