import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import SourceError
from pipeline.sources import read_vectors

X = np.arange(24, dtype=np.float64).reshape(6, 4) / 8
SPLIT = np.array(["train", "dev", "train", "test", "train", "val"])


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def write_parquet(path, **columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


def error(path, **options):
    with pytest.raises(SourceError) as info:
        read_vectors(path, "mine", **options)
    assert "\n" not in str(info.value)
    return str(info.value)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for split, (x, y) in expected.items():
        assert found[split][0].dtype == np.float32
        np.testing.assert_array_equal(found[split][0], x)
        np.testing.assert_array_equal(found[split][1], y)


def test_npz_with_a_split_array(tmp_path):
    path = save(tmp_path / "v.npz", x=X, y=np.array([0, 1, 1, -1, 0, 1]), split=SPLIT)
    task, splits = read_vectors(path, "mine", say=pytest.fail)
    assert (task.name, task.labels, task.pair) == ("mine", ("0", "1"), False)
    assert_same(splits, {"train": (X[[0, 2, 4]], [0, 1, 0]), "validation": (X[[1, 5]], [1, 1]), "test": (X[[3]], [-1])})
    assert splits["train"][1].dtype == np.int64


def test_npz_with_an_array_for_each_split(tmp_path):
    path = save(
        tmp_path / "v.npz",
        test_x=X[:1],
        dev_x=X[1:3],
        dev_y=np.array(["b", "a"]),
        train_x=X[3:],
        train_y=np.array(["a", "b", "c"]),
    )
    task, splits = read_vectors(path, "mine")
    assert task.labels == ("a", "b", "c")
    assert_same(splits, {"train": (X[3:], [0, 1, 2]), "validation": (X[1:3], [1, 0]), "test": (X[:1], [-1])})


def test_fractions_make_a_regression(tmp_path):
    path = save(tmp_path / "v.npz", x=X.astype(np.float16), y=np.array([0.5, 1, np.nan, -1, 0, 2]), split=SPLIT)
    task, splits = read_vectors(path, "mine")
    assert task.labels is None
    assert splits["train"][1].dtype == np.float32
    np.testing.assert_array_equal(splits["train"][1], [0.5, np.nan, 0])
    np.testing.assert_array_equal(splits["test"][1], [np.nan])


@pytest.mark.parametrize("labels", [["b", "a", "b", "a", "b", "b"], [b"b", b"a", b"b", b"a", b"b", b"b"]])
def test_words_as_text_or_bytes(labels, tmp_path):
    task, splits = read_vectors(save(tmp_path / "v.npz", x=X, y=np.array(labels), split=SPLIT.astype("S")), "mine")
    assert task.labels == ("a", "b")
    assert splits["test"][1].tolist() == [0]


def test_drawn_splits_are_said_and_keep_equal_rows_together(tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    path = save(tmp_path / "v.npz", x=np.concatenate([x, x]), y=np.arange(600) % 3)
    said = []
    _, splits = read_vectors(path, "mine", say=said.append)
    assert len(said) == 1
    assert "80% train and 20% validation" in said[0]
    assert list(splits) == ["train", "validation"]
    train, validation = ({row.tobytes() for row in splits[split][0]} for split in splits)
    assert not train & validation
    assert 80 <= len(splits["validation"][0]) <= 160
    assert_same(read_vectors(path, "mine")[1], splits)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(-9, 9, width=32)))
def test_any_finite_array_comes_back(tmp_path_factory, x):
    path = save(tmp_path_factory.mktemp("v") / "v.npz", train_x=x, train_y=np.arange(len(x)))
    assert_same(read_vectors(path, "mine")[1], {"train": (x, np.arange(len(x)))})


@pytest.mark.parametrize("lists", [True, False])
def test_parquet(lists, tmp_path):
    features = {"embedding": list(X)} if lists else {f"f{n}": X[:, n] for n in range(4)}
    path = write_parquet(
        tmp_path / "v.parquet", **features, name=list("abcdef"), label=list("xyxyxy"), split=list(SPLIT)
    )
    task, splits = read_vectors(path, "mine")
    assert task.labels == ("x", "y")
    assert_same(splits, {"train": (X[[0, 2, 4]], [0, 0, 0]), "validation": (X[[1, 5]], [1, 1]), "test": (X[[3]], [1])})


def test_parquet_with_named_columns(tmp_path):
    path = write_parquet(tmp_path / "v.parquet", a=list(X), b=list(-X), mood=[0, 1] * 3, part=list(SPLIT))
    _, splits = read_vectors(path, "mine", label="mood", split_column="part", features="b")
    np.testing.assert_array_equal(splits["train"][0], -X[[0, 2, 4]])
    assert "expected one column of lists, found a, b" in error(path, label="mood", split_column="part")
    assert "expected a column 'label', found 'a, b, mood, part'" in error(path)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": X, "y": np.arange(5)}, "expected a label for each of 6 rows of features, found 5 labels"),
        ({"x": X}, "expected labels under the key y, found x"),
        ({"z": X}, "expected the keys x and y, or <split>_x and <split>_y, found z"),
        ({"x": X[0], "y": np.arange(4)}, "found float64 [4]"),
        ({"x": X[None], "y": np.arange(1)}, "found float64 [1, 6, 4]"),
        ({"x": X[:0], "y": np.arange(0)}, "neither empty, found float64 [0, 4]"),
        ({"x": X[:, :0], "y": np.arange(6)}, "neither empty, found float64 [6, 0]"),
        ({"x": X.astype(str), "y": np.arange(6)}, "expected features of numbers"),
        ({"x": X, "y": np.zeros((6, 1))}, "expected y with one value a row, [rows], found [6, 1]"),
        ({"x": X, "y": np.arange(6), "split": SPLIT[:5]}, "expected a split for each row, found 5 for 6 rows"),
        ({"x": np.where(X == 1, np.nan, X), "y": np.arange(6)}, "NaN or infinity in 1 of 6 rows, first in row 2"),
        ({"x": X * 1e300, "y": np.arange(6)}, "NaN or infinity in 6 of 6 rows, first in row 0"),
        ({"train_x": X, "train_y": np.arange(5), "test_x": X, "test_y": np.arange(7)}, "6 rows of features, found 5"),
        ({"train_x": X, "train_y": np.arange(6), "test_x": X[:, :2]}, "expected one width in all splits, found 2, 4"),
        ({"x": X, "y": np.array([0, 1, 2, 3, 4, 5], dtype=object)}, "without objects"),
        (
            {"x": X, "y": np.array([0, 1, 2, 3, 4, np.inf]), "split": SPLIT},
            "row 5: expected a label, a number or a word, found 'inf'",
        ),
        ({"x": X[:1], "y": np.arange(1)}, "expected enough rows to draw train and validation, found 1"),
        ({"x": X, "y": np.full(6, np.nan), "split": SPLIT}, "found all empty"),
    ],
)
def test_bad_arrays_are_named(arrays, expected, tmp_path):
    assert expected in error(save(tmp_path / "v.npz", **arrays))


def test_bad_files_are_named(tmp_path):
    for name in ("v.npz", "v.parquet"):
        (tmp_path / name).write_bytes(b"neither zip nor Parquet")
        assert "cannot be read" in error(tmp_path / name)
        whole = {
            "v.npz": lambda path: save(path, x=X, y=np.arange(6)),
            "v.parquet": lambda path: write_parquet(path, a=[1]),
        }
        data = whole[name](tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        assert "cannot be read" in error(tmp_path / name)
    assert "expected a file, found nothing" in error(tmp_path / "none.npz")
    assert "expected a file ending in .npz or .parquet, found .csv" in error(tmp_path / "v.csv")
    np.save(tmp_path / "v.npy", X)
    (tmp_path / "v.npy").rename(tmp_path / "v.npz")
    assert "expected an npz of plain arrays" in error(tmp_path / "v.npz")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"x": [[1.0, 2.0], [3.0]], "label": [0, 1]}, "row 1: expected 2 numbers as in row 0, found 1"),
        ({"x": [[1.0], None], "label": [0, 1]}, "row 1: expected 1 numbers as in row 0, found no list"),
        ({"x": [None, [1.0]], "label": [0, 1]}, "row 0: expected a list of numbers, found no list"),
        ({"x": [[1.0], [None]], "label": [0, 1]}, "NaN or infinity in 1 of 2 rows, first in row 1"),
        ({"x": [["a"], ["b"]], "label": [0, 1]}, "expected lists of numbers"),
        ({"a": [1.0, None], "label": [0, 1]}, "NaN or infinity in 1 of 2 rows, first in row 1"),
        ({"a": ["b", "c"], "label": [0, 1]}, "expected a column of lists or columns of numbers, found a, label"),
        ({"a": [1.0, 2.0], "label": [0, 1], "split": ["train", None]}, "row 1: expected the name of a split"),
    ],
)
def test_bad_parquet_is_named(columns, expected, tmp_path):
    assert expected in error(write_parquet(tmp_path / "v.parquet", **columns))
