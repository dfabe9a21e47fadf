"""The verbs of the command lines, for Python: each takes the command's options and returns a typed result."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, DeviceError
from pipeline.progress import say
from pipeline.sweep.costs import with_costs
from pipeline.sweep.results import Results
from pipeline.sweep.run import SweepResult, run_sweep
from pipeline.sweep.spec import Product, product_from, read_spec

__all__ = ["FitResult", "fit", "sweep"]

CACHE = Path("cache")
RESULTS = Path("runs/results.sqlite")


@dataclass(frozen=True)
class FitResult:
    """One trained head (document of `fit_heads.py run --json`).

    `metrics` maps reported splits, and `selection` the selection rows, to GLUE's metrics; `epoch` counts from 1;
    `flops` are one row's forward, `product_flops` the matrix products among them, `training_flops` one row's in a step
    (`pipeline.heads.cost`; `None` where the cache's heads all diverged); `fit_seconds` is the head's share of its
    pack's time; `trained` is false where the head was stored already.
    """

    id: str
    task: str
    encoder: str
    head: str
    seed: int
    config: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    selection: dict[str, float]
    epoch: int
    parameters: int
    flops: int
    product_flops: int | None
    training_flops: int | None
    fit_seconds: float
    status: str
    diverged_at: int | None
    trained: bool


def fit(
    task: str,
    *,
    head: str,
    encoder: str | None = None,
    features: str | None = None,
    protocol: str = "clean",
    seed: int = 0,
    cache: str | Path = CACHE,
    results: str | Path = RESULTS,
    device: str = "auto",
    log: str | None = None,
    **options: Any,
) -> FitResult:
    """Train one head, a pack of one, or look it up where it is stored; `options` are those of `HeadConfig`.

    `log` is a tracker that is told of it: tensorboard or mlflow, with `:DIR` for a folder.
    """
    given = {name: value for name, value in options.items() if value is not None}
    table = {"task": task, "head": head, "protocol": protocol, "seeds": seed} | given
    table |= {name: value for name, value in (("encoder", encoder), ("features", features)) if value is not None}
    product = product_from(table, "fit")
    for name, values in product.options.items():
        if not isinstance(values, tuple) or len(values) > 1:
            hint = "; give `grid_epochs` for a grid that grows" if name == "grid" else ""
            raise ConfigError(f"`{name}`: expected one value, found {values}{hint}")
    done = run_sweep(
        [product],
        cache=Path(cache),
        results=Path(results),
        device=device,
        on_head=_log(log, results),
    )
    _tell_nothing_logged(log, done)
    if done.failures:
        raise DeviceError(done.failures[0])
    with Results(results) as store:
        (document,) = with_costs(store, store.heads({"id": done.ids[0]}))
    return FitResult(
        **{name: document[name] for name in FitResult.__dataclass_fields__ if name != "trained"},
        trained=bool(done.trained),
    )


def sweep(
    spec: str | Path | None = None,
    *,
    cache: str | Path = CACHE,
    results: str | Path = RESULTS,
    device: str = "auto",
    on_plan: Any = lambda *_: None,
    log: str | None = None,
    **options: Any,
) -> SweepResult:
    """Train every head of a SPEC.toml, or of the product of `options` (lists of values), that is not stored yet.

    `log` is a tracker that is told of every head as it is stored: tensorboard or mlflow, with `:DIR` for a folder.
    """
    products: Sequence[Product] = (
        read_spec(Path(spec), options) if spec is not None else [product_from(options, "sweep")]
    )
    done = run_sweep(
        products, cache=Path(cache), results=Path(results), device=device, on_plan=on_plan, on_head=_log(log, results)
    )
    _tell_nothing_logged(log, done)
    return done


def _log(spec: str | None, results: str | Path) -> Any:
    """What a tracker is told heads by; `None` without one."""
    if spec is None:
        return None
    from pipeline.log import open_log

    return open_log(spec, Path(results))


def _tell_nothing_logged(spec: str | None, done: SweepResult) -> None:
    if spec is not None and not done.trained:
        say("log: heads are logged as they are trained; none was trained now, so nothing was logged")
