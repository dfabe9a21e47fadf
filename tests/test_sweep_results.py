"""The results database: what is not one, and who else writes to it."""

import sqlite3

import numpy as np
import pytest

from pipeline.errors import ResultsError, UnknownNameError
from pipeline.sweep.results import Results


def record(name, **changes):
    plain = {
        "id": name, "task": "rte", "cache": "rte", "source": "s", "encoder": "e", "fingerprint": "f",
        "pairs": "joint", "row_limit": None, "head": "mlp", "main_metric": "accuracy", "features": "pooled",
        "inputs": 4, "protocol": "clean", "seed": 0, "config": {"lr": 0.1}, "trained": "head", "status": "trained",
        "diverged_at": None, "epoch": 1, "still_improving": None, "coverage": [{"outside": 0.5, "dead": 0.0}],
        "parameters": 5, "flops": 6, "fit_seconds": 0.5, "train_rows": 9, "folds": 1, "device": "cpu", "versions": {},
        "sha256": "0" * 64,
        "metrics": {"validation": {"accuracy": 0.5}},
        "curve": [(1.0, 2.0, 0.5), (float("nan"), float("inf"), 0.25)],
        "outputs": {"validation": np.arange(6, dtype=np.float32).reshape(3, 2)},
    }  # fmt: skip
    return plain | changes


#: The cache of these records.
CACHE = {"fingerprint": "f", "task": "rte", "labels": ["no", "yes"]}


def one_line(caught):
    text = str(caught.value)
    assert text.strip()
    assert "\n" not in text


def test_what_is_added_comes_back(tmp_path):
    with Results(tmp_path / "deep/er/r.sqlite", create=True) as results:
        results.add_cache(CACHE)
        metrics = {"selection": {"f1": 0.1}, "train": {"f1": 0.9}}
        results.add([record("a"), record("b", task="cola", cache="cola.len32", metrics=metrics, coverage=None)])
        assert set(results.known(["a", "c"])) == {"a"}
        first, second = results.heads()
        assert (first["id"], second["id"]) == ("b", "a")  # by task
        assert (first["selection"], first["training"]) == ({"f1": 0.1}, {"f1": 0.9})
        assert (first["coverage"], second["coverage"]) == (None, [{"outside": 0.5, "dead": 0.0}])
        assert first["metrics"] == {}
        assert second["metrics"] == {"validation": {"accuracy": 0.5}}
        assert second["config"] == {"lr": 0.1}
        np.testing.assert_array_equal(results.outputs("a", "validation"), np.arange(6).reshape(3, 2))
        assert [head["id"] for head in results.heads({"task": "rte"})] == ["a"]
        assert [head["id"] for head in results.heads({"id": ("a", "b"), "head": ["mlp"]})] == ["b", "a"]
        assert results.heads({"id": ()}) == []
        assert [head["id"] for head in results.heads({"task": ["cola.len32"]})] == ["b"]
        assert results.caches() == {"f": CACHE}
        assert results.class_names() == {"f": ("no", "yes")}
        with pytest.raises(ResultsError, match="outputs of head a on 'test'"):
            results.outputs("a", "test")


@pytest.mark.parametrize("kind", ["task", "head", "encoder"])
def test_a_name_that_no_head_has_is_an_error_with_those_that_are_stored(tmp_path, kind):
    with Results(tmp_path / "r.sqlite", create=True) as results:
        assert results.heads({kind: ["nope"]}) == []  # nothing is stored: that is said elsewhere
        results.add_cache(CACHE)
        results.add([record("a")])
        with pytest.raises(UnknownNameError, match=f"unknown {kind} .* 'nope': expected one of (rte|mlp|e)$"):
            results.heads({kind: ["nope"]})


@pytest.mark.parametrize("labels", [np.array([0, 2, 1]), np.array([1.7e9, 1.7e9 + 1]), np.array([0.5], ">f4")])
def test_labels_come_back_with_their_type(tmp_path, labels):
    with Results(tmp_path / "r.sqlite", create=True) as results:
        results.add_cache(CACHE, {"validation": labels}, {"validation": {"f1": None}})
        found = results.labels("f", "validation")
        assert found.dtype == labels.dtype.newbyteorder("<")
        assert found.tolist() == labels.tolist()
        assert results.labels("f", "test") is None
        assert results.reported_rows() == {("f", "validation"): len(labels)}
        assert results.baselines() == {("f", "validation"): {"f1": None}}


def test_a_head_that_is_stored_already_is_kept(tmp_path):
    with Results(tmp_path / "r.sqlite", create=True) as results:
        results.add_cache(CACHE)
        results.add([record("a")])
        results.add([record("a", epoch=7, metrics={"validation": {"accuracy": 0.9}}), record("b")])
        assert [(head["id"], head["epoch"]) for head in results.heads()] == [("a", 1), ("b", 1)]
        assert results.heads({"id": "a"})[0]["metrics"]["validation"]["accuracy"] == 0.5


def test_a_pack_is_stored_whole_or_not_at_all(tmp_path):
    with Results(tmp_path / "r.sqlite", create=True) as results:
        results.add_cache(CACHE)
        with pytest.raises(sqlite3.IntegrityError):
            results.add([record("a"), record("b", status="lost")])
        assert results.heads() == []
        results.add([record("a")])
        assert len(results.heads()) == 1


def test_a_missing_database_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(ResultsError, match=r"none\.sqlite: expected a results database, found nothing; run") as caught:
        Results(tmp_path / "none.sqlite")
    one_line(caught)
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + b"\xff" * 4000, b"x" * 9000])
def test_a_file_that_is_not_a_database(tmp_path, content, create):
    path = tmp_path / "r.sqlite"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match="expected a results database") as caught:
        Results(path, create=create)
    one_line(caught)
    assert path.read_bytes() == content


def test_another_programs_database(tmp_path):
    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE cities (name TEXT)")
    database.close()
    for create in (True, False):
        with pytest.raises(ResultsError, match="version 1, found 0"):
            Results(path, create=create)


def test_a_later_versions_database(tmp_path):
    path = tmp_path / "r.sqlite"
    Results(path, create=True).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(ResultsError, match="version 1, found 2"):
        Results(path, create=True)


def test_a_folder_in_the_databases_place(tmp_path):
    (tmp_path / "r.sqlite").mkdir()
    with pytest.raises(ResultsError):
        Results(tmp_path / "r.sqlite", create=True)


def test_a_file_in_the_folders_place(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ResultsError):
        Results(tmp_path / "runs/r.sqlite", create=True)


def test_a_database_made_by_another_process_between_two_looks(tmp_path, monkeypatch):
    path = tmp_path / "r.sqlite"
    prepare, met = Results._prepare, []

    class Slow:
        """A connection that lets another process make the tables after the first look at the version."""

        def __init__(self, connection):
            self.connection = connection

        def execute(self, statement, *rest):
            found = self.connection.execute(statement, *rest)
            if statement == "PRAGMA user_version" and not met:
                row = found.fetchone()
                met.append(row)
                Results(path, create=True).close()
                return type("Cursor", (), {"fetchall": lambda _: [row]})()
            return found

        def __getattr__(self, name):
            return getattr(self.connection, name)

    def slowly(self, create):
        if not met:
            self._connection = Slow(self._connection)
        prepare(self, create)

    monkeypatch.setattr(Results, "_prepare", slowly)
    with Results(path, create=True) as results:
        assert results.known(["a"]) == {}
    assert met == [(0,)]
