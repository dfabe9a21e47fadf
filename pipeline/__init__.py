"""kanglue: embed once, fit a thousand heads.

The verbs of the two command lines, loaded when they are first used::

    import pipeline
    pipeline.embed(["mrpc"], encoder="minilm", data="sample")
    pipeline.sweep(task=["mrpc"], head=["linear", "effi_kan"], encoder="minilm", seeds="0:5", cache="cache/sample")

`pipeline.fit` and `pipeline.sweep` are packages as well as verbs: calling the package calls the verb.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import Any

# PyTorch's threads otherwise spin for milliseconds after each operation, and take the cores from our own threads, from
# tokenisers and from other processes. A short spin still bridges the gap to the next operation. GNU's OpenMP reads this
# when PyTorch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

__all__ = [
    "HeadClassifier",
    "HeadRegressor",
    "embed",
    "export",
    "fit",
    "load_head",
    "load_weights",
    "open_cache",
    "predict",
    "submit",
    "sweep",
]

_VERBS = {
    "HeadClassifier": "pipeline.estimators",
    "HeadRegressor": "pipeline.estimators",
    "embed": "pipeline.encode.run",
    "export": "pipeline.export.write",
    "fit": "pipeline.api",
    "load_head": "pipeline.models.saved",
    "load_weights": "pipeline.export.load",
    "open_cache": "pipeline.store",
    "predict": "pipeline.predict",
    "submit": "pipeline.submit",
    "sweep": "pipeline.api",
}


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(_VERBS[name]), name)


def _verb(package: str) -> None:
    """Let a package be called like the verb of its name: `import pipeline.fit` would hide the function otherwise."""
    name = package.rpartition(".")[2]

    class Verb(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(_VERBS[name]), name)(*args, **kwargs)

    sys.modules[package].__class__ = Verb
