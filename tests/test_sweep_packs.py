"""How many heads a pack takes, what happens when memory runs out, what people see, what an interrupt costs."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import fit_heads
import pipeline
from pipeline.errors import DeviceError
from pipeline.fit import train
from pipeline.progress import SweepProgress
from pipeline.sweep import packs
from pipeline.sweep.plan import plan
from pipeline.sweep.results import Results
from pipeline.sweep.spec import product_from
from tests.helpers.synthetic_caches import write_cache

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path):
    write_cache(tmp_path / "cache")
    return tmp_path


def sweep(root, name="results", **options):
    options = {"task": "rte", "encoder": "tiny", "head": "mlp", "epochs": 2, "hidden": [[4]]} | options
    return pipeline.sweep(cache=root / "cache", results=root / f"runs/{name}.sqlite", device="cpu", **options)


def outputs(root, name="results"):
    with Results(root / f"runs/{name}.sqlite") as store:
        return {head["id"]: store.outputs(head["id"], "validation").tobytes() for head in store.heads()}


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("[enforce fail] not enough memory: x")],
)
def test_a_pack_that_does_not_fit_is_halved_until_it_does(root, monkeypatch, error):
    expected, original, tried = sweep(root, "whole", seeds="0:11"), train.train_pack, []

    def small_memory(configs, *rest):
        tried.append(len(configs))
        if len(configs) > 3:
            raise error
        return original(configs, *rest)

    monkeypatch.setattr(train, "train_pack", small_memory)
    done = sweep(root, seeds="0:11")
    assert (done.trained, done.failed) == (11, 0)
    assert tried == [11, 5, 2, 2, 2, 2, 2, 1]
    assert done.ids == expected.ids
    assert outputs(root) == outputs(root, "whole")


def test_a_head_that_does_not_fit_alone_is_left_out_and_the_others_trained(root, monkeypatch):
    original = train.train_pack

    def no_memory_for_mlp(configs, *rest):
        if configs[0].head == "mlp":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(configs, *rest)

    monkeypatch.setattr(train, "train_pack", no_memory_for_mlp)
    done = sweep(root, head=["mlp", "linear"], seeds="0:3")
    assert (done.heads, done.trained, done.failed) == (6, 3, 3)
    assert "rte mlp, seed 0: expected more than" in done.failures[0]
    assert len(outputs(root)) == 3
    with pytest.raises(DeviceError, match="free memory on cpu for this head alone"):
        pipeline.fit(
            "rte", head="mlp", encoder="tiny", cache=root / "cache", results=root / "runs/results.sqlite", device="cpu"
        )


def test_other_errors_of_training_are_not_taken_for_memory(root, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(train, "train_pack", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        sweep(root)


def test_a_head_larger_than_memory_is_one_line(root):
    arguments = [
        "sweep", "--task", "rte", "--encoder", "tiny", "--head", "mlp,linear", "--hidden", "4000000000",
        "--epochs", "1", "--device", "cpu", "--cache", str(root / "cache"), "--results",
        str(root / "runs/results.sqlite"), "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(fit_heads.main, arguments)
    assert result.exit_code == 1
    assert {name: json.loads(result.stdout)[name] for name in ("heads", "trained", "failed")} == {
        "heads": 2, "trained": 1, "failed": 1,
    }  # fmt: skip
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "1 of 2 heads not trained: rte mlp, seed 0: expected more than" in line


def heads_of(root, **table):
    table = {"task": "rte", "encoder": "tiny", "head": "effi_kan"} | table
    return plan([product_from(table, "sweep")], root / "cache")


def test_heads_of_one_shape_share_a_pack(root):
    found = packs.groups(heads_of(root, head=["mlp", "linear"], lr=[1e-3, 1e-2], hidden=[[4], [8]], seeds="0:3"))
    assert [(group[0].config.head, group[0].config.hidden, len(group)) for group in found] == [
        ("mlp", (4,), 6), ("mlp", (8,), 6), ("linear", None, 6)
    ]  # fmt: skip


def test_a_pack_is_as_large_as_memory_allows_and_speed_rewards(root):
    sizer = packs.PackSizer(heads_of(root)[0], "cpu")
    most = sizer.heads(10_000, 1 << 40)
    assert most == 256
    assert sizer.heads(5, 1 << 40) == 5
    room = 100 * sizer.bytes[1]
    assert sizer.heads(10_000, room) == 50
    assert sizer.heads(10_000, 0) == 1
    sizer.took(most, 1.0)
    assert sizer.heads(10_000, 1 << 40) == 512
    sizer.took(512, 2.1)  # no faster than before: it stays
    assert sizer.heads(10_000, 1 << 40) == 512
    sizer.took(512, 100.0)
    assert sizer.heads(10_000, 1 << 40) == 256
    sizer.failed(256)
    sizer.took(128, 0.001)  # fast, but memory has said what it holds
    assert sizer.heads(10_000, 1 << 40) == 128


def test_progress_says_what_is_done_how_fast_and_how_long_yet():
    now, shown = [100.0], []
    progress = SweepProgress(40, 4000.0, lambda line, share: shown.append((line, share)), clock=lambda: now[0])
    pack = progress.pack("rte mlp, 10 in a pack")
    now[0] += 50  # data and kernels first
    pack.advance(1, 100.0)
    assert shown[-1] == ("0 of 40 heads, 1.2 a minute, rte mlp, 10 in a pack", 0.025)
    now[0] += 4
    pack.advance(4, 400.0)
    assert shown[-1] == ("0 of 40 heads, 5.6 a minute, 35 s left, rte mlp, 10 in a pack", 0.125)
    pack.end()  # it ran out of memory and begins again
    pack = progress.pack("rte mlp, 5 in a pack")
    assert shown[-1] == ("0 of 40 heads, rte mlp, 5 in a pack", 0)
    now[0] += 5
    pack.advance(10, 1000.0)
    pack.end(10, 1000.0)
    assert shown[-1] == ("10 of 40 heads, 10.2 a minute, 30 s left", 0.25)
    now[0] += 3590
    assert "10 of 40 heads, 0.2 a minute, 3 h 19 min left" in progress.line()


def test_progress_of_packs_side_by_side():
    now = [0.0]
    progress = SweepProgress(40, 4000.0, lambda *_: None, clock=lambda: now[0])
    first, second = progress.pack("rte mlp, 10 in a pack"), progress.pack("rte linear, 30 in a pack")
    first.advance(5, 500.0)
    now[0] += 10
    second.advance(15, 1500.0)
    assert progress.line() == "0 of 40 heads, 2.0 a second, 13 s left, rte linear, 30 in a pack"
    second.end(30, 3000.0)
    assert progress.line() == "30 of 40 heads, 3.5 a second, 2 s left, rte mlp, 10 in a pack"


def test_no_time_left_is_said_before_it_means_something():
    now = [0.0]
    progress = SweepProgress(10_000, 1e6, lambda *_: None, clock=lambda: now[0])
    pack = progress.pack("rte mlp, 100 in a pack")
    for _ in range(10):
        now[0] += 5.9
        pack.advance(1, 100.0)
        assert "left" not in progress.line()
    now[0] += 7
    assert "left" in progress.line()  # after a minute it is the best that is known


def test_an_interrupt_loses_the_running_pack_only_and_says_how_to_go_on(root):
    """A real Ctrl-C in the middle of the second shape, whose epochs take far longer than the test may."""
    command = [
        sys.executable, str(ROOT / "fit_heads.py"), "sweep", "--task", "rte", "--encoder", "tiny", "--head",
        "linear,mlp", "--seeds", "0:4", "--hidden", "2000,2000", "--batch-size", "16", "--epochs", "300", "--device",
        "cpu", "--cache", str(root / "cache"), "--results", str(root / "runs/results.sqlite"),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Tests that run behind a shell's `&` ignore interrupts, and so would what they start.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    end = time.monotonic() + 60
    while time.monotonic() < end and not stored(root):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted: finished work is kept, and the same command goes on from there"
    assert "Traceback" not in err
    assert stored(root) == 4
    again = sweep(root, head=["linear"], seeds="0:4", hidden=[[2000, 2000]], batch_size=16, epochs=300)
    assert (again.trained, again.skipped) == (0, 4)


def stored(root):
    try:
        with closing(sqlite3.connect(root / "runs/results.sqlite")) as database:
            return database.execute("SELECT count(*) FROM heads").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet, or being made
        return 0
