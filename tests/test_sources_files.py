import csv
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, KanglueError, SourceError, UnknownNameError
from pipeline.sources import FileSource, HubSource, open_source, scan

ROWS = [
    {"body": 'He said "no", and left.', "other": "one", "mood": "good", "part": "train"},
    {"body": "two\nlines, and\u2028more", "other": "two", "mood": "bad", "part": "train"},
    {"body": "", "other": "an empty text is kept", "mood": "good", "part": "dev"},
    {"body": "NA", "other": "null", "mood": "", "part": "test"},
    {"body": "née 🦉", "other": "", "mood": "awful", "part": "train"},
]


def write_csv(path, rows, columns=None):
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl, ".json": write_jsonl, ".parquet": write_parquet}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    def write(rows):
        path = tmp_path / f"own{request.param}"
        WRITERS[request.param](path, rows)
        return path

    return write


def labels(path, **options):
    source = FileSource("mine", path, text="text", label="label", **options)
    return source.task.labels, {split: [row.label for row in source.rows(split)] for split in source.splits}


def with_labels(*values):
    return [{"text": f"t{n}", "label": value, "split": "train"} for n, value in enumerate(values)]


def message(call, *arguments, **options):
    with pytest.raises(KanglueError) as info:
        call(*arguments, **options)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_named_columns_become_rows(write):
    path = write(ROWS)
    source = open_source("mine", str(path), text="body", text_pair="other", label="mood", split_column="part")
    assert source.splits == ("train", "validation", "test")
    assert source.description == path.name
    assert source.notes == ()
    assert (source.task.name, source.task.labels, source.task.pair) == ("mine", ("awful", "bad", "good"), True)
    assert list(source.rows("train")) == list(source.rows("train"))
    assert list(source.rows("train")) == [
        (ROWS[0]["body"], "one", 2),
        (ROWS[1]["body"], "two", 1),
        (ROWS[4]["body"], "", 0),
    ]
    assert list(source.rows("validation")) == [("", "an empty text is kept", 2)]
    assert list(source.rows("test")) == [("NA", "null", -1)]
    with pytest.raises(UnknownNameError, match="unknown split 'dev'"):
        source.rows("dev")


def test_all_formats_hash_alike(tmp_path):
    digests = set()
    for suffix, write in WRITERS.items():
        write(tmp_path / f"own{suffix}", ROWS)
        source = FileSource("mine", tmp_path / f"own{suffix}", text="body", label="mood", split_column="part")
        digests.add(scan(source).sha256)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        ((0, 2, 1), ("0", "1", "2"), [0, 2, 1]),
        ((10, -5, 10, 7), ("-5", "7", "10"), [2, 0, 2, 1]),
        ((9, 10), ("9", "10"), [0, 1]),
        ((-1, 1), ("-1", "1"), [0, 1]),
        (("no", "yes", "No"), ("No", "no", "yes"), [1, 2, 0]),
        ((True, False), ("false", "true"), [1, 0]),
    ],
)
def test_classes(write, values, names, expected):
    rows = with_labels(*values)
    path = write([row | {"label": str(row["label"]).lower()} for row in rows] if values[0] is True else rows)
    assert labels(path, split_column="split") == (names, {"train": expected})


def test_fractions_make_a_regression(write):
    names, found = labels(write(with_labels(1.5, 2.0, 0.1)), split_column="split")
    assert names is None
    assert found == {"train": [1.5, 2.0, pytest.approx(0.1, abs=1e-8)]}
    assert found["train"][2] != 0.1  # as float32 holds it


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_missing_labels(suffix, tmp_path):
    path = tmp_path / f"own{suffix}"
    WRITERS[suffix](path, with_labels(1.0, None, 0.0))
    assert labels(path, split_column="split") == (("0", "1"), {"train": [1, -1, 0]})
    WRITERS[suffix](path, with_labels(1.5, None, float("nan")))
    names, found = labels(path, split_column="split")
    assert names is None
    assert math.isnan(found["train"][1])
    assert math.isnan(found["train"][2])


def test_a_split_of_nothing_but_minus_one_is_unlabelled(write):
    rows = with_labels(0, 1) + [row | {"split": "test"} for row in with_labels(-1, -1)]
    assert labels(write(rows), split_column="split") == (("0", "1"), {"train": [0, 1], "test": [-1, -1]})


def test_labels_that_mix_numbers_and_words_are_an_error(tmp_path):
    path = tmp_path / "own.csv"
    write_csv(path, with_labels(1, 0, "good", "1.5"))
    found = message(labels, path, split_column="split")
    assert f"expected all numbers or all words, found 1 ({path} line 2) and 'good' ({path} line 4)" in found


@pytest.mark.parametrize("value", [[1], {"a": 1}, math.inf, 10**400], ids=["list", "object", "infinity", "huge"])
def test_labels_of_another_kind_are_an_error(value, tmp_path):
    write_jsonl(tmp_path / "own.jsonl", with_labels(1, value))
    assert "own.jsonl line 2: expected a label, a number or a word" in message(labels, tmp_path / "own.jsonl")


def test_no_label_at_all_and_too_many_classes_are_errors(write):
    assert "found all empty" in message(labels, write(with_labels("", "")), split_column="split")
    many = with_labels(*range(1001))
    assert "at most 1000 classes" in message(labels, write(many), split_column="split")
    words = [row | {"label": f"w{row['label']}"} for row in many]
    assert "at most 1000 classes" in message(labels, write(words), split_column="split")
    names, _ = labels(write([*many, *with_labels(0.5)]), split_column="split")
    assert names is None


def test_drawn_splits_are_steady_said_and_keep_equal_texts_together(write):
    rows = [{"text": f"text {n % 400}", "label": n % 2} for n in range(800)]
    source = FileSource("mine", write(rows), text="text", label="label")
    assert len(source.notes) == 1
    assert "80% train and 20% validation" in source.notes[0]
    assert source.splits == ("train", "validation")
    train, validation = (list(source.rows(split)) for split in source.splits)
    assert len(train) + len(validation) == 800
    assert 110 <= len(validation) <= 210
    assert 0.4 <= sum(row.label for row in validation) / len(validation) <= 0.6
    assert not {row.text for row in train} & {row.text for row in validation}
    again = FileSource("other", write([{**row, "label": 1 - row["label"]} for row in rows]), text="text", label="label")
    assert [row.text for row in again.rows("validation")] == [row.text for row in validation]


def test_too_few_rows_to_draw_from(write):
    assert "give more rows" in message(labels, write([{"text": "a", "label": 0}, {"text": "a", "label": 1}]))


def test_unknown_columns_list_the_known(write):
    path = write(ROWS)
    found = message(FileSource, "mine", path, text="txt", label="mood")
    assert "expected a column 'txt', found 'body, other, mood, part'" in found


@pytest.mark.parametrize("value", ["", "a/b", "..", "a b"])
def test_split_names_are_plain(value, write):
    path = write([row | {"part": value} for row in ROWS])
    assert "expected the name of a split" in message(
        FileSource, "mine", path, text="body", label="mood", split_column="part"
    )


def test_a_wrong_split_column_is_noticed(write):
    rows = [{"text": "a", "label": 0, "split": f"s{n}"} for n in range(101)]
    assert "at most 100 splits" in message(labels, write(rows), split_column="split")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text,label\na,0\nb\n", "own.csv line 3: expected 2 fields as in the header, found 1"),
        ("text,label\na,0,1\n", "own.csv line 2: expected 2 fields as in the header, found 3"),
        ('text,label\n"a,0\nb,1\n', "own.csv line 3: expected CSV, found that unexpected end of data"),
        ('text,label\n"a"b,0\n', "own.csv line 2: expected CSV"),
        (b"text,label\na,0\n\xff,1\n", "own.csv line 3: expected UTF-8, found byte 0xff"),
        ("", "expected a header line"),
        ("text,label\n", "expected at least one row"),
    ],
)
def test_bad_csv_is_named_by_line(text, expected, tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert expected in message(labels, path)


def test_long_csv_fields_and_empty_lines(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(f'text,label,split\n{"x" * 200_000},0,train\n\n"two\n\nlines",1,train\n\n')
    source = FileSource("mine", path, text="text", label="label", split_column="split")
    assert [len(row.text) for row in source.rows("train")] == [200_000, 10]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"text": "a", "label": 0}\n{"text": \n', "own.jsonl line 2: expected one JSON object a line, found '{"),
        ('[{"text": "a", "label": 0}]', "own.jsonl line 1: expected a JSON object with named values"),
        (
            '{"text": "a", "label": 0}\n\n{"label": 1}\n',
            "own.jsonl line 3: expected text in column 'text', found 'None'",
        ),
        ('{"text": 5, "label": 0}\n', "own.jsonl line 1: expected text in column 'text', found '5'"),
        ("\n", "expected a JSON object with named values on each line, found none"),
    ],
)
def test_bad_json_lines_are_named_by_line(text, expected, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(text)
    assert expected in message(labels, path)


@pytest.mark.parametrize("split", [None, "split"])
def test_lone_surrogates_in_json_are_text(tmp_path, split):
    path = tmp_path / "own.jsonl"
    texts = [f"{n} \ud800" for n in range(40)]
    write_jsonl(path, [{"text": text, "label": n % 2, "split": "train"} for n, text in enumerate(texts)])
    source = FileSource("mine", path, text="text", label="label", split_column=split)
    assert sorted(row.text for split in source.splits for row in source.rows(split)) == sorted(texts)
    assert sum(scan(source).rows.values()) == len(texts)


def test_bad_parquet(tmp_path):
    path = tmp_path / "own.parquet"
    path.write_bytes(b"not parquet at all")
    assert "expected a whole Parquet file" in message(labels, path)
    write_parquet(path, [{"text": "a", "label": 0}, {"text": None, "label": 1}])
    assert "own.parquet row 2: expected text in column 'text'" in message(labels, path)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6))
def test_any_text_comes_back_from_csv_and_json(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("own")
    rows = [{"text": text, "label": n, "split": "train"} for n, text in enumerate(texts)]
    for suffix in (".csv", ".jsonl"):
        WRITERS[suffix](folder / f"own{suffix}", rows)
        source = FileSource("mine", folder / f"own{suffix}", text="text", label="label", split_column="split")
        assert [row.text for row in source.rows("train")] == texts


def test_open_source_checks_its_options(tmp_path):
    path = str(tmp_path / "own.csv")
    write_csv(tmp_path / "own.csv", ROWS)
    assert "expected `text_column` and `label_column`, the name of a column" in message(open_source, "mine", path)
    assert "the file's columns are body, other, mood, part" in message(open_source, "mine", path, text="body")
    for name in ("a/b", "..", ".hidden", "-x", "", "a b", "a\n"):
        with pytest.raises(ConfigError, match="expected a task name of letters"):
            open_source(name, path, text="body", label="mood")
    for data in ("hub", "sample"):
        with pytest.raises(ConfigError, match=f"expected `split_column` with a file .* `data` {data}"):
            open_source("mrpc", data, split_column="part")
    with pytest.raises(UnknownNameError, match="a file of your own needs `data=FILE`"):
        open_source("mine", "hub")
    assert isinstance(open_source("mrpc"), HubSource)
    assert "expected a file, found nothing" in message(open_source, "m", "no.csv", text="a", label="b")
    (tmp_path / "own.txt").write_text("x")
    assert "expected a file ending in .csv" in message(open_source, "m", str(tmp_path / "own.txt"), text="a", label="b")
    with pytest.raises(SourceError, match="found nothing there"):
        open_source("mrpc", str(tmp_path / "nowhere"))


def test_a_split_that_results_name_rows_by_is_refused(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("t,y,s\n" + "".join(f"row {i},{i % 2},{'selection' if i % 3 else 'train'}\n" for i in range(20)))
    with pytest.raises(SourceError, match="expected a split of your own, found selection"):
        open_source("own", str(path), text="t", label="y", split_column="s")
