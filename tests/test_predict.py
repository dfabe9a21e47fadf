"""`fit_heads.py predict`: what a head says of texts is what its evaluation recorded, and mistakes are one line."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fit_heads
import pipeline
from pipeline.encode.rows import Asked
from pipeline.errors import EncoderError, ResultsError, SourceError
from pipeline.serve.predict import BLOCK_ROWS, Columns, Predictor, answer_lines, line_rows
from pipeline.sources import open_source
from pipeline.sweep.results import Results

ROOT = Path(__file__).parents[1]
QUICK = {"epochs": 2, "hidden": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    """A folder with caches of a tiny encoder and a few heads: {(task, features): id}."""
    root, folder = tmp_path_factory.mktemp("predict"), tiny("bert")
    for task, pairs, options in (
        ("mrpc", "joint", {}), ("mrpc", "siamese", {}), ("cola", "joint", {"max_length": 12, "layers": (1, 2)}),
    ):  # fmt: skip
        pipeline.embed(task, encoder=str(folder), data="sample", cache=root / "cache", pairs=pairs, limit=90, **options)
    heads = {}
    for task, features in (
        ("mrpc.limit90", "mean"), ("mrpc.limit90", "reduced"), ("mrpc.limit90", "weight"), ("mrpc.limit90", "pooled"),
        ("mrpc.limit90", "last_hidden:max"), ("mrpc.limit90", "last_hidden:kan_attention"),
        ("mrpc.siamese.limit90", "siamese"), ("cola.layers1-2.len12.limit90", "cls"),
    ):  # fmt: skip
        done = pipeline.fit(
            task, head="effi_kan", encoder=str(folder), features=features.partition(":")[0], cache=root / "cache",
            results=root / "r.sqlite", token_pool=features.partition(":")[2] or None, **QUICK,
        )  # fmt: skip
        heads[task.split(".limit")[0], features] = done.id
    return root, folder, heads


def dev_rows(task):
    return list(open_source(task, "sample").rows("validation"))[:90]


def recorded(root, name):
    with Results(root / "r.sqlite") as store:
        return store.outputs(name, "validation")


@pytest.mark.parametrize(
    "key",
    [("mrpc", "mean"), ("mrpc", "reduced"), ("mrpc", "weight"), ("mrpc", "pooled"), ("mrpc.siamese", "siamese"),
     ("mrpc", "last_hidden:max"), ("mrpc", "last_hidden:kan_attention"),
     ("cola.layers1-2.len12", "cls")],
)  # fmt: skip
def test_the_same_answers_as_the_recorded_evaluation(place, key):
    root, folder, heads = place
    task = key[0].split(".")[0]
    rows = [row[:2] if row.text_pair is not None else row.text for row in dev_rows(task)]
    found = list(pipeline.predict(heads[key], rows, encoder=str(folder), results=root / "r.sqlite", device="cpu"))
    logits = recorded(root, heads[key]).astype(np.float64)
    labels = pipeline.load_head(heads[key], results=root / "r.sqlite").labels
    assert [answer.label for answer in found] == [labels[best] for best in logits.argmax(1)]
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose([list(answer.probabilities.values()) for answer in found], expected, atol=2e-5)
    assert [answer.probability for answer in found] == [max(answer.probabilities.values()) for answer in found]
    assert len({answer.label for answer in found}) == 2 or len(set(logits.argmax(1))) == 1


def test_a_regression_head_gives_values(tiny, tmp_path):
    lines = [json.dumps({"t": "word " * (i % 7) + str(i), "y": i % 7 + 0.5, "s": "train" if i % 3 else "validation"})
             for i in range(120)]  # fmt: skip
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    folder = str(tiny("bert"))
    pipeline.embed(
        "own", encoder=folder, data=str(tmp_path / "own.jsonl"), text_column="t", label_column="y", split_column="s",
        cache=tmp_path,
    )  # fmt: skip
    done = pipeline.fit("own", head="mlp", encoder=folder, cache=tmp_path, results=tmp_path / "r.sqlite", **QUICK)
    texts = ["word " * (i % 7) + str(i) for i in range(0, 120, 3)]
    found = list(pipeline.predict(done.id, texts, encoder=folder, results=tmp_path / "r.sqlite"))
    np.testing.assert_allclose([a.value for a in found], recorded(tmp_path, done.id)[:, 0], rtol=1e-4, atol=1e-4)
    assert found[1].document() == {"value": found[1].value}
    with pytest.raises(SourceError, match="row 0: expected one text, as own has, found two"):
        list(pipeline.predict(done.id, [("a", "b")], encoder=folder, results=tmp_path / "r.sqlite"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "float16"}, ("precision: expected float32, found float16",)),
        ({"max_length": 32}, ("length: expected 64, found 32",)),
        ({"pairs": "siamese"}, ("pairs: expected joint, found siamese",)),
        ({"layers": (1,)}, (r"layers: expected none \(the last\), found 1",)),
        ({"layers": (1,), "max_length": 8}, ("length", "layers")),
    ],
)
def test_what_differs_from_the_heads_cache_is_named(place, change, words):
    root, folder, heads = place
    head = pipeline.load_head(heads["mrpc", "mean"], results=root / "r.sqlite")
    for word in words:
        with pytest.raises(EncoderError, match=word):
            Predictor(head, Asked(encoder=str(folder), **change), "cpu")
    Predictor(head, Asked(str(folder), 64, "joint", (3,), "float32"), "cpu")  # the last layer is the head's own


def test_another_encoder_is_refused_and_its_part_named(place, tiny, tmp_path):
    root, folder, heads = place
    head = pipeline.load_head(heads["mrpc", "mean"], results=root / "r.sqlite")
    with pytest.raises(EncoderError, match=r"with other weights: expected [0-9a-f]{12}, found [0-9a-f]{12}; give"):
        Predictor(head, Asked(str(tiny("bert", seed=2))), "cpu")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    tokens = json.loads((copy / "tokenizer.json").read_text())
    tokens["normalizer"] = None
    (copy / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(EncoderError, match=r"with other tokenizer: expected"):
        Predictor(head, Asked(str(copy)), "cpu")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    with pytest.raises(EncoderError, match=r"with other configuration: expected .*; tokenizer: expected"):
        Predictor(head, Asked(str(copy)), "cpu")
    with pytest.raises(EncoderError, match="expected the folder of its encoder, 'bert', found no --encoder"):
        Predictor(head)


def predict(place, *arguments, text=None):
    root, folder, _ = place
    command = ["predict", "--results", str(root / "r.sqlite"), "--encoder", str(folder), "--device", "cpu", *arguments]
    return CliRunner().invoke(fit_heads.main, command, input=text)


def test_texts_on_the_command_line(place):
    head = place[2]["mrpc", "mean"]
    text = predict(place, head, "the first", "the second").stdout
    label, probability = text.split("\t")
    document = json.loads(predict(place, head, "the first", "the second", "--json").stdout)
    assert document["head"] == head
    assert document["label"] == label
    assert document["probability"] == pytest.approx(float(probability), abs=1e-4)
    assert sum(document["probabilities"].values()) == pytest.approx(1)
    single = place[2]["cola.layers1-2.len12", "cls"]
    assert json.loads(predict(place, single, "one text", "--jsonl").stdout)["task"] == "cola"


@pytest.mark.parametrize("own_names", [False, True])
@pytest.mark.parametrize("by_file", [False, True])
def test_json_lines(place, tmp_path, by_file, own_names):
    rows = dev_rows("mrpc")
    names = ("sentence1", "sentence2") if own_names else ("text", "text_pair")
    lines = "\n".join(
        json.dumps(dict(zip(names, row[:2], strict=True)) | {"id": f"r{i}"}) for i, row in enumerate(rows)
    )
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    source = ("--file", str(tmp_path / "in.jsonl")) if by_file else ()
    head = place[2]["mrpc", "mean"]
    done = predict(place, head, "--jsonl", *source, text=None if by_file else lines)
    assert (done.exit_code, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["line"], one["id"]) for one in found] == [(i + 1, f"r{i}") for i in range(90)]
    best = recorded(place[0], head).argmax(1)
    assert [one["label"] for one in found] == [("not_equivalent", "equivalent")[i] for i in best]
    as_array = json.loads(predict(place, head, "--json", *source, text=lines).stdout)
    assert [one["label"] for one in as_array] == [one["label"] for one in found]
    plain = predict(place, head, *source, text=lines).stdout.splitlines()
    assert [line.split("\t")[0] for line in plain] == [one["label"] for one in found]


SOUND = '{"text": "a", "text_pair": ""}\n\n'
FAULTS = {
    '{"text": "a"': "expected one JSON object a line",
    "[1]": "expected a JSON object with named values",
    "null": "expected a JSON object",
    "{}": "expected the key 'text' (and 'text_pair' for pairs), found none",
    '{"sentence": "a"}': "found 'sentence'; --text and --text-pair name other keys",
    '{"text": 5, "text_pair": "b"}': "expected a text under 'text', found '5'",
    '{"text": "a", "text_pair": ["b"]}': "expected a text under 'text_pair'",
    '{"text": "a"}': "expected two texts, as mrpc has, found one",
    '{"text": "a", "text_pair": null}': "expected two texts",
}


@pytest.mark.parametrize("line", FAULTS)
def test_a_faulty_line_ends_the_stream_after_those_before_it(place, line):
    head = place[2]["mrpc", "mean"]
    done = predict(place, head, "--jsonl", text=f"{SOUND}{line}\n{SOUND}")
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: standard input line 3: ")
    assert FAULTS[line] in done.stderr


def test_keep_going_answers_every_line(place):
    head, faults = place[2]["mrpc", "mean"], list(FAULTS)
    text = "\n".join([SOUND, *faults, SOUND]) + "\n"
    done = predict(place, head, "--json", "--keep-going", text=text)
    assert done.exit_code == 1
    assert f"found {len(faults)} faulty lines" in done.stderr
    found = json.loads(done.stdout)
    assert [bool(one.get("error")) for one in found] == [False, *[True] * len(faults), False]
    for one, words in zip(found[1:-1], FAULTS.values(), strict=True):
        assert words in one["error"]
        assert f"line {one['line']}: " in one["error"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nope", "a"), 1, "head 'nope': expected a folder or an id in"),
        (("mrpc", "a"), 1, "text: expected two texts, as mrpc has, found one"),
        (("cola", "a", "b"), 1, "text: expected one text, as cola has, found two"),
        (("mrpc", " ", "b"), 1, "expected a text, found an empty one"),
        (("mrpc", "a", ""), 1, "expected a text, found an empty one"),
        (("mrpc", "--file", "none.jsonl"), 1, "none.jsonl: expected a readable file of JSON lines"),
        (("mrpc", "a", "b", "--encoder", "none here"), 1, "encoder 'none here': expected"),
        (("mrpc", "a", "b", "--device", "tpu"), 1, "device 'tpu'"),
        (("mrpc", "a", "b", "--precision", "float8"), 1, "precision: expected float32, found float8"),
        (("mrpc", "a", "b", "--file", "x"), 2, "expected a text or --file, found both"),
        (("mrpc", "a", "b", "--layers", "x"), 2, "expected numbers"),
        ((), 2, "Missing argument 'HEAD'"),
    ],
)
def test_mistakes_are_one_line(place, arguments, status, words):
    heads = {"mrpc": place[2]["mrpc", "mean"], "cola": place[2]["cola.layers1-2.len12", "cls"]}
    done = predict(place, *(heads.get(argument, argument) for argument in arguments))
    assert (done.exit_code, done.stdout) == (status, "")
    assert words in done.stderr.splitlines()[-1]
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize("damage", ["config.json cut", "config.json gone", "head cut", "head gone", "other shape"])
def test_a_damaged_head(place, tmp_path, damage):
    name = place[2]["mrpc", "mean"]
    folder = Path(shutil.copytree(place[0] / "heads" / name, tmp_path / name))
    config, tensors = folder / "config.json", folder / "head.safetensors"
    if damage == "other shape":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"inputs": 23}))
    else:
        file = config if "config" in damage else tensors
        file.write_bytes(file.read_bytes()[:100]) if "cut" in damage else file.unlink()
    done = predict(place, str(folder), "a", "b")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert str(folder) in done.stderr
    assert "unexpected" not in done.stderr


def test_a_head_that_diverged_answers_nothing(place, tmp_path):
    root, folder, _ = place
    done = pipeline.fit(
        "mrpc.limit90", head="mlp", encoder=str(folder), cache=root / "cache", results=tmp_path / "r.sqlite", lr=1e30,
        **QUICK,
    )  # fmt: skip
    assert done.diverged_at is not None
    words = f"expected a trained head, found one that diverged at step {done.diverged_at}"
    with pytest.raises(ResultsError, match=words):
        pipeline.predict(done.id, ["a"], results=tmp_path / "r.sqlite", encoder=str(folder))
    with pytest.raises(ResultsError, match=words):
        pipeline.export(done.id, results=tmp_path / "r.sqlite")
    with pytest.raises(ResultsError, match=words):
        pipeline.submit([done.id], results=tmp_path / "r.sqlite")


def test_imported_vectors_have_no_texts(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "v.npz", x=rng.normal(size=(60, 4)).astype(np.float32), y=np.arange(60) % 2)
    from pipeline.encode.vectors import import_vectors

    import_vectors("mine", tmp_path / "v.npz", cache=tmp_path)
    done = pipeline.fit("mine", head="linear", cache=tmp_path, results=tmp_path / "r.sqlite", epochs=1, device="cpu")
    with pytest.raises(EncoderError, match=r"expected a head on texts, found one on imported vectors \(v\.npz\)"):
        pipeline.predict(done.id, ["a"], results=tmp_path / "r.sqlite")


def test_a_slow_writer_is_answered_at_once(place):
    """The second line is written only after the answer to the first has been read."""
    root, folder, heads = place
    predictor = Predictor(
        pipeline.load_head(heads["mrpc", "mean"], results=root / "r.sqlite"), Asked(str(folder)), "cpu"
    )
    answered = threading.Event()

    def slow():
        yield b'{"text": "a", "text_pair": "b"}\n'
        assert answered.wait(60)
        yield b'{"text": "c", "text_pair": "d"}\n'

    stream = answer_lines(predictor, line_rows(slow(), "pipe", predictor, Columns()), keep_going=False, live=True)
    assert next(stream)[0] == {"line": 1}
    answered.set()
    assert next(stream)[0] == {"line": 2}
    assert next(stream, None) is None


@pytest.mark.parametrize("live", [False, True])
def test_the_stream_is_read_only_as_far_as_it_is_needed(place, live):
    root, folder, heads = place
    predictor = Predictor(
        pipeline.load_head(heads["mrpc", "mean"], results=root / "r.sqlite"), Asked(str(folder)), "cpu"
    )
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield b'{"text": "a", "text_pair": "b"}\n'

    stream = answer_lines(predictor, line_rows(endless(), "x", predictor, Columns()), keep_going=False, live=live)
    next(stream)
    assert read <= 3 * BLOCK_ROWS


def test_the_real_command_in_a_pipe(place):
    root, folder, heads = place
    command = [
        sys.executable, str(ROOT / "fit_heads.py"), "predict", heads["cola.layers1-2.len12", "cls"], "--jsonl",
        "--results", str(root / "r.sqlite"), "--encoder", str(folder), "--device", "cpu",
    ]  # fmt: skip
    text = io.StringIO()
    for row in dev_rows("cola")[:3]:
        text.write(json.dumps({"sentence": row.text}) + "\n")
    done = subprocess.run(
        command,
        input=text.getvalue(),
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"TQDM_DISABLE": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [1, 2, 3]
