"""`fit_heads.py submit`, held to a checker that was written from GLUE's published format alone."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fit_heads
import pipeline
from pipeline.errors import KanglueError
from pipeline.store import open_cache
from pipeline.sweep.results import Results
from pipeline.tasks import TASKS
from tests.helpers.synthetic_caches import write_cache

#: What GLUE's FAQ says: file, number of test rows, what a prediction may be (None: a number from 0 to 5).
GLUE = {
    "CoLA.tsv": (1063, {"0", "1"}),
    "SST-2.tsv": (1821, {"0", "1"}),
    "MRPC.tsv": (1725, {"0", "1"}),
    "STS-B.tsv": (1379, None),
    "MNLI-m.tsv": (9796, {"entailment", "neutral", "contradiction"}),
    "MNLI-mm.tsv": (9847, {"entailment", "neutral", "contradiction"}),
    "QNLI.tsv": (5463, {"entailment", "not_entailment"}),
    "RTE.tsv": (3000, {"entailment", "not_entailment"}),
    "WNLI.tsv": (146, {"0", "1"}),
    "QQP.tsv": (390965, {"0", "1"}),
    "AX.tsv": (1104, {"entailment", "neutral", "contradiction"}),
}


def check_file(path):
    """Raise ValueError unless a file is what the leaderboard reads."""
    rows, allowed = GLUE[path.name]
    raw = path.read_bytes()
    if b"\r" in raw or raw.startswith(b"\xef\xbb\xbf") or not raw.endswith(b"\n"):
        raise ValueError(f"{path.name}: bytes")
    with path.open(encoding="ascii", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))
    if lines[0] != ["index", "prediction"]:
        raise ValueError(f"{path.name}: header {lines[0]}")
    if len(lines) != rows + 1:
        raise ValueError(f"{path.name}: {len(lines) - 1} rows")
    for place, line in enumerate(lines[1:]):
        if len(line) != 2 or line[0] != str(place):
            raise ValueError(f"{path.name}: line {place + 2}: {line}")
        if allowed is None and not 0 <= float(line[1]) <= 5:
            raise ValueError(f"{path.name}: line {place + 2}: {line}")
        if allowed is not None and line[1] not in allowed:
            raise ValueError(f"{path.name}: line {place + 2}: {line}")
    return [line[1] for line in lines[1:]]


def check_folder(folder):
    if {path.name for path in folder.iterdir()} != set(GLUE):
        raise ValueError("files")
    return {name: check_file(folder / name) for name in GLUE}


def train(root, tasks, **options):
    return pipeline.sweep(
        task=list(tasks), cache=root / "cache", results=root / "r.sqlite", epochs=2, device="cpu", batch_size=32,
        **({"head": ["linear"], "encoder": ["tiny"], "seeds": "0:2"} | options),
    ).ids  # fmt: skip


def kind_of(task):
    return "number" if TASKS[task].labels is None else "three" if len(TASKS[task].labels) == 3 else "sum"


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """Caches of all nine tasks and AX with GLUE's numbers of test rows, and two heads of each task."""
    root = tmp_path_factory.mktemp("glue")
    for place, (name, task) in enumerate(TASKS.items()):
        sizes = {split: rows if split.startswith("test") else 60 for split, rows in task.rows.items()}
        write_cache(root / "cache", name, kind=kind_of(name), width=4, rows=sizes, features=("pooled",), seed=place)
    train(root, [name for name in TASKS if name != "ax"])
    return root


def run(root, *arguments):
    return CliRunner().invoke(
        fit_heads.main, ["submit", *arguments, "--results", str(root / "r.sqlite"), "--cache", str(root / "cache")]
    )


def test_the_checker_refuses_what_is_wrong(tmp_path):
    sound = "".join(["index\tprediction\n", *(f"{i}\t{i % 2}\n" for i in range(146))])
    path = tmp_path / "WNLI.tsv"
    path.write_text(sound)
    assert len(check_file(path)) == 146
    for wrong in (
        sound.replace("prediction", "label"), sound.replace("\n145\t1", ""), sound.replace("\n3\t1", "\n4\t1"),
        sound.replace("\n3\t1", "\n3\tentailment"), sound.replace("\n", "\r\n"), sound.replace("\t", ","), sound[:-1],
    ):  # fmt: skip
        path.write_bytes(wrong.encode())
        with pytest.raises(ValueError):  # noqa: PT011 - whichever
            check_file(path)


def test_a_whole_submission(glue, tmp_path):
    done = run(glue, "--out", str(tmp_path / "out"), "--zip", "--json")
    assert done.exit_code == 0, done.output
    found = check_folder(tmp_path / "out")
    document = json.loads(done.stdout)
    assert [one["file"] for one in document["files"]] == list(GLUE)
    assert document["missing"] == {}
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert set(archive.namelist()) == set(GLUE)
        assert archive.read("RTE.tsv") == (tmp_path / "out/RTE.tsv").read_bytes()
    heads = {one["file"]: one["head"] for one in document["files"]}
    assert heads["AX.tsv"] == heads["MNLI-m.tsv"] == heads["MNLI-mm.tsv"]
    with Results(glue / "r.sqlite") as store:
        stored = store.heads({"encoder": "tiny"})
    for name, task, split in (
        ("CoLA.tsv", "cola", "test"), ("RTE.tsv", "rte", "test"), ("STS-B.tsv", "stsb", "test"),
        ("MNLI-mm.tsv", "mnli", "test_mismatched"), ("AX.tsv", "ax", "test"), ("WNLI.tsv", "wnli", "test"),
    ):  # fmt: skip
        head = pipeline.load_head(heads[name], results=glue / "r.sqlite")
        with open_cache(glue / "cache/tiny" / f"{task}.h5") as cache:
            outputs = head.predict(np.asarray(cache[split]["pooled"]))
        if task == "stsb":
            np.testing.assert_allclose([float(v) for v in found[name]], outputs[:, 0].clip(0, 5), atol=1e-5)
            assert max(map(float, found[name])) == 5  # the made-up targets lie far above
        else:
            words = TASKS[task].labels if task in ("rte", "mnli", "ax") else ("0", "1")
            assert found[name] == [words[best] for best in outputs.argmax(1)]
            assert len(set(found[name])) > 1
    # The best of the two seeds by the main metric on the selection rows.
    colas = {one["id"]: one["selection"]["matthews_correlation"] for one in stored if one["task"] == "cola"}
    assert colas[heads["CoLA.tsv"]] == max(colas.values())


def test_heads_that_are_named_go_first(glue, tmp_path):
    with Results(glue / "r.sqlite") as store:
        named = [one["id"] for one in store.heads({"task": "wnli"})]
    for name in named:
        done = run(glue, name, "--out", str(tmp_path / name), "--json")
        assert {one["file"]: one["head"] for one in json.loads(done.stdout)["files"]}["WNLI.tsv"] == name
    done = run(glue, *named, "--out", str(tmp_path / "two"))
    assert done.exit_code == 1
    assert "expected one head for wnli, found two" in done.stderr


@pytest.fixture
def small(tmp_path):
    """Only WNLI is whole, RTE's test split is too short, and MNLI's lacks the mismatched one."""
    write_cache(tmp_path / "cache", "wnli", width=4, rows=dict(TASKS["wnli"].rows))
    write_cache(tmp_path / "cache", "rte", width=4)
    rows = {"train": 60, "validation_matched": 30, "test_matched": 9796}
    write_cache(tmp_path / "cache", "mnli", width=4, kind="three", rows=rows)
    train(tmp_path, ["wnli", "rte", "mnli"])
    return tmp_path


def test_what_is_missing_is_said_and_nothing_is_written(small):
    done = run(small)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    for words in (
        "found none for 9", "CoLA.tsv: no head of cola", "expected 3,000 rows of test as GLUE's, found 20",
        "expected the split 'test_mismatched'", "ax encoded as the cache of head", "--fill", "--partial",
    ):  # fmt: skip
        assert words in done.stderr
    assert not (small / "submission").exists()


def test_partial_writes_what_there_is(small):
    done = run(small, "--partial")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (small / "submission").iterdir()} == {"WNLI.tsv", "RTE.tsv", "MNLI-m.tsv"}
    check_file(small / "submission/WNLI.tsv")
    check_file(small / "submission/MNLI-m.tsv")
    assert len((small / "submission/RTE.tsv").read_text().splitlines()) == 21
    assert "CoLA.tsv: left out: no head of cola" in done.stderr


def test_fill_makes_it_whole(small):
    done = run(small, "--fill", "--json")
    assert done.exit_code == 0, done.output
    found = check_folder(small / "submission")
    assert len(set(found["WNLI.tsv"])) == 2
    assert set(found["QQP.tsv"]) == {"0"}
    assert np.std([float(value) for value in found["STS-B.tsv"]]) > 1
    filled = [one["file"] for one in json.loads(done.stdout)["files"] if one["head"] is None]
    assert set(filled) == set(GLUE) - {"WNLI.tsv", "MNLI-m.tsv"}


def test_an_old_submission_is_replaced_only_by_force(small):
    assert run(small, "--partial").exit_code == 0
    done = run(small, "--partial")
    assert (done.exit_code, "--force replaces it" in done.stderr) == (1, True)
    assert run(small, "--partial", "--force").exit_code == 0
    (small / "submission/notes.txt").write_text("mine")
    done = run(small, "--partial", "--force")
    assert (done.exit_code, "found other things there" in done.stderr) == (1, True)
    assert (small / "submission/notes.txt").read_text() == "mine"


def test_a_cache_that_was_made_again_is_not_the_heads(small):
    """Other rows under the old name: predictions would be of other rows than the head's."""
    write_cache(small / "cache", "wnli", width=4, rows=dict(TASKS["wnli"].rows), seed=9, replace=True)
    done = run(small, "--partial")
    assert "WNLI.tsv: left out" in done.stderr
    assert "fingerprint: expected" in done.stderr


def test_published_heads_and_other_encoders_are_not_chosen(small):
    train(small, ["wnli"], protocol=["published"], seeds="5", head=["mlp"], hidden=4)
    done = run(small, "--partial", "--json")
    assert {one["family"] for one in json.loads(done.stdout)["files"]} == {"linear"}
    done = run(small, "--partial", "--encoder", "other", "--out", str(small / "x"))
    assert (done.exit_code, "no head of wnli" in done.stderr) == (1, True)


def test_ax_needs_the_encoder_of_mnlis_head(tmp_path):
    sizes = {"train": 60, "validation_matched": 30, "test_matched": 20, "test_mismatched": 20}
    write_cache(tmp_path / "cache", "mnli", width=4, kind="three", rows=sizes)
    write_cache(tmp_path / "cache", "ax", width=4, kind="three", rows={"test": 1104}, encoder_seed=1)
    train(tmp_path, ["mnli"])
    done = run(tmp_path, "--partial")
    assert done.exit_code == 0
    assert "AX.tsv: left out" in done.stderr
    assert "ax.h5 has encoder_sha256: expected" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nope",), 1, "head 'nope': expected a folder or an id"),
        (("--out", "FILE", "--partial"), 1, "expected a new folder, found other things there"),
        (("--fill", "--partial"), 2, "expected --fill or --partial, found both"),
        (("--results", "none.sqlite"), 1, "none.sqlite: expected a results database, found nothing"),
    ],
)
def test_mistakes_are_one_line(small, arguments, status, words):
    (small / "file").write_text("x")
    places = ["--results", str(small / "r.sqlite"), "--cache", str(small / "cache")]
    given = [str(small / "file") if one == "FILE" else one for one in arguments]
    done = CliRunner().invoke(fit_heads.main, ["submit", *places, *given])
    assert (done.exit_code, done.stdout) == (status, "")
    assert words in done.stderr.splitlines()[-1]
    assert "unexpected" not in done.stderr


def test_a_head_of_another_task(tmp_path):
    write_cache(tmp_path / "cache", "mine", width=4)
    (name,) = train(tmp_path, ["mine"], seeds="0")
    with pytest.raises(KanglueError, match="expected a head of a GLUE task, found one of 'mine'"):
        pipeline.submit([name], cache=tmp_path / "cache", results=tmp_path / "r.sqlite", out=Path(tmp_path / "o"))
