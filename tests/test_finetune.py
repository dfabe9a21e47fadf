"""`fit_heads.py finetune`: rows like those of cached heads, a model that the other commands use, errors of one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fit_heads
import pipeline
from pipeline.encode.encoders import resolve
from pipeline.finetune.run import finetune
from pipeline.models.saved import load_head
from pipeline.sources import open_source
from pipeline.store import open_cache
from pipeline.sweep.results import Results

ROOT = Path(__file__).parents[1]
ROWS = 40


def call(*arguments):
    return CliRunner().invoke(fit_heads.main, ["finetune", *map(str, arguments)])


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    """A folder with caches, and one head fine-tuned from them."""
    root, folder = (
        tmp_path_factory.mktemp("finetune"),
        str(tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)),
    )
    pipeline.embed("mrpc", encoder=folder, data="sample", cache=root / "cache", limit=ROWS)
    done = finetune(
        "mrpc.limit40", head="trans_effi_kan", encoder=folder, features="pooled", cache=root / "cache",
        results=root / "r.sqlite", device="cpu", epochs=2, hidden=4, training={"lr": 1e-3},
    )  # fmt: skip
    return root, folder, done


def test_document_counts_encoder_and_head_and_a_second_call_trains_nothing(place):
    root, folder, done = place
    assert done.trained
    assert set(done.metrics) >= {"validation"}
    assert done.config["encoder_training"]["lr"] == 1e-3
    encoder = resolve(done.folder)
    assert done.parameters > 4 * encoder.width * 24  # more than the head's
    result = call(
        "mrpc.limit40", "--head", "effi_kan", "--encoder", folder, "--features", "pooled", "--cache", root / "cache",
        "--results", root / "r.sqlite", "--epochs", 2, "--hidden", 4, "--encoder-lr", 1e-3, "--device", "cpu", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (document,) = json.loads(result.stdout)
    assert document["id"] == done.id
    assert "stored already" in result.stderr


def test_rows_of_the_database_say_that_the_encoder_was_trained_too(place):
    root, folder, done = place
    frozen = pipeline.fit(
        "mrpc.limit40", head="effi_kan", encoder=folder, features="pooled", cache=root / "cache",
        results=root / "r.sqlite", device="cpu", epochs=2, hidden=4,
    )  # fmt: skip
    with Results(root / "r.sqlite") as store:
        rows = {row["id"]: row for row in store.heads()}
        assert store.outputs(done.id, "validation").shape == store.outputs(frozen.id, "validation").shape
    assert rows[done.id]["trained"] == "encoder+head"
    assert rows[frozen.id]["trained"] == "head"
    assert rows[done.id]["fingerprint"] == rows[frozen.id]["fingerprint"]  # the same rows: differences are paired


def test_predict_answers_with_the_trained_encoder_as_its_evaluation_recorded(place):
    root, _, done = place
    rows = list(open_source("mrpc", "sample").rows("validation"))[:ROWS]
    answers = list(
        pipeline.predict(done.id, [(row.text, row.text_pair) for row in rows], results=root / "r.sqlite", device="cpu")
    )
    with Results(root / "r.sqlite") as store:
        logits = store.outputs(done.id, "validation").astype(np.float64)
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    found = np.array([list(answer.probabilities.values()) for answer in answers])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_trained_encoder_is_an_encoder_whose_cache_gives_the_same_logits(place):
    root, _, done = place
    pipeline.embed("mrpc", encoder=done.folder, data="sample", cache=root / "cache", limit=ROWS, device="cpu")
    encoder, head = resolve(done.folder), load_head(done.id, results=root / "r.sqlite")
    with open_cache(root / "cache" / encoder.name / "mrpc.limit40.h5") as cache:
        assert cache.attributes["fingerprint"] == head.provenance["fingerprint"]
        logits = head.predict(cache["validation"]["pooled"])
    with Results(root / "r.sqlite") as store:
        np.testing.assert_allclose(logits, store.outputs(done.id, "validation"), atol=1e-5)
    assert pipeline.fit(
        "mrpc.limit40", head="linear", encoder=done.folder, features="pooled", cache=root / "cache",
        results=root / "r.sqlite", device="cpu", epochs=1,
    ).trained  # fmt: skip


def test_an_export_carries_the_trained_encoder(place, tmp_path):
    root, _, done = place
    exported = pipeline.export(done.id, results=root / "r.sqlite", out=tmp_path / "out")
    assert "encoder/" in exported.files
    assert resolve(str(tmp_path / "out" / "encoder")).weights_sha256 == resolve(done.folder).weights_sha256


def test_bad_input_is_one_line(place, tmp_path):
    root, folder, _ = place
    common = ("--encoder", folder, "--cache", root / "cache", "--results", tmp_path / "r.sqlite", "--device", "cpu")
    pipeline.embed("mrpc", encoder=folder, data="sample", cache=root / "cache", limit=9, text=False)
    pipeline.embed("mrpc", encoder=folder, data="sample", cache=root / "cache", limit=9, pairs="siamese")
    for arguments, expected in (
        (("mrpc.limit9", "--head", "mlp"), "expected texts to fine-tune on, found none"),
        (("mrpc.siamese.limit9", "--head", "mlp"), "expected joint for fine-tuning"),
        (("mrpc.limit40", "--head", "transformer"), "expected one of linear, mlp"),
        (("mrpc.limit40", "--head", "kan"), "expected one of linear, mlp"),
        (("mrpc.limit40", "--head", "mlp", "--accumulation", 5), "expected a multiple of accumulation"),
        (("mrpc.limit40", "--head", "mlp", "--lora", -1), "expected a rank of at least 0"),
        (("mrpc.limit40", "--head", "mlp", "--features", "reduced"), "'reduced'"),
    ):
        result = call(*arguments, *common)
        assert result.exit_code == 1, (arguments, result.output)
        assert expected in result.stderr, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_two_processes_take_the_steps_of_one(place, tmp_path):
    root, folder, _ = place
    common = [
        "fit_heads.py", "finetune", "mrpc.limit40", "--head", "mlp", "--hidden", "4", "--encoder", folder, "--features",
        "mean", "--cache", str(root / "cache"), "--device", "cpu", "--epochs", "1", "--batch-size", "18",
        "--encoder-dropout", "0", "--encoder-lr", "1e-3",
    ]  # fmt: skip
    logits = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        results = tmp_path / f"{len(launcher)}.sqlite"
        command = [sys.executable, *launcher, *common, "--results", str(results), "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with Results(results) as store:
            (row,) = store.heads()
            logits.append(store.outputs(row["id"], "validation"))
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)
