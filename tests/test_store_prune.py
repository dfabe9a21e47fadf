"""What lies in a cache folder, and removing what nobody needs."""

import json
import os
import signal
import sqlite3
import time

import pytest
from click.testing import CliRunner

import embed
from pipeline.errors import ResultsError
from pipeline.store import CacheWriter, describe, find_prunable, list_caches, open_cache, part_path, prune
from pipeline.store.journal import holder, work_folder
from tests.helpers import store_kit as kit


@pytest.fixture
def folder(tmp_path):
    """A cache folder with a used file, an unused one, a damaged one, half-finished work, and a part."""
    place = tmp_path / "cache"
    for name, limit in (("used", 1), ("unused", 2), ("damaged", 3)):
        kit.write(place / "none" / f"{name}.h5", datasets=("idx", "pooled"), attributes={"limit": limit})
    kit.write(place / "none" / "half.h5", stop_after=4)
    kit.write(part_path(place / "none" / "half.h5", 2), splits={"train": 100}, ranges={"train": (0, 50)})
    damaged = place / "none" / "damaged.h5"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    (place / "notes.txt").write_text("not a cache")
    return place


def results(path, *fingerprints):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE heads (id TEXT, fingerprint TEXT)")
        database.executemany("INSERT INTO heads VALUES ('x', ?)", [(each,) for each in fingerprints])
    database.close()
    return path


def names(found):
    return sorted(item.path.name for item in found)


def test_list_tells_everything_apart(folder):
    found = {os.path.basename(item["path"]): item for item in list_caches(folder)}
    states = {name: item["state"] for name, item in found.items()}
    assert states == {
        "used.h5": "whole", "unused.h5": "whole", "damaged.h5": "damaged", ".half.h5.partial": "partial",
        ".half.h5.part2": "part",
    }  # fmt: skip
    assert found["used.h5"]["splits"] == kit.SPLITS
    assert found["used.h5"]["datasets"] == ["idx", "pooled"]
    assert "--force" in found["damaged.h5"]["fault"]
    assert found[".half.h5.partial"]["rows_done"] == {"train": 256}
    assert found[".half.h5.partial"]["locked_by"] is None
    assert list_caches(folder / "nowhere") == []


def test_describe(folder):
    found = describe(folder / "none" / "used.h5")
    assert found["attributes"]["task"] == "toy"
    assert found["splits"]["test"] == {
        "rows": 130,
        "datasets": {"idx": {"shape": [130], "dtype": "int64"}, "pooled": {"shape": [130, 12], "dtype": "float32"}},
    }


def test_partial_work_is_pruned(folder):
    found = find_prunable(folder)
    assert names(found) == [".half.h5.part2", ".half.h5.partial"]
    assert all(item.bytes > 1000 for item in found)
    assert prune(found) == found
    assert find_prunable(folder) == []
    assert not work_folder(folder / "none" / "half.h5").exists()


def test_caches_that_no_results_mention_are_pruned(folder, tmp_path):
    with open_cache(folder / "none" / "used.h5") as cache:
        used = cache.fingerprint
    databases = [results(tmp_path / "a.sqlite", "0" * 64), results(tmp_path / "b.sqlite", used, used)]
    assert names(find_prunable(folder, databases)) == [".half.h5.part2", ".half.h5.partial", "unused.h5"]
    assert names(find_prunable(folder, databases[:1])) == [".half.h5.part2", ".half.h5.partial", "unused.h5", "used.h5"]
    prune(find_prunable(folder, databases))
    assert sorted(path.name for path in (folder / "none").iterdir()) == ["damaged.h5", "used.h5"]


def test_damaged_files_are_named_and_go_only_when_asked(folder):
    command = ["prune", "--cache", str(folder), "--yes"]
    result = CliRunner().invoke(embed.main, [*command, "--json"])
    damaged = folder / "none" / "damaged.h5"
    assert json.loads(result.stdout)["damaged"] == [str(damaged)]
    assert f"--damaged removes it: {damaged}: expected a finished cache" in result.stderr
    assert damaged.exists()
    result = CliRunner().invoke(embed.main, [*command, "--damaged", "--json"])
    assert [one["path"] for one in json.loads(result.stdout)["removed"]] == [str(damaged)]
    assert sorted(path.name for path in (folder / "none").iterdir()) == ["unused.h5", "used.h5"]


def test_nothing_is_pruned_on_the_word_of_a_file_that_is_no_database(folder, tmp_path):
    with pytest.raises(ResultsError, match="no such file"):
        find_prunable(folder, [tmp_path / "none.sqlite"])
    (tmp_path / "x.sqlite").write_text("not a database at all")
    with pytest.raises(ResultsError, match="expected a results database"):
        find_prunable(folder, [tmp_path / "x.sqlite"])


def test_work_in_progress_is_never_pruned(folder):
    path = folder / "none" / "half.h5"
    before = find_prunable(folder)
    with CacheWriter(path, kit.ATTRIBUTES, kit.SPLITS, kit.ALL, kit.WIDTHS):
        assert names(find_prunable(folder)) == [".half.h5.part2"]
        assert names(prune(before)) == [".half.h5.part2"]
    assert kit.write(path) == 19 - 4


def test_a_killed_writer_s_lock_is_gone_even_if_its_child_lives(tmp_path):
    path, read, write = tmp_path / "toy.h5", *os.pipe()

    def work():
        with CacheWriter(path, kit.ATTRIBUTES, kit.SPLITS, kit.ALL, kit.WIDTHS):
            child = kit.fork(lambda: time.sleep(30))
            os.write(write, b"%d" % child)
            time.sleep(30)

    writer = kit.fork(work)
    child = int(os.read(read, 20))
    assert holder(work_folder(path)).startswith(f"process {writer} on ")
    time.sleep(0.1)  # the child lets go of its copy as it starts
    os.kill(writer, signal.SIGKILL)
    assert kit.ended(writer) is None
    assert holder(work_folder(path)) is None
    os.kill(child, signal.SIGKILL)
    assert kit.write(path, block_rows=8192) == 2
