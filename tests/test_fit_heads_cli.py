"""The command line of stage two: documents, exit statuses, and one line for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import fit_heads
from tests.helpers.synthetic_caches import write_cache

ROOT = Path(__file__).parents[1]
HEAD = {
    "id", "task", "encoder", "head", "seed", "config", "metrics", "selection", "epoch", "parameters", "flops",
    "fit_seconds",
}  # fmt: skip


@pytest.fixture
def call(tmp_path):
    """Calls a command on a small cache; quick options and both places are given already."""
    write_cache(tmp_path / "cache")

    def run(command, *arguments, quick=True, cache=None):
        places = ["--cache", str(cache or tmp_path / "cache"), "--results", str(tmp_path / "runs/results.sqlite")]
        options = ["--epochs", "2", "--device", "cpu"] if quick and command != "table" else []
        return CliRunner().invoke(fit_heads.main, [command, *options, *places, *arguments])

    return run


def assert_failed(result, status, *words):
    """One line on standard error that holds all the words, nothing on standard output."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    if status == 1:
        assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "unexpected" not in result.stderr
    for word in words:
        assert word in lines[-1], result.stderr


def strictly(text):
    """JSON as its standard has it: no NaN, no infinity."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("head", ["linear", "mlp", "effi_kan", "fast_kan", "faster_kan"])
def test_run_has_the_contracts_document(call, head):
    result = call("run", "rte", "--head", head, "--encoder", "tiny", "--seed", "3", "--json")
    assert result.exit_code == 0, result.output
    document = strictly(result.stdout)
    assert set(document) >= HEAD
    assert (document["task"], document["encoder"], document["head"], document["seed"]) == ("rte", "tiny", head, 3)
    assert set(document["metrics"]) == {"validation"}
    assert set(document["metrics"]["validation"]) >= {"accuracy", "f1"}
    assert set(document["selection"]) >= {"accuracy"}
    assert document["config"]["epochs"] == 2
    again = strictly(call("run", "rte", "--head", head, "--encoder", "tiny", "--seed", "3", "--json").stdout)
    assert again == document


def test_run_for_people(call):
    result = call("run", "rte", "--head", "linear", "--encoder", "tiny")
    assert result.exit_code == 0
    assert "accuracy" in result.stdout
    assert ", trained" in result.stdout
    assert "stored already" in call("run", "rte", "--head", "linear", "--encoder", "tiny").stdout


def test_every_option_of_a_head_reaches_its_configuration(call):
    options = {
        "epochs": 1, "batch_size": 32, "lr": 0.5, "weight_decay": 0.25, "clip": "inf", "hidden": [5, 4], "grid": 4,
        "order": 2, "grid_range": [-2.0, 1.5], "scale": "tanh", "init": "package", "spline_scaler": True,
        "protocol": "published", "features": "mean",
    }  # fmt: skip
    arguments = []
    for name, value in options.items():
        arguments.append("--" + name.replace("_", "-"))
        if value is not True:
            arguments.append(",".join(map(str, value)) if isinstance(value, list) else str(value))
    result = call("run", "rte", "--head", "effi_kan", "--encoder", "tiny", "--json", *arguments, quick=False)
    assert result.exit_code == 0, result.output
    assert strictly(result.stdout)["config"] == options | {"head": "effi_kan", "seed": 0}


def test_sweep_and_table_have_the_contracts_documents(call, tmp_path):
    arguments = ("--task", "rte", "--encoder", "tiny", "--head", "linear,mlp", "--seeds", "0:3", "--lr", "1e-3,1e-2")
    result = call("sweep", *arguments, "--hidden", "4", "--json")
    assert result.exit_code == 0, result.output
    document = strictly(result.stdout)
    assert set(document) == {"heads", "trained", "skipped", "diverged", "failed", "seconds", "results", "trials"}
    assert [document[name] for name in ("heads", "trained", "skipped", "diverged", "failed")] == [12, 12, 0, 0, 0]
    assert document["results"] == str(tmp_path / "runs/results.sqlite")
    again = strictly(call("sweep", *arguments, "--hidden", "4", "--json").stdout)
    assert [again[name] for name in ("heads", "trained", "skipped")] == [12, 0, 12]
    table = strictly(call("table", "--json").stdout)
    assert len(table) == 12
    assert all(set(head) >= HEAD for head in table)
    assert {head["head"] for head in strictly(call("table", "--head", "mlp", "--json").stdout)} == {"mlp"}


def test_tables_for_people(call):
    result = call("sweep", "--task", "rte", "--encoder", "tiny", "--head", "linear,mlp", "--seeds", "0:3")
    assert result.exit_code == 0, result.output
    for text in (result.stdout, call("table").stdout):
        assert all(word in text for word in ("rte", "linear", "mlp", "accuracy", "majority", "mean ± std"))
    assert "6 heads: 0 stored already, 6 to train" in result.stderr
    for arguments in (("--task", "cola"), ("--task", "cola", "--json"), ("--head", "kan", "--csv")):
        refused = call("table", *arguments)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert f"{arguments[1]!r}: expected one of" in refused.stderr


def test_a_published_head_is_marked_optimistic(call):
    call("sweep", "--task", "rte", "--encoder", "tiny", "--head", "linear", "--protocol", "published")
    assert "optimistic" in call("table").stdout


def test_a_diverged_heads_document_is_json(call):
    result = call("run", "rte", "--head", "mlp", "--encoder", "tiny", "--lr", "1e30", "--json")
    assert result.exit_code == 0, result.output
    document = strictly(result.stdout)
    assert (document["metrics"], document["status"]) == ({}, "diverged")
    assert "diverged at step" in call("run", "rte", "--head", "mlp", "--encoder", "tiny", "--lr", "1e30").stdout
    assert "all diverged" in call("table").stdout


def test_a_specification_file(call, tmp_path):
    spec = tmp_path / "spec.toml"
    spec.write_text('task = "rte"\nencoder = "tiny"\nseeds = "0:2"\n[[sweep]]\nhead = "linear"\n[[sweep]]\nhead="mlp"')
    result = call("sweep", str(spec), "--json")
    assert result.exit_code == 0, result.output
    assert strictly(result.stdout)["heads"] == 4


TINY = ("--encoder", "tiny")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "rte", "--head", "linear"), ("bert-base-cased", "python embed.py run rte")),
        (("run", "cola", "--head", "linear", *TINY), ("cola.h5", "embed.py run cola --encoder tiny")),
        (("run", "nope", "--head", "linear"), ("unknown task 'nope'", "cola, sst2", "wnli")),
        (("run", "rte", "--head", "efi_kan", *TINY), ("unknown head 'efi_kan'", "linear, mlp, effi_kan")),
        (("run", "rte", "--head", "mlp", *TINY, "--features", "cls"), ("'cls'", "pooled, mean", "--store cls")),
        (("run", "rte", "--head", "mlp", *TINY, "--features", "pool"), ("'pool'", "pooled, mean")),
        (("run", "rte", "--head", "mlp", *TINY, "--protocol", "dirty"), ("'dirty'", "clean, published")),
        (("run", "rte", "--head", "mlp", *TINY, "--seed", "-1"), ("seed", "found")),
        (("run", "rte", "--head", "mlp", *TINY, "--lr", "-1"), ("--lr: expected", "found -1")),
        (("run", "rte", "--head", "effi_kan", *TINY, "--order", "9"), ("--order: expected", "found 9")),
        (("run", "rte", "--head", "effi_kan", *TINY, "--grid-range", "2,1"), ("--grid-range: expected",)),
        (("run", "rte", "--head", "mlp", *TINY, "--activation", "swish"), ("--activation", "relu, gelu")),
        (("run", "rte", "--head", "mlp", *TINY, "--device", "tpu"), ("'tpu'", "auto, cpu, cuda")),
        (("run", "rte", "--head", "mlp", *TINY, "--device", "cuda"), ("'cuda'", "--device cpu")),
        (("run", "rte", "--head", "mlp", *TINY, "--device", "cuda:1"), ("'cuda:1'", "--device cpu")),
        (("sweep", "--task", "rte", "--head", "mlp", *TINY, "--seeds", "3:1"), ("--seeds: expected", "3:1")),
        (("sweep", "--task", "rte", "--head", "mlp", *TINY, "--seeds", "x"), ("--seeds: expected", "'x'")),
        (("sweep", "--head", "mlp"), ("expected --task, or a SPEC.toml",)),
        (("sweep", "--task", "rte"), ("expected --head, or a SPEC.toml",)),
        (("sweep", "none.toml"), ("none.toml: expected a sweep specification",)),
        (("table",), ("results.sqlite: expected a results database, found nothing", "fit_heads.py sweep")),
    ],
)
def test_a_mistake_is_one_line_and_status_1(call, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_failed(call(*arguments), 1, *words)
    assert not (tmp_path / "runs/heads").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("fly",), ("run",), ("run", "rte"), ("run", "--head", "mlp"), ("run", "rte", "--head", "mlp", "--wings"),
        ("run", "rte", "--head", "mlp", "--lr", "fast"), ("run", "rte", "--head", "mlp", "--grid-range", "a,b"),
        ("sweep", "--lr", "1e-3,x"), ("sweep", "one.toml", "two.toml"), ("table", "--seeds", "0:3"),
    ],
)  # fmt: skip
def test_wrong_usage_is_status_2(arguments):
    result = CliRunner().invoke(fit_heads.main, list(arguments))
    assert result.exit_code == 2
    assert "Usage:" in result.output
    assert "Traceback" not in result.output


def test_a_cache_that_is_not_one(call, tmp_path):
    (tmp_path / "cache/tiny/rte.h5").write_text("not a cache")
    assert_failed(call("run", "rte", "--head", "mlp", "--encoder", "tiny"), 1, "rte.h5", "expected")


def test_results_that_are_no_database(call, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/results.sqlite").write_text("not a database, however long it may be" * 100)
    assert_failed(
        call("run", "rte", "--head", "mlp", "--encoder", "tiny"), 1, "results.sqlite: expected a results database"
    )
    assert_failed(call("table"), 1, "results.sqlite: expected a results database", "--results")


def test_debug_shows_where_it_happened(call):
    result = call("run", "nope", "--head", "mlp", "--debug")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "UnknownNameError"


def test_every_command_has_help_with_an_example():
    for name, command in fit_heads.main.commands.items():
        result = CliRunner().invoke(fit_heads.main, [name, "--help"])
        assert result.exit_code == 0
        assert f"python fit_heads.py {name}" in " ".join(result.stdout.split())
        assert all(option in result.stdout for option in ("--json", "--debug", "--cache", "--results")), name
        assert command.help


LOOK = """
import contextlib, io, sys
sys.argv[:] = ["fit_heads.py", *sys.argv[1:]]
import fit_heads
with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
    fit_heads.main()
assert "Usage" in text.getvalue()
import pipeline
print(sorted({"torch", "numpy", "scipy", "sklearn", "h5py", "transformers", "datasets", "rich"} & set(sys.modules)))
"""


def in_a_fresh_process(code, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("predict", "--help"),
        ("submit", "--help"),
        ("run", "--help"),
        ("sweep", "--help"),
        ("table", "--help"),
    ],
)
def test_help_imports_nothing_heavy(arguments):
    done = in_a_fresh_process(LOOK, *arguments)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_real_command_writes_json_and_nothing_else_to_standard_output(call, tmp_path):
    call("sweep", "--task", "rte", "--encoder", "tiny", "--head", "linear", "--seeds", "0:2")

    def real(*arguments):
        places = ["--cache", str(tmp_path / "cache"), "--results", str(tmp_path / "runs/results.sqlite")]
        command = [sys.executable, str(ROOT / "fit_heads.py"), *arguments, *places]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    done = real("table", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(strictly(done.stdout)) == 2
    (tmp_path / "runs/results.sqlite").unlink()
    done = real("table", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "expected a results database, found nothing" in done.stderr


def test_a_single_layer_from_features_to_classes(call):
    """FR-KAN's classification head has no hidden layer."""
    one = json.loads(
        call(
            "run", "rte", "--head", "fourier_kan", "--encoder", "tiny", "--hidden", "none", "--epochs", "2", "--json"
        ).stdout
    )
    assert one["config"]["hidden"] == []
    arguments = ("sweep", "--task", "rte", "--head", "fourier_kan", "--encoder", "tiny", "--epochs", "2", "--json")
    both = json.loads(call(*arguments, "--hidden", "none", "--hidden", "4").stdout)
    assert (both["heads"], both["skipped"]) == (2, 1)
