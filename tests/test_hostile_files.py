"""Mutated heads, exports, configurations and results: one line each, no code run, nothing written elsewhere, no hang.

`KANGLUE_MUTATIONS` sets how many of each kind are tried (default 25; 100 for all 300), `KANGLUE_LIMIT` the seconds that
count as a hang (default 60, for machines with other work; 5 on one of its own).
"""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

import fit_heads
import pipeline
from tests.helpers import hostile_files
from tests.helpers.synthetic_caches import write_cache

COUNT = int(os.environ.get("KANGLUE_MUTATIONS", "25"))
LIMIT = float(os.environ.get("KANGLUE_LIMIT", "60"))
FAMILIES = ("faster_kan", "effi_kan", "bspline_mlp")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("good")
    write_cache(root / "cache", width=6)
    done = pipeline.sweep(
        task=["rte"], head=list(FAMILIES), encoder=["tiny"], cache=root / "cache", results=root / "r.sqlite", hidden=4,
        epochs=1, device="cpu",
    )  # fmt: skip
    for form in ("torch", "safetensors"):
        for name in done.ids:
            pipeline.export(name, format=form, out=root / "out" / f"{form}-{name}", results=root / "r.sqlite")
    return root, done.ids


@contextmanager
def at_most(seconds):
    def late(*_):
        raise AssertionError(f"still at work after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def entries(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def refused(root, *arguments):
    """Run a command: done, or one line; and nothing written but below what it may write to."""
    given = [*arguments, "--results", str(root / "r.sqlite"), "--cache", str(root / "cache")]
    before, beside = entries(root), set(root.parent.iterdir())
    with at_most(LIMIT):
        done = CliRunner().invoke(fit_heads.main, given)
    assert set(root.parent.iterdir()) == beside
    assert all(path.split("/")[0] in ("heads", "made", "out", "r.sqlite") for path in entries(root) - before)
    assert not Path(hostile_files.TRACE).exists()
    if done.exit_code:
        assert done.exit_code == 1, done.output
        assert done.stderr.count("\n") == 1, done.stderr
        assert "unexpected" not in done.stderr, done.stderr
    assert "nan" not in done.stdout.lower()
    return done


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_head(good, tmp_path, seed):
    root, ids = good
    place = tmp_path / "place"
    shutil.copytree(root, place)
    drawn = hostile_files.generator(seed)
    name = drawn.choice(ids)
    before = {path: path.read_bytes() for path in (place / "heads" / name).iterdir()}
    hostile_files.change_folder(place / "heads" / name, drawn)
    changed = any(not path.is_file() or path.read_bytes() != data for path, data in before.items())
    if changed:
        assert refused(place, "export", name, "--out", str(place / "made")).exit_code
        assert refused(place, "verify").exit_code
        if json_differs(before):
            assert refused(place, "predict", str(place / "heads" / name), "a", "b").exit_code


def json_differs(before):
    """Whether more than the spelling of the JSON of a folder has changed."""
    if not all(path.is_file() for path in before):
        return True
    try:
        return any(
            json.loads(path.read_text()) != json.loads(data) if path.suffix == ".json" else path.read_bytes() != data
            for path, data in before.items()
        )
    except (OSError, ValueError, RecursionError):
        return True


@pytest.mark.parametrize("seed", range(1000, 1000 + COUNT))
def test_an_export(good, tmp_path, seed):
    root, ids = good
    place = tmp_path / "place"
    shutil.copytree(root, place)
    drawn = hostile_files.generator(seed)
    folder = drawn.choice(sorted((place / "out").iterdir()))
    hostile_files.change_folder(folder, drawn)
    done = refused(place, "load", str(folder), "--json")
    if not done.exit_code:
        loaded = json.loads(done.stdout)
        assert (place / "heads" / loaded["id"]).is_dir()
        # Under a trained head's id only what is that head.
        assert loaded["id"] not in ids or not refused(place, "verify").exit_code
    refused(place, "export", ids[0], "--out", str(folder), "--force")


@pytest.mark.parametrize("seed", range(2000, 2000 + COUNT))
def test_a_database(good, tmp_path, seed):
    root, _ = good
    place = tmp_path / "place"
    shutil.copytree(root, place)
    drawn = hostile_files.generator(seed)
    hostile_files.change_database(place / "r.sqlite", drawn)
    sweep = (
        "sweep",
        "--task",
        "rte",
        "--head",
        ",".join(FAMILIES),
        "--encoder",
        "tiny",
        "--hidden",
        "4",
        "--epochs",
        "1",
    )
    for command in (("table", "--json"), ("verify",), (*sweep, "--device", "cpu")):
        refused(place, *command)
