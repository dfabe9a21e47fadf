"""Sweeps from cache to results: what is stored, what is skipped, what an interruption costs, saved heads."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file
from sklearn.metrics import accuracy_score, f1_score

import pipeline
from pipeline.api import FitResult
from pipeline.errors import DeviceError, KanglueError, ResultsError
from pipeline.fit import train
from pipeline.sweep.results import Results
from tests.helpers.synthetic_caches import arrays_of, write_cache

ROOT = Path(__file__).parents[1]
QUICK = {"encoder": "tiny", "epochs": 2, "hidden": [[4]]}


def sweep(tmp_path, **options):
    options = QUICK | {"task": "rte", "head": "linear", "device": "cpu"} | options
    return pipeline.sweep(cache=tmp_path / "cache", results=tmp_path / "runs/results.sqlite", **options)


def stored(tmp_path, where=None):
    with Results(tmp_path / "runs/results.sqlite") as results:
        return results.heads(where)


@pytest.fixture
def cache(tmp_path):
    return write_cache(tmp_path / "cache")


def test_every_head_is_stored_with_what_it_did(tmp_path, cache):
    done = sweep(tmp_path, head=["linear", "effi_kan"], seeds="0:3", lr=[1e-3, 1e-2])
    assert (done.heads, done.trained, done.skipped, done.diverged, done.failed) == (12, 12, 0, 0, 0)
    names = {"heads", "trained", "skipped", "diverged", "failed", "seconds", "results", "trials"}
    assert set(done.document()) == names
    heads = stored(tmp_path)
    assert {head["id"] for head in heads} == set(done.ids)
    _, labels = arrays_of(cache, "validation")
    for head in heads:
        assert (head["task"], head["encoder"], head["features"], head["protocol"]) == ("rte", "tiny", "pooled", "clean")
        assert head["config"]["lr"] in (1e-3, 1e-2)
        assert head["seed"] == head["config"]["seed"]
        assert 1 <= head["epoch"] <= 2
        assert (head["status"], head["diverged_at"]) == ("trained", None)
        assert (head["train_rows"], head["inputs"], head["pairs"], head["row_limit"]) == (200, 16, "joint", None)
        assert set(head["metrics"]) == {"validation"}
        with Results(tmp_path / "runs/results.sqlite") as results:
            outputs = results.outputs(head["id"], "validation")
        assert outputs.shape == (80, 2)
        assert outputs.dtype == np.float32
        metrics = head["metrics"]["validation"]
        assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, outputs.argmax(1)))
        assert metrics["f1"] == pytest.approx(f1_score(labels, outputs.argmax(1), zero_division=0))
        assert set(head["selection"]) == set(metrics)


def test_the_majority_class_stands_beside_the_heads(tmp_path, cache):
    sweep(tmp_path)
    (_, train_labels), (_, labels) = arrays_of(cache, "train"), arrays_of(cache, "validation")
    with Results(tmp_path / "runs/results.sqlite") as results:
        ((place, found),) = results.baselines().items()
    assert place[1] == "validation"
    guess = np.full(len(labels), np.bincount(train_labels).argmax())
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, guess))


@pytest.mark.usefixtures("cache")
def test_a_second_run_trains_nothing(tmp_path, monkeypatch):
    first = sweep(tmp_path, head=["linear", "mlp"], seeds="0:2")
    before = stored(tmp_path)
    monkeypatch.setattr(train, "train_pack", lambda *_: pytest.fail("trained again"))
    again = sweep(tmp_path, head=["linear", "mlp"], seeds="0:2")
    assert (again.trained, again.skipped, again.ids) == (0, 4, first.ids)
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda or cuda:N"):
        sweep(tmp_path, seeds="0:4", device="tpu")
    assert stored(tmp_path) == before


@pytest.mark.usefixtures("cache")
def test_a_wider_sweep_trains_only_what_is_new(tmp_path):
    sweep(tmp_path, seeds="0:2")
    wider = sweep(tmp_path, seeds="0:5")
    assert (wider.trained, wider.skipped) == (3, 2)
    assert len(stored(tmp_path)) == 5


@pytest.mark.usefixtures("cache")
def test_an_interrupted_sweep_goes_on(tmp_path, monkeypatch):
    original, calls = train.train_pack, []

    def interrupted(configs, data, device, on_epoch):
        calls.append(configs[0].head)

        def stop():
            raise KeyboardInterrupt

        return original(configs, data, device, on_epoch if len(calls) == 1 else stop)

    options = {"head": ["linear", "mlp", "effi_kan"], "seeds": "0:2"}
    monkeypatch.setattr(train, "train_pack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, **options)
    assert len(calls) == 2
    assert [head["head"] for head in stored(tmp_path)] == [calls[0]] * 2
    monkeypatch.setattr(train, "train_pack", original)
    done = sweep(tmp_path, **options)
    assert (done.trained, done.skipped) == (4, 2)
    assert len(stored(tmp_path)) == 6


SCRIPT = """
import os, signal, sys
import pipeline
from pipeline.fit import train
original, packs = train.train_pack, []
def dies(configs, data, device, on_epoch):
    packs.append(configs)
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    return original(configs, data, device, kill if len(packs) == 2 and sys.argv[2] == "dies" else on_epoch)
train.train_pack = dies
root = sys.argv[1]
print(pipeline.sweep(task="rte", encoder="tiny", head=["linear", "mlp", "effi_kan"], seeds="0:3", epochs=2,
    hidden=[[4]], cache=root + "/cache", results=root + "/runs/results.sqlite", device="cpu").heads)
"""


def started(tmp_path, how):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), how]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("cache")
def test_a_killed_sweep_loses_the_running_pack_only(tmp_path):
    process = started(tmp_path, "dies")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert [head["head"] for head in stored(tmp_path)] == ["linear"] * 3
    done = sweep(tmp_path, head=["linear", "mlp", "effi_kan"], seeds="0:3")
    assert (done.trained, done.skipped) == (6, 3)


@pytest.mark.usefixtures("cache")
def test_two_sweeps_at_once_store_every_head_once(tmp_path):
    pair = [started(tmp_path, "lives") for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ends
    heads = stored(tmp_path)
    assert len(heads) == len({head["id"] for head in heads}) == 9
    with sqlite3.connect(tmp_path / "runs/results.sqlite") as database:
        assert database.execute("SELECT count(*) FROM outputs").fetchone() == (9,)
        assert database.execute("SELECT count(*) FROM curves").fetchone() == (18,)
    database.close()
    folders = sorted(path.name for path in (tmp_path / "runs/heads").iterdir())
    assert folders == sorted(head["id"] for head in heads)


@pytest.mark.usefixtures("cache")
def test_a_head_that_diverges_is_recorded_with_its_step(tmp_path):
    done = sweep(tmp_path, head="mlp", lr=[1e30, 1e-3], epochs=3)
    assert (done.trained, done.diverged) == (2, 1)
    good, bad = sorted(stored(tmp_path), key=lambda head: head["config"]["lr"])
    assert (bad["status"], bad["diverged_at"], bad["metrics"], bad["selection"]) == ("diverged", 1, {}, {})
    assert good["status"] == "trained"
    assert sweep(tmp_path, head="mlp", lr=[1e30, 1e-3], epochs=3).trained == 0


def test_other_tasks_other_features_other_caches(tmp_path):
    write_cache(tmp_path / "cache", "mnli", kind="three", rows={"train": 120, "validation_matched": 40, "test": 9})
    write_cache(tmp_path / "cache", "stsb", kind="number", rows={"train": 120, "validation": 40, "test": 9})
    sweep(tmp_path, task=["mnli", "stsb"], features=["pooled", "mean"], head="effi_kan", epochs=3)
    mnli, stsb = stored(tmp_path, {"task": "mnli"}), stored(tmp_path, {"task": "stsb"})
    assert [head["features"] for head in mnli] == ["mean", "pooled"]
    assert set(mnli[0]["metrics"]) == {"validation_matched"}
    assert set(mnli[0]["metrics"]["validation_matched"]) == {"accuracy", "matthews_correlation"}
    assert set(stsb[0]["metrics"]["validation"]) == {"pearson", "spearmanr", "rmse", "r2"}
    assert stsb[0]["main_metric"] == "pearson_spearmanr"


def test_a_cache_of_other_rows_gives_other_heads(tmp_path, cache):
    first = sweep(tmp_path)
    cache.unlink()
    write_cache(tmp_path / "cache", seed=1)
    second = sweep(tmp_path)
    assert second.trained == 1
    assert first.ids != second.ids


@pytest.mark.usefixtures("cache")
def test_fit_is_a_sweep_of_one(tmp_path):
    places = {"cache": tmp_path / "cache", "results": tmp_path / "runs/results.sqlite", "device": "cpu"}
    one = pipeline.fit("rte", head="effi_kan", encoder="tiny", seed=4, epochs=2, hidden=[4], **places)
    assert isinstance(one, FitResult)
    assert one.trained
    assert (one.task, one.encoder, one.head, one.seed) == ("rte", "tiny", "effi_kan", 4)
    assert one.config["hidden"] == [4]
    assert one.parameters == 16 * 9 * 4 + 4 * 9 * 2
    again = pipeline.fit("rte", head="effi_kan", encoder="tiny", seed=4, epochs=2, hidden=4, **places)
    assert not again.trained
    assert again.id == one.id
    assert again.metrics == one.metrics
    assert sweep(tmp_path, head="effi_kan", seeds="4").skipped == 1


def loaded(tmp_path, head):
    return pipeline.load_head(head, results=tmp_path / "runs/results.sqlite")


@pytest.mark.parametrize("protocol", ["clean", "published"])
def test_a_saved_head_predicts_what_was_stored(tmp_path, cache, protocol):
    done = sweep(tmp_path, head=["linear", "mlp", "effi_kan", "fast_kan", "faster_kan"], protocol=protocol, epochs=1)
    features, _ = arrays_of(cache, "validation")
    for name in done.ids:
        head = loaded(tmp_path, name)
        with Results(tmp_path / "runs/results.sqlite") as results:
            expected = results.outputs(name, "validation")
        np.testing.assert_allclose(head.predict(features), expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(head.predict(features[:1]), expected[:1], rtol=0, atol=1e-5)
        assert head.labels == ("entailment", "not_entailment")
        assert head.provenance["encoder"] == "tiny"
        folder = tmp_path / "runs/heads" / name
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "head.safetensors"]
        assert loaded(tmp_path, folder).config == head.config


def test_a_saved_regression_head_predicts_in_the_tasks_units(tmp_path):
    path = write_cache(tmp_path / "cache", "stsb", kind="number")
    (name,) = sweep(tmp_path, task="stsb", head="effi_kan", scale="tanh").ids
    features, labels = arrays_of(path, "validation")
    found = loaded(tmp_path, name).predict(features)
    with Results(tmp_path / "runs/results.sqlite") as results:
        np.testing.assert_allclose(found, results.outputs(name, "validation"), rtol=1e-5)
    assert found.mean() == pytest.approx(labels.mean(), abs=10)


def saved(tmp_path):
    (name,) = sweep(tmp_path, head="mlp").ids
    return tmp_path / "runs/heads" / name


@pytest.mark.usefixtures("cache")
def test_features_of_another_width_are_refused(tmp_path):
    head = loaded(tmp_path, saved(tmp_path))
    for wrong in (np.zeros((3, 15), np.float32), np.zeros(16, np.float32)):
        with pytest.raises(ResultsError, match=r"expected features \[rows, 16\], found"):
            head.predict(wrong)


def tamper(folder, how):
    document = json.loads((folder / "config.json").read_text())
    weights = folder / "head.safetensors"
    tensors = load(weights.read_bytes())
    if how == "wider":
        save_file(tensors | {"layers.0.weight": torch.zeros(17, 4)}, weights)
    elif how == "transposed":
        save_file(tensors | {"layers.0.weight": tensors["layers.0.weight"].T.contiguous()}, weights)
    elif how == "missing":
        save_file({name: t for name, t in tensors.items() if name != "layers.1.bias"}, weights)
    elif how == "extra":
        save_file(tensors | {"layers.7.weight": torch.zeros(2)}, weights)
    elif how == "no scaling":
        save_file({name: t for name, t in tensors.items() if name != "scaling.shift"}, weights)
    elif how == "scaling":
        save_file(tensors | {"scaling.shift": torch.zeros(1)}, weights)
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "pickle":
        torch.save(tensors, weights)
    elif how == "gone":
        weights.unlink()
    elif how == "not json":
        (folder / "config.json").write_text("{")
    else:
        if how == "family":
            document["config"]["head"] = "wavelet_kan"
        elif how == "option":
            document["config"]["wavelet"] = 3
        elif how == "hidden":
            document["config"]["hidden"] = [5]
        elif how == "outputs":
            document["outputs"] = 3
        elif how == "list":
            document = [document]
        (folder / "config.json").write_text(json.dumps(document))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "how",
    ["wider", "transposed", "missing", "extra", "no scaling", "scaling", "cut", "pickle", "gone", "not json", "family",
     "option", "hidden", "outputs", "list"],
)  # fmt: skip
def test_a_head_that_was_tampered_with_is_refused(tmp_path, how):
    folder = saved(tmp_path)
    tamper(folder, how)
    with pytest.raises(KanglueError):
        loaded(tmp_path, folder)


@pytest.mark.usefixtures("cache")
def test_a_head_that_is_not_there(tmp_path):
    sweep(tmp_path)
    with pytest.raises(ResultsError, match=r"'0123456789abcdef'.*found neither"):
        loaded(tmp_path, "0123456789abcdef")


@pytest.mark.usefixtures("cache")
def test_no_pickle_is_written_anywhere(tmp_path):
    sweep(tmp_path, head="mlp")
    suffixes = {path.suffix for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert suffixes == {".sqlite", ".safetensors", ".json"}


@pytest.mark.usefixtures("cache")
def test_rows_and_folds_are_axes_of_a_sweep(tmp_path):
    done = sweep(tmp_path, rows=[40, "all", 9999], folds=[1, 3], seeds="0:2")
    assert (done.heads, done.trained) == (8, 8)  # 9999 rows are all of them
    with Results(tmp_path / "runs/results.sqlite") as results:
        heads = results.heads()
    assert sorted((head["train_rows"], head["folds"]) for head in heads) == sorted(
        [(rows, folds) for rows in (40, 200) for folds in (1, 3)] * 2
    )
    assert {head["still_improving"] for head in heads} <= {0, 1}
    again = sweep(tmp_path, rows=200, seeds="0:2")
    assert (again.trained, again.skipped) == (0, 2)
