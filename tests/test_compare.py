"""`fit_heads.py compare`: the report's inference for anyone's predictions, and what it refuses."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import fit_heads


def call(*arguments):
    return CliRunner().invoke(fit_heads.main, ["compare", *map(str, arguments)])


def write(path, columns):
    names = list(columns)
    lines = [",".join(names), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def answers(rng, labels, share, classes=("no", "yes")):
    other = {classes[0]: classes[1], classes[1]: classes[0]}
    return [label if rng.random() < share else other[label] for label in labels]


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    labels = [("no", "yes")[i] for i in rng.integers(0, 2, 300)]
    ids = list(range(300))
    return [write(tmp_path / f"{name}.csv", {"id": ids, "label": labels, "prediction": answers(rng, labels, share)})
            for name, share in (("good", 0.9), ("bad", 0.7))]  # fmt: skip


def test_without_seeds_it_is_the_paired_t_interval_over_rows(files):
    good, bad = files
    done = call(bad, good, "--json")
    assert done.exit_code == 0, done.output
    (one,) = json.loads(done.stdout)["differences"]
    right = [np.array([row.split(",")[1] == row.split(",")[2] for row in file.read_text().splitlines()[1:]], float)
             for file in files]  # fmt: skip
    expected = stats.ttest_rel(*right).confidence_interval()
    assert (one["low"], one["high"]) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-6)
    assert (one["first"], one["second"], one["word"], one["seeds"]) == ("good", "bad", "found", 0)
    assert "good - bad: +" in call(bad, good).stdout


def test_scores_seeds_tasks_and_other_formats(tmp_path):
    rng = np.random.default_rng(1)
    for name, noise in (("a", 0.4), ("b", 2.0)):
        with (tmp_path / f"{name}.jsonl").open("w") as file:
            for task in ("x", "y", "z"):
                truth = np.random.default_rng(len(task) + ord(task)).integers(0, 3, 120)
                for seed in range(4):
                    for row, label in enumerate(truth):
                        scores = (np.eye(3)[label] + noise * rng.normal(size=3)).tolist()
                        record = {"id": f"r{row}", "task": task, "seed": seed, "label": int(label), "scores": scores}
                        file.write(json.dumps(record) + "\n")
    done = call(tmp_path / "b.jsonl", tmp_path / "a.jsonl", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [one["word"] for one in document["differences"]] == ["found"] * 3
    assert {one["seeds"] for one in document["differences"]} == {4}
    assert document["means"][0]["tasks"] == ["x", "y", "z"]
    assert document["tasks"]["x"] == {"metric": "accuracy", "rows": 120}


def test_numbers_are_a_regression(tmp_path):
    rng = np.random.default_rng(2)
    truth = rng.normal(size=200)
    paths = []
    for name, spread in (("near", 0.2), ("far", 1.0)):
        guess = truth + spread * rng.normal(size=200)
        paths.append(write(tmp_path / f"{name}.csv", {"id": range(200), "label": truth, "prediction": guess}))
    for metric in ("r2", "rmse", "pearson_spearmanr"):
        document = json.loads(call(*paths, "--metric", metric, "--json").stdout)
        (one,) = document["differences"]
        assert (one["first"], one["second"], one["value"] < 0) == ("far", "near", True)
        assert one["word"] == "found"
    assert json.loads(call(*paths, "--json").stdout)["tasks"]["rows"]["metric"] == "r2"


def test_glue_tasks_have_their_metric(tmp_path):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 100)
    paths = [write(tmp_path / f"{name}.csv", {"id": range(100), "task": ["cola"] * 100, "label": labels,
                                              "prediction": rng.integers(0, 2, 100)}) for name in "ab"]  # fmt: skip
    assert json.loads(call(*paths, "--json").stdout)["tasks"]["cola"]["metric"] == "matthews_correlation"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "\n".join(text.splitlines()[:-1]), "same 300 rows as the others, found none for '299'"),
        (lambda text: text + "300,no,no\n", "same 300 rows as the others, found 1 more"),
        (lambda text: text + "299,no,no\n", "expected a row id once"),
        (lambda text: text.replace("label", "truth"), "expected a column 'label'"),
        (lambda text: text.replace("prediction", "guess"), "expected a column 'prediction'"),
        (lambda text: text.replace("\n5,no,", "\n5,yes,").replace("\n6,yes,", "\n6,no,"), "as elsewhere"),
        (lambda text: text.replace("\n7,no,no", "\n7,no,maybe").replace("\n7,yes,yes", "\n7,yes,maybe"), "'maybe'"),
    ],
)
def test_rows_that_do_not_fit_are_one_line(files, change, said):
    good, bad = files
    bad.write_text(change(bad.read_text()))
    done = call(good, bad)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--margin", "-1"), "--margin: expected a number of points of at least 0, found -1"),
        (("--baseline", "other"), "unknown baseline among the files 'other'"),
        (("--metric", "speed"), "unknown metric 'speed'"),
    ],
)
def test_options_that_mean_nothing_are_one_line(files, arguments, said):
    done = call(*files, *arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert said in done.stderr
    assert call(files[0]).exit_code == 1
