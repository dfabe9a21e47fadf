"""Tracking for those who use it: learning curves and final metrics of every head that is trained.

`LOGS` names the trackers that `--log NAME[:DIR]` takes. Each is an optional extra and writes below one folder only.
"""

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.optional import require
from pipeline.paths import child
from pipeline.sweep.results import SELECTION
from pipeline.text import json_text

__all__ = ["LOGS", "Log", "open_log"]

Scalar = tuple[str, float, int]


#: Tracks one head: told of its record, as `Results.add` takes it, when it is stored.
Log = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class _Tracker:
    """A tracker: how it is opened on a folder, and the packages of its extra."""

    open: Callable[[Path], Log]
    packages: tuple[str, ...]


def open_log(spec: str, results: Path) -> Log:
    """The tracker of `NAME` or `NAME:DIR`; the folder is `NAME` beside the results by default.

    Raises `UnknownNameError`, or `MissingPackageError` where the extra is not installed.
    """
    name, _, folder = spec.partition(":")
    if name not in LOGS:
        raise UnknownNameError("tracker", name, tuple(LOGS), "write `log=NAME` or `log=NAME:DIR`")
    tracker = LOGS[name]
    require(*tracker.packages)
    place = Path(folder) if folder else results.parent / name
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"`log` {name}: expected a folder in {place} ({error.strerror}); name another") from error
    return tracker.open(place)


def scalars(record: Mapping[str, Any]) -> Iterator[Scalar]:
    """Name, value and epoch (from 1) of all that a head's record has to plot; what is not finite is left out.

    Final metrics stand at the chosen epoch.
    """
    for epoch, (training, selection, score) in enumerate(record["curve"], 1):
        yield from (
            (name, float(value), epoch)
            for name, value in (
                ("loss/training", training),
                ("loss/selection", selection),
                (f"curve/{record['main_metric']}", score),
            )
            if math.isfinite(value)
        )
    for split, metrics in record["metrics"].items():
        place = "selection" if split == SELECTION else split
        yield from ((f"{place}/{name}", float(v), record["epoch"]) for name, v in metrics.items() if math.isfinite(v))


def _title(record: Mapping[str, Any]) -> str:
    return f"{record['head']}-seed{record['seed']}-{record['id']}"


class _TensorBoard:
    """A run a head: `DIR/TASK/ENCODER/HEAD-seedN-ID`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, record: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = self._folder
        for name in (record["task"], record["encoder"], _title(record)):
            place = child(place, name, "`log`")
        with SummaryWriter(str(place), max_queue=1000, flush_secs=3600) as writer:
            writer.add_text("config", f"```json\n{json_text(record['config'], indent=2)}\n```")
            for name, value, epoch in scalars(record):
                writer.add_scalar(name, value, epoch)


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow's use of what SQLAlchemy deprecates is not its user's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class _Mlflow:
    """A run a head, an experiment a task, in the SQLite database `DIR/mlflow.db` (its folders are deprecated)."""

    #: What its store takes at once.
    BATCH = 1000

    def __init__(self, folder: Path) -> None:
        # Nothing of what is tracked, nor that it is, leaves this machine.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        self._folder = folder.resolve()
        file = self._folder / "mlflow.db"
        try:
            with _quiet():
                from mlflow.tracking import MlflowClient

                for name in ("mlflow", "alembic"):
                    logging.getLogger(name).setLevel(logging.ERROR)
                self._client = MlflowClient(tracking_uri=f"sqlite:///{file}")
                self._client.search_experiments(max_results=1)
        except Exception as error:  # MLflow's, SQLAlchemy's and Alembic's own, for one fault: no database of MLflow's
            cause = " ".join(str(error).split())[:200]
            raise ConfigError(f"`log` mlflow: expected a database in {file} ({cause}); name another folder") from error
        self._experiments: dict[str, str] = {}

    def __call__(self, record: Mapping[str, Any]) -> None:
        with _quiet():
            self._track(record)

    def _track(self, record: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        client, now = self._client, int(time.time() * 1000)
        run = client.create_run(
            self._experiment(record["task"]),
            run_name=_title(record),
            tags={"kanglue.id": record["id"], "kanglue.status": record["status"]},
        ).info.run_id
        about = {name: record[name] for name in ("encoder", "parameters", "flops", "device", "train_rows")}
        params = [Param(name, str(value)) for name, value in (about | dict(record["config"])).items()]
        metrics = [Metric(name, value, now, epoch) for name, value, epoch in scalars(record)]
        metrics.append(Metric("fit_seconds", record["fit_seconds"], now, 0))
        client.log_batch(run, params=params)
        for start in range(0, len(metrics), self.BATCH):
            client.log_batch(run, metrics=metrics[start : start + self.BATCH])
        client.set_terminated(run, "FINISHED" if record["status"] == "trained" else "FAILED")

    def _experiment(self, task: str) -> str:
        if task not in self._experiments:
            found = self._client.get_experiment_by_name(task)
            self._experiments[task] = (
                self._client.create_experiment(
                    task, artifact_location=child(self._folder / "artifacts", task, "`log`").as_uri()
                )
                if found is None
                else found.experiment_id
            )
        return self._experiments[task]


LOGS: dict[str, _Tracker] = {
    "tensorboard": _Tracker(_TensorBoard, ("tensorboard",)),
    "mlflow": _Tracker(_Mlflow, ("mlflow", "sqlalchemy", "alembic")),
}
