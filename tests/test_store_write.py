"""Writing caches: round trips, resuming, adding, merging, refusing, locking."""

import itertools
import os
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import CacheError, CacheMismatchError, UnknownNameError
from pipeline.store import CacheWriter, merge_parts, missing_datasets, open_cache, part_path, verify
from pipeline.store.journal import work_folder
from tests.helpers import store_kit as kit

SETTINGS = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@SETTINGS
@given(data=st.data())
def test_what_is_read_is_what_was_written(tmp_path, data):
    path = tmp_path / "x.h5"
    path.unlink(missing_ok=True)
    rows, width = data.draw(st.integers(0, 70)), data.draw(st.integers(1, 40))
    regression = data.draw(st.booleans())
    text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)
    texts = data.draw(st.lists(text, min_size=rows, max_size=rows))
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    length = generator.integers(0, 6, rows).astype(np.int32)
    label = generator.standard_normal(rows).astype(np.float32) if regression else generator.integers(-1, 9, rows)
    if regression and rows:
        label[0] = np.nan
    arrays = {
        "text": texts,
        "label": label,
        "length": length,
        "pooled": generator.standard_normal((rows, width), np.float32),
        "last_hidden": generator.standard_normal((int(length.sum()), width), np.float32).astype(np.float16),
    }
    extra = data.draw(
        st.dictionaries(st.from_regex("x_[a-z]{1,9}", fullmatch=True), st.one_of(text, st.integers(-9, 9)))
    )
    attributes = kit.ATTRIBUTES | extra | {"labels": None if regression else ["a"], "layers": [1, 2], "limit": rows}
    options = {
        "block_rows": data.draw(st.integers(1, 80)),
        "chunk_bytes": data.draw(st.sampled_from([64, 1000, 1 << 18])),
    }
    ends = np.concatenate([[0], length.cumsum()])
    with CacheWriter(path, attributes, {"train": rows}, tuple(arrays), {"D": width}, **options) as writer:
        for block in writer.todo():
            part = {name: arrays[name][block.start : block.stop] for name in arrays}
            part["last_hidden"] = arrays["last_hidden"][ends[block.start] : ends[block.stop]]
            writer.write(block, part)
        writer.finish()
    assert verify(path).fault is None
    with open_cache(path) as cache:
        view = cache["train"]
        assert {name: cache.attributes[name] for name in attributes} == attributes
        assert view["text"] == texts
        for name in ("label", "length", "pooled"):
            assert view[name].dtype == arrays[name].dtype
            assert np.array_equal(view[name], arrays[name], equal_nan=name == "label")
        values, offsets = view["last_hidden"][:]
        assert np.array_equal(values, arrays["last_hidden"])
        assert np.array_equal(offsets, ends)
        a, b = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
        assert np.array_equal(view.read("pooled", a, b), arrays["pooled"][a:b])
        assert view.read("text", a, b) == texts[a:b]
        values, offsets = view["last_hidden"][a:b]
        assert np.array_equal(values, arrays["last_hidden"][ends[a] : ends[b]])
        assert np.array_equal(offsets, ends[a : b + 1] - ends[a])


@pytest.mark.parametrize("pieces", [(1, 3, 2, 5, 1, 40), (7,), (1,) * 17])
def test_interrupted_runs_give_the_same_file_byte_for_byte(tmp_path, pieces):
    kit.write(tmp_path / "whole.h5")
    seen: list = []
    for stop in pieces:
        kit.write(tmp_path / "toy.h5", stop_after=stop, seen=seen.append)
    kit.write(tmp_path / "toy.h5", seen=seen.append)
    assert (tmp_path / "toy.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert len(seen) == len(set(seen)) == 16 + 3
    assert os.listdir(tmp_path) == ["toy.h5"] or set(os.listdir(tmp_path)) == {"toy.h5", "whole.h5"}


def test_the_plan_of_the_first_run_is_kept(tmp_path):
    kit.write(tmp_path / "toy.h5", stop_after=2, plan={"tokens": 512})
    with CacheWriter(
        tmp_path / "toy.h5", kit.ATTRIBUTES, kit.SPLITS, kit.ALL, kit.WIDTHS, plan={"tokens": 9}, block_rows=7
    ) as writer:
        assert (writer.plan, writer.block_rows, writer.resumed_blocks) == ({"tokens": 512}, 64, 2)


def test_a_finished_file_is_left_alone(tmp_path):
    path = tmp_path / "toy.h5"
    kit.write(path)
    before = path.stat()
    assert kit.write(path) == 0
    assert kit.write(path, datasets=("pooled",), splits={"test": 130}) == 0
    assert path.stat().st_ino == before.st_ino
    assert os.listdir(tmp_path) == ["toy.h5"]


def test_more_datasets_and_splits_are_added(tmp_path):
    path = tmp_path / "toy.h5"
    kit.write(tmp_path / "whole.h5")
    assert kit.write(path, datasets=("idx", "text", "pooled", "last_hidden"), splits={"train": 1000}) == 16
    attributes = kit.ATTRIBUTES
    lacking = missing_datasets(path, attributes, kit.SPLITS, kit.ALL)
    assert set(lacking) == {"train", "validation", "test"}
    assert "pooled" not in lacking["train"]
    kit.write(path, stop_after=4)
    assert missing_datasets(path, attributes, kit.SPLITS, kit.ALL) == lacking, (
        "the old file stays until the new is whole"
    )
    assert kit.write(path) == 16 + 3 - 4
    assert missing_datasets(path, attributes, kit.SPLITS, kit.ALL) == {}
    assert kit.contents(path) == kit.contents(tmp_path / "whole.h5")
    assert verify(path).fault is None


def test_asking_for_less_keeps_what_is_there(tmp_path):
    path = tmp_path / "toy.h5"
    kit.write(path, datasets=("idx", "pooled"), splits={"train": 1000})
    kit.write(path, datasets=("cls",), splits={"test": 130})
    with open_cache(path) as cache:
        assert cache["train"].names == ("idx", "pooled")
        assert cache["test"].names == ("cls",)


def test_another_fingerprint_is_refused_and_replaced_with_force(tmp_path):
    path = tmp_path / "toy.h5"
    kit.write(path)
    old = path.read_bytes()
    other = {"max_length": 64, "precision": "bfloat16"}
    with pytest.raises(CacheMismatchError, match=r"max_length: expected 64, found 128; precision: .*--force"):
        kit.write(path, attributes=other)
    assert kit.write(path, attributes=other, force=True, stop_after=3) == 3
    assert path.read_bytes() == old, "the old file stays until the new one is whole"
    assert kit.write(path, attributes=other, force=True) == 19 - 3, "a forced run resumes too"
    with open_cache(path) as cache:
        assert cache.max_length == 64


def test_half_finished_work_of_another_request_is_refused(tmp_path):
    path = tmp_path / "toy.h5"
    kit.write(path, stop_after=3)
    with pytest.raises(CacheMismatchError, match=r"half-written for another request .max_length"):
        kit.write(path, attributes={"max_length": 64})
    with pytest.raises(CacheMismatchError, match=r"half-written for another request .datasets"):
        kit.write(path, datasets=("pooled",))
    assert kit.write(path) == 19 - 3
    kit.write(tmp_path / "b.h5", stop_after=3)
    assert kit.write(tmp_path / "b.h5", datasets=("pooled",), force=True) == 19


def test_a_damaged_file_is_refused_and_never_added_to(tmp_path):
    path = tmp_path / "toy.h5"
    kit.write(path, datasets=("idx", "pooled"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheError, match=r"toy.h5.*--force"):
        kit.write(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("cuts", [(0, 400, 700, 1000), (0, 1, 999, 1000), (0, 1000)])
def test_parts_of_workers_merge_into_one_worker_s_file(tmp_path, cuts):
    path = tmp_path / "toy.h5"
    splits = {"train": 1000, "test": 130}
    parts = []
    for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
        ranges = {"train": (start, stop)} | ({"test": (0, 130)} if number == 0 else {})
        parts.append(part_path(path, number))
        kit.write(parts[-1], splits=splits, ranges=ranges, stop_after=1)
        kit.write(parts[-1], splits=splits, ranges=ranges)
        assert kit.write(parts[-1], splits=splits, ranges=ranges) == 0
        assert verify(parts[-1]).good
        with pytest.raises(CacheError, match="part, to be merged"):
            open_cache(parts[-1])
    merge_parts(path, parts[::-1], **kit.OPTIONS)
    kit.write(tmp_path / "whole.h5", splits=splits)
    assert verify(path).fault is None
    assert kit.contents(path) == kit.contents(tmp_path / "whole.h5")
    if len(parts) > 1:
        with pytest.raises(CacheError, match=r"expected (a part that begins at row|parts of all)"):
            merge_parts(tmp_path / "other.h5", parts[1:])


def test_a_second_writer_leaves_with_a_line_that_names_the_first(tmp_path):
    path = tmp_path / "toy.h5"
    line = pytest.raises(CacheError, match=f"locked by process {os.getpid()} on ")
    with CacheWriter(path, kit.ATTRIBUTES, kit.SPLITS, kit.ALL, kit.WIDTHS), line:
        kit.write(path)
    assert kit.write(path, block_rows=8192) == 2


def test_many_writers_at_once_leave_one_whole_file(tmp_path):
    path, other = tmp_path / "toy.h5", tmp_path / "whole.h5"
    kit.write(other)

    def work():
        for _ in range(200):
            try:
                kit.write(path)
            except CacheError as error:
                if "locked by" not in str(error):
                    raise
                time.sleep(0.01)
            else:
                return
        raise RuntimeError("never got the lock")

    children = [kit.fork(work) for _ in range(5)]
    assert [kit.ended(child) for child in children] == [0] * 5
    assert path.read_bytes() == other.read_bytes()
    assert not work_folder(path).exists()


def test_wrong_rows_are_refused(tmp_path):
    def attempt(change):
        with CacheWriter(
            tmp_path / "x.h5", kit.ATTRIBUTES, {"train": 10}, kit.ALL, kit.WIDTHS, **kit.OPTIONS
        ) as writer:
            for block in writer.todo():
                writer.write(block, kit.rows_of("train", block.start, block.stop) | change)

    rows = kit.rows_of("train", 0, 10)
    for change, match in (
        ({"pooled": rows["pooled"][:9]}, "pooled: expected 10 rows, found 9"),
        ({"pooled": rows["pooled"][:, :5]}, r"pooled: expected rows of shape \(12,\)"),
        ({"label": rows["pooled"][:, 0]}, "label: expected int64, found float32"),
        ({"text": [1] * 10}, "text: expected a list of texts"),
        ({"text": ["a\0b"] * 10}, "text: expected texts without zero characters"),
        ({"length": rows["length"] + 1}, r"expected \d+ tokens"),
    ):
        with pytest.raises(CacheError, match=match):
            attempt(change)
    with pytest.raises(UnknownNameError, match="unknown dataset 'poled'"):
        CacheWriter(tmp_path / "x.h5", kit.ATTRIBUTES, {"train": 10}, ("poled",), kit.WIDTHS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_a_block_with_nan_or_infinity_is_not_kept(tmp_path, bad):
    def spoilt(start):
        arrays = kit.rows_of("train", start, start + 64)
        if start == 64:
            arrays["last_hidden"] = arrays["last_hidden"].astype(np.float32)
            arrays["last_hidden"][3, 3] = bad  # 1e6 is more than float16 holds
        return arrays

    def attempt():
        with CacheWriter(
            tmp_path / "x.h5", kit.ATTRIBUTES, {"train": 128}, kit.ALL, kit.WIDTHS, **kit.OPTIONS
        ) as writer:
            for block in writer.todo():
                writer.write(block, spoilt(block.start))
            writer.finish()

    with pytest.raises(CacheError, match="last_hidden/values: expected finite"):
        attempt()
    assert kit.write(tmp_path / "x.h5", splits={"train": 128}) == 1


def test_memory_does_not_grow_with_the_split(tmp_path):
    # Blocks under way are bounded: a slow disk holds the caller back.
    with CacheWriter(
        tmp_path / "x.h5", kit.ATTRIBUTES, {"train": 640}, ("pooled",), kit.WIDTHS, **kit.OPTIONS
    ) as writer:
        gate, sync = threading.Event(), writer._file.sync
        writer._file.sync = lambda: (gate.wait(), sync())
        handed = []

        def feed():
            for block in writer.todo():
                writer.write(block, kit.rows_of("train", block.start, block.stop))
                handed.append(block)

        thread = threading.Thread(target=feed)
        thread.start()
        time.sleep(0.3)
        so_far = len(handed)
        gate.set()
        thread.join()
        # Three in memory, and those that are in the file and wait for the disk together.
        assert 3 <= so_far <= 6
        writer.finish()
    assert verify(tmp_path / "x.h5").good


def test_as_a_torch_dataset(tmp_path):
    kit.write(tmp_path / "toy.h5")
    with open_cache(tmp_path / "toy.h5") as cache:
        rows = cache.to_datasets("test")
        assert len(rows) == 130
        expected = kit.rows_of("test", 0, 130)
        row = rows[7]
        assert row["text"] == expected["text"][7]
        assert np.array_equal(row["pooled"].numpy(), expected["pooled"][7])
        first = int(expected["length"][:7].sum())
        assert np.array_equal(
            row["last_hidden"].numpy(), expected["last_hidden"][first : first + expected["length"][7]]
        )


def test_a_journal_without_data_is_no_half_finished_work(tmp_path):
    # A run that was killed between naming its file and clearing up, and the file was removed since.
    path = tmp_path / "x.h5"
    assert kit.write(path, stop_after=2) == 2
    (work_folder(path) / "data.h5").unlink()
    assert (work_folder(path) / "journal").stat().st_size > 0
    whole = kit.write(tmp_path / "y.h5")
    assert kit.write(path) == whole
    assert kit.contents(path) == kit.contents(tmp_path / "y.h5")
