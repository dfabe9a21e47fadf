"""`--log`: what TensorBoard and MLflow read is what the results database holds."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fit_heads
from pipeline.errors import ConfigError, UnknownNameError
from pipeline.log import open_log
from pipeline.sweep.results import Results
from tests.helpers.synthetic_caches import write_cache


@pytest.fixture
def call(tmp_path, monkeypatch):
    write_cache(tmp_path / "cache", width=4)
    write_cache(tmp_path / "cache", "stsb", kind="number", width=4)
    monkeypatch.chdir(tmp_path)  # what a tracker might write beside its folder would show here

    def run(*arguments):
        places = ["--cache", "cache", "--results", "runs/r.sqlite", "--device", "cpu", "--epochs", "3"]
        return CliRunner().invoke(fit_heads.main, [*arguments, "--encoder", "tiny", *places])

    return run


def expected(head, curve, main):
    """{name: {epoch: value}} as the database has it."""
    found = {}
    for epoch, training, selection, score in curve:
        for name, value in (("loss/training", training), ("loss/selection", selection), (f"curve/{main}", score)):
            if value is not None:
                found.setdefault(name, {})[epoch] = value
    for split, metrics in (head["metrics"] | {"selection": head["selection"]}).items():
        for name, value in metrics.items():
            found[f"{split}/{name}"] = {head["epoch"]: value}
    return found


def stored(root):
    with Results(root / "runs/r.sqlite") as store:
        heads = {head["id"]: head for head in store.heads()}
        query = "SELECT epoch, training_loss, selection_loss, selection_score FROM curves WHERE head_id = ?"
        curves = {name: store._run(query, (name,)) for name in heads}
    return {name: (head, expected(head, curves[name], head["main_metric"])) for name, head in heads.items()}


def assert_close(found, wanted):
    assert {name: set(points) for name, points in found.items()} == {n: set(points) for n, points in wanted.items()}
    for name, points in wanted.items():
        np.testing.assert_allclose(
            [found[name][epoch] for epoch in points], list(points.values()), rtol=1e-5, atol=1e-7
        )


SWEEP = ("sweep", "--task", "rte,stsb", "--head", "linear", "--seeds", "0:2", "--lr", "1e-2")


def test_tensorboard_reads_every_heads_curves_and_metrics(call, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = {path.name for path in tmp_path.iterdir()}
    assert call(*SWEEP, "--log", "tensorboard").exit_code == 0
    heads = stored(tmp_path)
    assert len(heads) == 4
    for name, (head, wanted) in heads.items():
        folder = tmp_path / "runs/tensorboard" / head["task"] / "tiny" / f"{head['head']}-seed{head['seed']}-{name}"
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        found = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
        assert_close(found, wanted)
    count = len(list((tmp_path / "runs/tensorboard").rglob("events*")))
    assert count == 4
    call(*SWEEP, "--log", "tensorboard")  # nothing is trained, so nothing is tracked again
    assert len(list((tmp_path / "runs/tensorboard").rglob("events*"))) == count
    assert {path.name for path in tmp_path.iterdir()} - before == {"runs"}


def test_mlflow_reads_every_heads_curves_and_metrics(call, tmp_path):
    before = {path.name for path in tmp_path.iterdir()}
    done = call(*SWEEP, "--log", "mlflow:tracked/here", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["trained"] == 4
    assert "INFO" not in done.stderr
    assert call("run", "rte", "--head", "mlp", "--lr", "1e30", "--log", "mlflow:tracked/here").exit_code == 0
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'tracked/here/mlflow.db'}")
    experiments = [client.get_experiment_by_name(task) for task in ("rte", "stsb")]
    runs = client.search_runs([one.experiment_id for one in experiments])
    heads = stored(tmp_path)
    assert len(runs) == len(heads) == 5
    for run in runs:
        head, wanted = heads[run.data.tags["kanglue.id"]]
        if head["status"] == "diverged":
            assert (run.info.status, head["config"]["lr"]) == ("FAILED", 1e30)
            continue
        assert run.info.status == "FINISHED"
        assert run.data.params["lr"] == "0.01"
        assert run.data.params["encoder"] == "tiny"
        names = set(run.data.metrics) - {"fit_seconds"}
        found = {name: {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)} for name in names}
        assert_close(found, wanted)
    assert {path.name for path in tmp_path.iterdir()} - before == {"runs", "tracked"}


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_without_its_package_a_tracker_is_one_line(call, monkeypatch, name, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked, *at: None if asked == package else find(asked, *at))
    done = call(*SWEEP, "--log", name)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"expected the package {package}, found it not installed" in done.stderr
    assert f"pip install 'kanglue[{name}]'" in done.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("wandb", UnknownNameError, "unknown tracker 'wandb': expected one of tensorboard, mlflow"),
        ("", UnknownNameError, "unknown tracker ''"),
        ("tensorboard:file/below", ConfigError, "expected a folder in file/below"),
        ("mlflow:notdb", ConfigError, "expected a database in"),
    ],
)
def test_a_wrong_tracker_is_one_line(tmp_path, monkeypatch, spec, error, words):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("notdb").mkdir()
    Path("notdb/mlflow.db").write_text("not a database" * 100)
    with pytest.raises(error) as caught:
        open_log(spec, tmp_path / "runs/r.sqlite")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
