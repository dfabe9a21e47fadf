"""`embed.py` as a program: documents, exit statuses, one line for each error, nothing half-written."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import embed

ROOT = Path(embed.__file__).parent
COMMANDS = sorted(embed.main.commands)


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """`cli("list", ...)` runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **options: CliRunner().invoke(embed.main, [str(part) for part in arguments], **options)


def failed(result, status=1):
    """The one line that a failed command wrote."""
    assert result.exit_code == status, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    return lines[0]


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A cache folder with one small file in it, and the encoder that made it."""
    folder = tmp_path_factory.mktemp("made")
    arguments = f"run mrpc --encoder {tiny('bert')} --data sample --limit 30 --cache {folder} --json"
    result = CliRunner().invoke(embed.main, arguments.split())
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def processor_seconds():
    """Of the processes that this one has waited for; a busy machine does not add to it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_imports_nothing_heavy():
    probe = (
        "import sys, embed\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'h5py', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, cwd=ROOT)
    best = float("inf")
    for _ in range(5):
        began = processor_seconds()
        done = subprocess.run(
            [sys.executable, "embed.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        best = min(best, processor_seconds() - began)
    assert "run" in done.stdout
    assert best <= 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cli, command):
    result = cli(command, "--help")
    assert result.exit_code == 0
    assert f"Example: python embed.py {command} " in result.stdout
    assert "--json" in result.stdout
    assert "--debug" in result.stdout


def test_run_writes_one_document(made):
    folder, document = made
    assert {"files", "rows", "tokens", "truncated", "seconds"} <= set(document)
    assert [Path(file).name for file in document["files"]] == ["mrpc.limit30.h5"]
    assert document["rows"] == 90 or document["rows"] % 30 == 0
    assert all(Path(file).is_relative_to(folder) for file in document["files"])


def test_a_second_run_loads_no_torch(made, tiny):
    folder, document = made
    probe = (
        "import sys, embed\n"
        "embed.main(sys.argv[1:], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    arguments = ["run", "mrpc", "--encoder", tiny("bert"), "--data", "sample", "--limit", 30, "--cache", folder]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", probe, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - began < 4
    assert "up to date, nothing to do" in done.stderr
    assert "up to date" in done.stdout
    assert document["files"][0] in done.stdout


def test_list_info_and_verify(cli, made):
    folder, document = made
    [found] = json.loads(cli("list", "--cache", folder, "--json").stdout)
    assert (found["path"], found["state"], found["task"]) == (document["files"][0], "whole", "mrpc")
    assert document["files"][0] in cli("list", "--cache", folder).stdout
    information = json.loads(cli("info", document["files"][0], "--json").stdout)
    assert information["attributes"]["task"] == "mrpc"
    assert information["splits"]["train"]["datasets"]["mean"]["shape"] == [30, 24]
    assert "tokenizer_sha256" in cli("info", document["files"][0]).stdout
    assert json.loads(cli("verify", document["files"][0], "--json").stdout)["good"] is True


def test_verify_finds_a_changed_byte(cli, made, tmp_path):
    data = bytearray(Path(made[1]["files"][0]).read_bytes())
    data[len(data) // 2] ^= 1
    bad = tmp_path / "bad.h5"
    bad.write_bytes(data)
    result = cli("verify", made[1]["files"][0], bad, "--json")
    assert failed(result)
    report = json.loads(result.stdout)
    assert [one["good"] for one in report["files"]] == [True, False]


def test_prune_asks_and_removes_partial_work(cli, tiny, monkeypatch, tmp_path):
    from pipeline.encode import write

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "start_block", interrupt)
    result = cli("run", "mrpc", "--encoder", tiny("bert"), "--data", "sample", "--limit", 9)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "interrupted: finished blocks are kept; the same command goes on after the last of them"
    )
    [work] = (tmp_path / "cache").rglob("*.partial")
    assert cli("prune", input="n\n").exit_code == 0
    assert work.is_dir()
    result = cli("prune", "--yes", "--json")
    assert [Path(one["path"]).name for one in json.loads(result.stdout)["removed"]] == [work.name]
    assert not work.exists()
    assert "nothing to remove" in cli("prune", "--yes").stderr


def test_import_makes_a_cache(cli, tmp_path):
    np.savez(tmp_path / "v.npz", x=np.eye(40, 6, dtype=np.float32), y=np.arange(40) % 2)
    result = cli("import", "mine", "v.npz", "--json")
    assert json.loads(result.stdout)["files"] == ["cache/import/mine.h5"]
    assert cli("verify", "cache/import/mine.h5").exit_code == 0
    assert "expected" in failed(cli("import", "mine", "nothing.npz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nosuch", "--data", "GLUE"], "unknown task 'nosuch': expected one of cola, sst2, mrpc"),
        (["run", "rte", "--data", "nowhere"], "--data nowhere: expected hub, sample, a folder"),
        (["run", "mrpc", "--data", "sample", "--split", "dev"], "unknown split of mrpc 'dev': expected one of"),
        (["run", "mrpc", "--data", "sample", "--max-length", "99"], "--max-length: expected 4 to 64"),
        (["run", "mrpc", "--data", "sample", "--store", "x"], "unknown dataset 'x': expected one of idx, text"),
        (
            ["run", "mrpc", "--data", "sample", "--encoder", "./none"],
            "encoder './none': expected one of bert-base-cased",
        ),
        (["run", "mrpc", "--data", "sample", "--encoder", "bert-base-cased"], "use --encoder minilm"),
        (["run", "mrpc", "--data", "sample", "--precision", "int4"], "--precision: expected one of auto"),
        (["run", "mrpc", "--data", "sample", "--pairs", "two"], "--pairs: expected joint or siamese"),
        (["run", "mrpc", "--data", "sample", "--text", "a"], "expected --text with a file of your own alone"),
        (["run", "rte", "--data", "GLUE"], "dev.tsv"),
        (["info", "none.h5"], "none.h5: expected a cache"),
        (["info", "GLUE/RTE/dev.tsv"], "dev.tsv: expected a"),
        (["prune", "--cache", ".", "--results", "none.sqlite"], "none.sqlite: expected a results database"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(cli, tiny, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "GLUE" / "RTE"
    folder.mkdir(parents=True)
    (folder / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tperhaps\n")
    if arguments[0] == "run" and "--encoder" not in arguments:
        arguments = [*arguments, "--encoder", str(tiny("bert"))]
    before = sorted(tmp_path.rglob("*"))
    assert message in failed(cli(*arguments))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="needs a machine without a GPU")
def test_a_gpu_where_there_is_none(cli, tiny):
    result = cli("run", "mrpc", "--data", "sample", "--encoder", tiny("bert"), "--device", "cuda")
    assert "found 0 GPUs; use --device cpu" in failed(result)


@pytest.mark.parametrize(
    "arguments", ["run", "nosuch", "run mrpc --limit x", "run mrpc --layers a", "verify", "list --cache no"]
)
def test_wrong_usage_exits_with_two(cli, arguments):
    assert cli(*arguments.split()).exit_code == 2


def test_debug_shows_the_traceback(cli):
    arguments = ["run", "mrpc", "--data", "nowhere"]
    assert cli(*arguments, "--debug").exception.__class__.__name__ == "SourceError"
    assert isinstance(cli(*arguments).exception, SystemExit)


@pytest.mark.skipif("GLUE_DIR" not in os.environ, reason="needs GLUE_DIR, a folder in GLUE's layout")
def test_real_rows_from_a_folder(cli, tiny):
    result = cli(
        "run", "mrpc", "--encoder", tiny("bert"), "--data", os.environ["GLUE_DIR"], "--split", "validation", "--json"
    )
    assert json.loads(result.stdout)["rows"] == 408
    assert "expected 408" not in result.stderr
