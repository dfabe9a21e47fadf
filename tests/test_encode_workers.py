"""Reading and tokenising in other processes: the same rows, tokens and hash as in this one, and errors that arrive."""

import os

import numpy as np
import pytest

from pipeline.encode import spool
from pipeline.encode.encoders import resolve
from pipeline.encode.request import scan_task
from pipeline.encode.siamese import sentences_of
from pipeline.encode.spool import Reading
from pipeline.encode.stream import TokenStream
from pipeline.encode.tokens import load_tokeniser
from pipeline.encode.workers import Workers
from pipeline.errors import KanglueError, SourceError
from pipeline.sources import Row, open_source


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        yield pool


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "data" / "MRPC"
    home.mkdir(parents=True)
    for split, count in (("train", 5000), ("dev", 1), ("test", 2048)):
        lines = [f"1\t{i}\t{i}\ttext é {i}\tother \U0001f600 {i % 7}" for i in range(count)]
        (home / f"{split}.tsv").write_text("Quality\tid1\tid2\t#1 String\t#2 String\n" + "\n".join(lines) + "\n")
    return tmp_path / "data"


def test_a_reading_finds_what_a_scan_finds(workers, folder, tmp_path):
    source = open_source("mrpc", str(folder))
    found = Reading(workers, source, 64, tmp_path / "spool").scanned()
    assert found == scan_task(source, 64)
    assert found.rows == {"train": 5000, "validation": 1, "test": 2048}


def test_blocks_of_a_reading_are_those_of_the_source(workers, folder, tmp_path, tiny):
    source, splits = open_source("mrpc", str(folder)), {"train": 5000, "validation": 1, "test": 2048}
    tokeniser = load_tokeniser(resolve(str(tiny("bert"))).folder, "tiny", 64)
    reading = Reading(workers, source, 64, tmp_path / "spool")
    size = 2 * spool.PIECE_ROWS
    with TokenStream(source, splits, tokeniser, size) as plain, TokenStream(
        source, splits, tokeniser, size, workers, reading
    ) as spooled:  # fmt: skip
        assert spooled._reading is reading
        spooled.begin()
        # In order, and again from the middle, as a resumed run asks.
        for block in (("train", 0, size), ("train", size, 5000), ("validation", 0, 1), ("test", 0, 2048),
                      ("train", size, 5000)):  # fmt: skip
            (columns, tokens), (expected, others) = spooled.get(*block), plain.get(*block)
            assert len(columns) == block[2] - block[1]
            assert columns.text.data == expected.text.data
            assert columns.text_pair.data == expected.text_pair.data
            assert np.array_equal(columns.label, expected.label)
            for name in ("ids", "types", "offsets"):
                assert np.array_equal(getattr(tokens, name), getattr(others, name))


def test_a_file_of_ones_own_is_read_by_workers(workers, tmp_path):
    (tmp_path / "mine.csv").write_text("t,u,y\n" + "".join(f"text {n},other {n},{n % 3}\n" for n in range(50)))
    source = open_source("mine", str(tmp_path / "mine.csv"), text="t", text_pair="u", label="y")
    assert Reading(workers, source, 64, tmp_path / "spool").scanned() == scan_task(source, 64)


def test_a_fault_in_a_worker_is_the_callers(workers, folder, tmp_path):
    (folder / "MRPC" / "dev.tsv").write_text("Quality\tid1\tid2\t#1 String\t#2 String\n1\t2\n")
    reading = Reading(workers, open_source("mrpc", str(folder)), 64, tmp_path / "spool")
    with pytest.raises(SourceError, match=r"dev\.tsv line 2"):
        reading.scanned()


def test_a_worker_that_dies_is_said():
    with Workers(1) as pool, pytest.raises(KanglueError, match="a worker process ended"):
        pool.submit(os._exit, 3).result()


def test_distinct_sentences_keep_their_places():
    rows = [Row("a", "b", 0), Row("b", "a", 1), Row("", "a", 0), Row("c", "c", 0)]
    sentences, places = sentences_of(rows)
    assert [row.text for row in sentences] == ["a", "b", "", "c"]
    assert places.tolist() == [[0, 1], [1, 0], [2, 0], [3, 3]]
    assert sentences_of([])[1].shape == (0, 2)
