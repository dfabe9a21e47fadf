"""kanglue: embed once, fit a thousand heads.

The verbs of the two command lines::

    import pipeline
    pipeline.embed(["mrpc"], encoder="minilm", data="sample")
    pipeline.sweep(task=["mrpc"], head=["linear", "effi_kan"], encoder="minilm", seeds="0:5", cache="cache/sample")

Each is loaded when it is first used: `import pipeline` takes milliseconds and imports neither NumPy nor PyTorch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# PyTorch's threads otherwise spin for milliseconds after each operation, and take the cores from our own threads, from
# tokenisers and from other processes. A short spin still bridges the gap to the next operation. GNU's OpenMP reads this
# when PyTorch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

__version__ = "0.1.0"

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

if TYPE_CHECKING:
    from pipeline.api import fit, sweep
    from pipeline.encode.run import embed
    from pipeline.estimators import HeadClassifier, HeadRegressor
    from pipeline.export.load import load_weights
    from pipeline.export.write import export
    from pipeline.models.saved import load_head
    from pipeline.serve.predict import predict
    from pipeline.serve.submit import submit
    from pipeline.store import open_cache
else:
    _MODULES = {
        "HeadClassifier": "pipeline.estimators",
        "HeadRegressor": "pipeline.estimators",
        "embed": "pipeline.encode.run",
        "export": "pipeline.export.write",
        "fit": "pipeline.api",
        "load_head": "pipeline.models.saved",
        "load_weights": "pipeline.export.load",
        "open_cache": "pipeline.store",
        "predict": "pipeline.serve.predict",
        "submit": "pipeline.serve.submit",
        "sweep": "pipeline.api",
    }

    # Importing a subpackage binds its name here, once, over a verb of the same name. These three are imported now, and
    # the names freed: `pipeline.fit` is the verb from here on, whatever is imported from the package `pipeline.fit`.
    for _name in ("export", "fit", "sweep"):
        importlib.import_module(f"pipeline.{_name}")
        del globals()[_name]

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
