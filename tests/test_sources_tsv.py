import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, SourceError, UnknownNameError
from pipeline.sources import FolderSource, Limited, check_counts, open_source, scan
from pipeline.sources.base import float32
from pipeline.sources.tsv import parse_label
from pipeline.tasks import TASKS
from tests.helpers.glue_layout import TRICKY, made_up, write_tsv

GLUE_DIR = os.environ.get("GLUE_DIR", "")


def write(folder, name, text, file="train.tsv"):
    path = folder / TASKS[name].folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(folder, name, split="train"):
    return list(FolderSource(TASKS[name], folder).rows(split))


def error(folder, name, split="train"):
    with pytest.raises(SourceError) as info:
        read(folder, name, split)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.mark.parametrize("name", TASKS)
def test_all_tasks_in_glues_layout(name, tmp_path):
    task = TASKS[name]
    write_tsv(task, tmp_path)
    source = FolderSource(task, tmp_path)
    assert source.splits == tuple(task.rows)
    assert source.description == tmp_path.name
    for split in source.splits:
        rows, expected = list(source.rows(split)), made_up(task, split)
        assert [row[:2] for row in rows] == [row[:2] for row in expected]
        if not split.startswith("test"):
            assert [row.label for row in rows] == [float32(row[3]) for row in expected]
            assert all(type(row.label) is (float if name == "stsb" else int) for row in rows)
        elif name == "stsb":
            assert all(math.isnan(row.label) for row in rows)
        else:
            assert {row.label for row in rows} == {-1}
    assert source.notes == ()


@pytest.mark.parametrize("path", ["diagnostic/diagnostic.tsv", "AX/AX.tsv", "AX.tsv"])
def test_ax_has_many_places(path, tmp_path):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    assert read(tmp_path, "ax", "test") == [("a", "b", -1)]


def test_the_tasks_own_folder_is_taken_too(tmp_path):
    write(tmp_path, "rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n")
    assert read(tmp_path / "RTE", "rte") == read(tmp_path, "rte") == [("a", "b", 0)]
    with pytest.raises(SourceError, match="expected the task wnli"):
        FolderSource(TASKS["wnli"], tmp_path / "RTE")


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\r\n"])
def test_the_end_of_a_file_is_not_a_row(end, tmp_path):
    write(tmp_path, "sst2", "sentence\tlabel\na\t0\nb\t1" + end)
    assert read(tmp_path, "sst2") == [("a", None, 0), ("b", None, 1)]


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    write(tmp_path, "cola", b"\xef\xbb\xbfsrc\t1\t\tA cat sat.\r\nsrc\t0\t*\tCat a.\r\n")
    assert read(tmp_path, "cola") == [("A cat sat.", None, 1), ("Cat a.", None, 0)]


def test_one_carriage_return_goes_and_the_rest_is_text(tmp_path):
    write(tmp_path, "sst2", b"index\tsentence\n0\ta\rb\r\r\n", "test.tsv")
    assert read(tmp_path, "sst2", "test") == [("a\rb\r", None, -1)]


def test_an_empty_line_is_a_row_only_in_a_file_of_one_column(tmp_path):
    write(tmp_path, "sst2", "sentence\na\n\nb\n", "test.tsv")
    assert [row.text for row in read(tmp_path, "sst2", "test")] == ["a", "", "b"]
    write(tmp_path, "sst2", "sentence\tlabel\na\t0\n\nb\t1\n")
    assert "train.tsv line 3: expected 2 columns separated by tabs, found 1;" in error(tmp_path, "sst2")


def test_columns_are_found_by_name(tmp_path):
    write(tmp_path, "rte", "label\tnote\tsentence2\tsentence1\n1\tx\tsecond\tfirst\n")
    assert read(tmp_path, "rte") == [("first", "second", 1)]


def test_test_labels_are_never_read(tmp_path):
    write(tmp_path, "rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n", "test.tsv")
    assert read(tmp_path, "rte", "test") == [("a", "b", -1)]


def test_a_missing_column_lists_those_found(tmp_path):
    write(tmp_path, "rte", "index\tpremise\tsentence2\tlabel\n0\ta\tb\t0\n")
    message = error(tmp_path, "rte")
    assert "expected a header with the columns sentence1, sentence2, label" in message
    assert "found 'index, premise, sentence2, label'" in message


@pytest.mark.parametrize("row", ["0\ta\tb", "0\ta\tb\tentailment\tmore"])
def test_a_row_of_the_wrong_width_is_named(row, tmp_path):
    path = write(tmp_path, "rte", f"index\tsentence1\tsentence2\tlabel\n0\ta\tb\t0\n{row}\n")
    found = row.count("\t") + 1
    assert error(tmp_path, "rte").startswith(f"{path} line 3: expected 4 columns separated by tabs, found {found};")


@pytest.mark.parametrize("label", ["2", "-1", "", "Entailment", " 0", "0.0", "01", "١"])
def test_a_label_that_is_no_label_is_named(label, tmp_path):
    path = write(tmp_path, "rte", f"index\tsentence1\tsentence2\tlabel\n0\ta\tb\t{label}\n")
    message = error(tmp_path, "rte")
    assert message.startswith(f"{path} line 2: expected a rte label, one of 0, 1, entailment, not_entailment, found ")
    assert repr(label) in message


@pytest.mark.parametrize("label", ["nan", "inf", "1e400", "1e39", "1_0", "high", "", "٣"])
def test_a_score_is_a_finite_number(label):
    with pytest.raises(SourceError, match="x line 2: expected a stsb label, a number, found"):
        parse_label(TASKS["stsb"], label, "x line 2")


@given(st.floats(0, 5, width=32))
def test_scores_are_float32(score):
    assert parse_label(TASKS["stsb"], repr(score), "here") == score


def test_bad_bytes_are_named(tmp_path):
    path = write(tmp_path, "sst2", b"sentence\tlabel\ngood\t1\ncaf\xe9\t1\n")
    assert error(tmp_path, "sst2").startswith(f"{path} line 3: expected UTF-8, found byte 0xe9 at position 4;")


def test_an_empty_file_is_an_error(tmp_path):
    write(tmp_path, "sst2", "")
    assert "expected a header line, found an empty file" in error(tmp_path, "sst2")


def test_qqp_drops_short_rows_and_says_so(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    write(
        tmp_path, "qqp", header + "0\t1\t2\ta\tb\t0\n\tonly this\t0\n1\t1\t2\tc\n\n2\t1\t2\tc\td\t1\n3\t1\t2\te\tf\t\n"
    )
    source = FolderSource(TASKS["qqp"], tmp_path)
    assert list(source.rows("train")) == [("a", "b", 0), ("c", "d", 1)]
    assert source.notes == Limited(source, 1).notes
    assert len(source.notes) == 1
    assert source.notes[0].startswith(
        "qqp train: 4 rows lack a column and are left out, as in the hub's copy (train.tsv"
    )
    assert "lines 3, 4, 5, 7" in source.notes[0]
    write(tmp_path, "qqp", header + "0\t1\t2\ta\tb\t0\tmore\n")
    assert "expected 6 columns" in error(tmp_path, "qqp")


def test_missing_things_are_named(tmp_path):
    with pytest.raises(SourceError, match="nowhere: expected a folder with GLUE's task folders, found nothing"):
        FolderSource(TASKS["rte"], tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"one of RTE/train.tsv, RTE/dev.tsv, RTE/test.tsv, found none"):
        FolderSource(TASKS["rte"], tmp_path)
    write(tmp_path, "rte", "index\tsentence1\tsentence2\tlabel\n", "dev.tsv")
    assert FolderSource(TASKS["rte"], tmp_path).splits == ("validation",)
    with pytest.raises(UnknownNameError, match="unknown split 'dev': expected one of validation"):
        read(tmp_path, "rte", "dev")


def test_rows_are_fresh_each_time_and_lazy(tmp_path):
    write(tmp_path, "sst2", "sentence\tlabel\na\t0\nb\t1\nc\tbroken\n")
    source = FolderSource(TASKS["sst2"], tmp_path)
    assert (
        list(Limited(source, 2).rows("train"))
        == list(Limited(source, 2).rows("train"))
        == [("a", None, 0), ("b", None, 1)]
    )
    with pytest.raises(SourceError, match="line 4"):
        scan(source)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), min_size=1), max_size=8))
def test_any_text_comes_back(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("glue")
    write(folder, "sst2", "sentence\tlabel\n" + "".join(f"{text}\t1\n" for text in texts))
    assert [row.text for row in read(folder, "sst2")] == texts


def test_the_hash_of_rows_sees_texts_labels_and_where_they_part(tmp_path):
    def digest(text):
        write(tmp_path, "rte", "index\tsentence1\tsentence2\tlabel\n" + text)
        return scan(FolderSource(TASKS["rte"], tmp_path)).sha256

    digests = {
        digest(text) for text in ("0\tab\tc\t0\n", "0\ta\tbc\t0\n", "0\tab\tc\t1\n", "", "0\tab\tc\t0\n1\t\t\t0\n")
    }
    assert len(digests) == 5
    assert digest("0\tab\tc\t0\n") == digest("9\tab\tc\tentailment\n")


def test_counts_that_are_not_glues_are_said():
    assert check_counts(TASKS["mrpc"], {"train": 3668, "test": 1725}) == []
    (line,) = check_counts(TASKS["mrpc"], {"train": 3667, "test": 1725})
    assert line.startswith("mrpc train: expected 3668 rows as GLUE's, found 3667;")


def test_open_source_takes_a_folder(tmp_path):
    write_tsv(TASKS["sst2"], tmp_path)
    source = open_source("sst2", str(tmp_path))
    assert [row.text for row in source.rows("train")] == TRICKY
    with pytest.raises(ConfigError, match="`text_column`, `label_column` with a file of your own"):
        open_source("sst2", str(tmp_path), text="sentence", label="label")
    with pytest.raises(UnknownNameError, match="unknown task 'sst'"):
        open_source("sst", str(tmp_path))
    with pytest.raises(SourceError, match="found nothing there"):
        open_source("sst2", str(tmp_path / "nowhere"))


@pytest.mark.skipif(not GLUE_DIR, reason="GLUE_DIR names no folder with GLUE's own files")
@pytest.mark.parametrize("name", ["cola", "mrpc", "rte", "sst2"])
def test_real_glue(name):
    task = TASKS[name]
    source = open_source(name, GLUE_DIR)
    counts = {}
    for split in source.splits:
        rows = list(source.rows(split))
        counts[split] = len(rows)
        labels = {row.label for row in rows}
        assert labels == ({-1} if split == "test" else {0, 1})
        assert all(row.text and (row.text_pair is None) != task.pair for row in rows)
    assert counts == dict(task.rows)
    assert check_counts(task, counts) == []


@pytest.mark.skipif(not GLUE_DIR, reason="GLUE_DIR names no folder with GLUE's own files")
def test_real_rows_keep_the_files_order():
    lines = (Path(GLUE_DIR) / "RTE/dev.tsv").read_bytes().decode().split("\n")
    rows = list(open_source("rte", GLUE_DIR).rows("validation"))
    assert [int(line.split("\t")[0]) for line in lines[1:] if line] == list(range(len(rows)))
    assert all(lines[1 + idx].split("\t")[1:3] == [row.text, row.text_pair] for idx, row in enumerate(rows))


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(SourceError, match="expected a folder with GLUE's task folders, found a file"):
        FolderSource(TASKS["rte"], tmp_path / "a")
