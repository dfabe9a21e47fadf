"""Results that last: rows and files that belong together, damage that is seen, heads forgotten, merged and checked."""

import json
import os
import random
import shutil
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import fit_heads
import pipeline
from pipeline.errors import ConfigError, KanglueError, ResultsError
from pipeline.models.saved import load_head
from pipeline.sweep import results as module
from pipeline.sweep.keep import forget, merge, verify
from pipeline.sweep.results import Results
from tests.helpers.synthetic_caches import write_cache


def swept(root, seeds="0:3", head=("linear", "mlp"), name="r.sqlite"):
    return pipeline.sweep(
        task=["rte"], head=list(head), encoder=["tiny"], cache=root / "cache", results=root / name, hidden=4, epochs=2,
        device="cpu", seeds=seeds,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("kept")
    write_cache(root / "cache", width=6)
    return root, swept(root).ids


@pytest.fixture
def place(made, tmp_path):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, made[1]


def run(root, *arguments):
    return CliRunner().invoke(
        fit_heads.main, [*arguments, "--results", str(root / "r.sqlite"), "--cache", str(root / "cache")]
    )


def swap(root, ids):
    first, second = (root / "heads" / name for name in ids[:2])
    first.rename(root / "aside")
    second.rename(first)
    (root / "aside").rename(second)


def flip(path, where=-3):
    data = bytearray(path.read_bytes())
    data[where] ^= 16
    path.write_bytes(bytes(data))


def poison(path):
    arrays = load_file(path)
    arrays["layers.0.weight"][0, 0] = float("nan")
    save_file(arrays, path)


DAMAGE = {
    "gone": lambda root, ids: shutil.rmtree(root / "heads" / ids[0]),
    "empty": lambda root, ids: (root / "heads" / ids[0] / "head.safetensors").write_bytes(b""),
    "no configuration": lambda root, ids: (root / "heads" / ids[0] / "config.json").unlink(),
    "bit in weights": lambda root, ids: flip(root / "heads" / ids[0] / "head.safetensors"),
    "bit in configuration": lambda root, ids: flip(root / "heads" / ids[0] / "config.json", 300),
    "nan": lambda root, ids: poison(root / "heads" / ids[0] / "head.safetensors"),
    "another head": swap,
    "another's weights": lambda root, ids: shutil.copy(
        root / "heads" / ids[1] / "head.safetensors", root / "heads" / ids[0] / "head.safetensors"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_named_and_trained_again(place, damage, capsys):
    root, ids = place
    before = {head["id"]: head["metrics"] for head in Results(root / "r.sqlite").heads()}
    DAMAGE[damage](root, ids)
    with pytest.raises(ResultsError):
        load_head(ids[0], results=root / "r.sqlite")
    for command in (("predict", ids[0], "a text"), ("export", ids[0], "--out", str(root / "out"))):
        done = run(root, *command)
        assert done.exit_code == 1
        assert done.stderr.count("\n") == 1
        assert "unexpected" not in done.stderr
    found = run(root, "verify", "--json")
    assert found.exit_code == 1
    assert ids[0] in json.loads(found.stdout)["files"]
    capsys.readouterr()
    again = swept(root)
    assert again.trained == (2 if damage == "another head" else 1)
    assert f"head {ids[0]}: stored, but its files" in capsys.readouterr().err
    assert verify(root / "r.sqlite").good
    after = {head["id"]: head["metrics"] for head in Results(root / "r.sqlite").heads()}
    assert after.keys() == before.keys()
    assert after[ids[0]]["validation"]["accuracy"] == pytest.approx(before[ids[0]]["validation"]["accuracy"], abs=0.02)
    assert swept(root).trained == 0


def test_rows_are_stored_after_their_files(place, monkeypatch):
    """Nothing of a pack counts as stored if the power goes before its files are on the disk."""
    from pipeline.models import saved

    root, _ = place
    synced = []
    monkeypatch.setattr(saved, "sync", lambda folder: synced.extend(sorted(p.name for p in folder.iterdir())))

    def fails(_):
        raise OSError("power cut")

    monkeypatch.setattr(saved, "sync_entries", fails)
    with pytest.raises(ResultsError, match="power cut"):
        swept(root, seeds="5:7", head=("linear",))
    with Results(root / "r.sqlite") as store:
        assert len(store.known()) == 6
    assert len(synced) == 2


def test_heads_are_readable_as_the_umask_says(made, tmp_path):
    shutil.copytree(made[0] / "cache", tmp_path / "cache")
    before = os.umask(0o027)
    try:
        done = swept(tmp_path)
    finally:
        os.umask(before)
    folder = tmp_path / "heads" / done.ids[0]
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o640}


def test_forget(place):
    root, ids = place
    done = run(root, "forget", ids[0], "--where", "head = 'mlp'", "--json")
    gone = json.loads(done.stdout)["ids"]
    assert len(gone) == 4
    assert {path.name for path in (root / "heads").iterdir()} == set(ids) - set(gone)
    with Results(root / "r.sqlite") as store:
        assert set(store.known()) == set(ids) - set(gone)
        assert not store._run("SELECT 1 FROM metrics WHERE head_id = ?", (ids[0],))
    assert swept(root).trained == 4
    for wrong in ((["nope"], None), (["../heads"], None), ([], "1; DROP TABLE heads"), ([], None)):
        with pytest.raises(KanglueError):
            forget(root / "r.sqlite", *wrong)
    assert verify(root / "r.sqlite").good


def test_orphans_are_named_and_forgotten(place):
    root, ids = place
    shutil.copytree(root / "heads" / ids[0], root / "heads" / "feedfeedfeedfeed")
    assert verify(root / "r.sqlite").orphans == ("feedfeedfeedfeed",)
    forget(root / "r.sqlite", ["feedfeedfeedfeed"])
    assert verify(root / "r.sqlite").orphans == ()


def test_merge(place):
    root, ids = place
    other = root / "other"
    other.mkdir()
    shutil.copytree(root / "cache", other / "cache")
    theirs = swept(other, seeds="2:5", head=("mlp",)).ids
    flip(other / "heads" / theirs[-1] / "head.safetensors")
    done = merge(root / "r.sqlite", other / "r.sqlite")
    assert (done.added, done.skipped, list(done.faults)) == (1, 1, [theirs[-1]])
    with Results(root / "r.sqlite") as store:
        assert set(store.known()) == {*ids, theirs[1]}
        assert len(store.heads()) == 7
        assert store.outputs(theirs[1], "validation").shape == (80, 2)
    assert verify(root / "r.sqlite").good
    assert load_head(theirs[1], results=root / "r.sqlite").id == theirs[1]
    with pytest.raises(ConfigError, match="found the same"):
        merge(root / "r.sqlite", root / "r.sqlite")
    assert merge(root / "new" / "r.sqlite", root / "r.sqlite").added == 7
    assert verify(root / "new" / "r.sqlite").good


def test_a_flipped_number_is_never_shown(place):
    """Bits of the database, one at a time: the numbers that were stored, or one line."""
    root, _ = place
    path = root / "r.sqlite"
    whole, expected = path.read_bytes(), run(root, "table", "--json").stdout
    drawn = random.Random(0)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
        path.write_bytes(bytes(data))
        done = run(root, "table", "--json")
        if done.exit_code == 0:
            assert done.stdout == expected
        else:
            refused += 1
            assert done.exit_code == 1
            assert done.stderr.count("\n") == 1
            assert "unexpected" not in done.stderr
    assert refused > 5
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "change", [
        "DROP TABLE metrics", "DROP TABLE metrics; CREATE VIEW metrics AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
        "SELECT i + 1 FROM n) SELECT 'a' head_id, 'b' split, 'c' metric, i value FROM n", "PRAGMA user_version = 9",
        "CREATE TRIGGER t AFTER INSERT ON heads BEGIN DELETE FROM heads; END", "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE heads ADD COLUMN more TEXT", "DROP INDEX heads_by_task",
    ],
)  # fmt: skip
def test_other_tables_are_one_line_and_nothing_runs(place, change):
    root, _ = place
    with closing(sqlite3.connect(root / "r.sqlite")) as database:
        database.execute("PRAGMA foreign_keys = OFF")
        database.executescript(change)
    before = (root / "r.sqlite").read_bytes()
    for command in (("table",), ("sweep", "--task", "rte", "--head", "linear", "--encoder", "tiny"), ("verify",)):
        done = run(root, *command)
        assert done.exit_code == 1
        assert done.stderr.count("\n") == 1
        assert "unexpected" not in done.stderr
    assert (root / "r.sqlite").read_bytes() == before


def test_a_database_that_another_process_holds_is_waited_for_then_one_line(place, monkeypatch):
    root, _ = place
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    with closing(sqlite3.connect(root / "r.sqlite", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        done = run(root, "table")
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert "found another process at work on it all that time" in done.stderr
    assert run(root, "table").exit_code == 0


def test_a_full_disk_is_one_line_and_loses_nothing(place):
    root, ids = place
    with Results(root / "r.sqlite", create=True) as store:
        pages = store._run("PRAGMA page_count")[0][0]
        store._run(f"PRAGMA max_page_count = {pages}")
        record = {"attributes": {"fingerprint": "f" * 64, "labels": None, "more": "x" * 100_000}}
        with pytest.raises(ResultsError, match="expected room on the disk, found it full"):
            store.add_cache(**record)
        assert set(store.known()) == set(ids)
    assert verify(root / "r.sqlite").good
