import dataclasses

import pytest

from pipeline.errors import UnknownNameError
from pipeline.sources import SAMPLE_TASKS, check_counts, open_source, scan
from pipeline.tasks import TASKS

ROWS = {"train": 600, "validation": 300, "test": 200}


def sha256(name):
    return scan(open_source(name, "sample")).sha256


@pytest.mark.parametrize("name", SAMPLE_TASKS)
def test_shape_and_labels(name):
    source = open_source(name, "sample")
    assert (source.description, source.notes) == ("sample", ())
    assert dataclasses.replace(source.task, rows=TASKS[name].rows) == TASKS[name]
    counts = scan(source).rows
    assert counts == ROWS
    assert check_counts(source.task, counts) == []
    for split in source.splits:
        rows = list(source.rows(split))
        assert {row.label for row in rows} == ({-1} if split == "test" else {0, 1})
        assert all((row.text_pair is not None) == source.task.pair for row in rows)
        if split != "test":
            assert 0.4 < sum(row.label for row in rows) / len(rows) < 0.65


@pytest.mark.parametrize("name", SAMPLE_TASKS)
def test_no_row_comes_twice(name):
    source = open_source(name, "sample")
    rows = [row[:2] for split in source.splits for row in source.rows(split)]
    assert len(rows) == len(set(rows)) == sum(ROWS.values())


@pytest.mark.parametrize("name", SAMPLE_TASKS)
def test_sentences_read_as_sentences(name):
    for row in open_source(name, "sample").rows("train"):
        for text in filter(None, row[:2]):
            assert text[0].isupper()
            assert text.endswith(".")
            assert "  " not in text
            assert "a(n)" not in text
            if name != "cola":
                assert not any(f" a {vowel}" in text.lower() for vowel in "aeiou")
        assert row.text != row.text_pair


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cola", "aac6e45b1516db98bac98792602f18180a04f7a6bc3be40d2cfe9e73b9c3c0fe"),
        ("sst2", "f450f80246239655aeaa2638974e45c39e5d71a999a80332fe14914c0fad7255"),
        ("mrpc", "203006000391944466142c668f6ff55ab762bda08d7179ecae0c2b55bdcd4466"),
    ],
)
def test_the_sample_never_changes(name, expected):
    assert sha256(name) == expected


def test_other_tasks_are_not_in_the_sample():
    with pytest.raises(
        UnknownNameError, match="unknown task 'rte': expected one of cola, sst2, mrpc; other tasks need"
    ):
        open_source("rte", "sample")
