"""The comparison runs and its document is whole; the figures themselves belong to quiet machines."""

import json

import pytest
from click.testing import CliRunner

import embed
from benchmarks.bench import encoding as bench
from pipeline.encode.encoders import resolve

KEYS = {
    "speedup_vs_padded", "speedup_vs_published", "speedup_vs_sentence_transformers", "tokens_per_second",
    "share_of_matmul_peak",
}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(bench.SIZES, ("cpu", True), bench.Size(8, 4, 64, 1, 60.0))


@pytest.mark.usefixtures("small")
def test_bench_writes_its_document(tiny):
    arguments = ["bench", "--quick", "--device", "cpu", "--encoder", str(tiny("bert"))]
    result = CliRunner().invoke(embed.main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert set(document) >= KEYS
    # A folder without modules.json is not one that sentence-transformers made.
    assert document["speedup_vs_sentence_transformers"] is None
    assert all(document[key] > 0 for key in KEYS - {"speedup_vs_sentence_transformers"})
    assert "share_of_matmul_peak" in CliRunner().invoke(embed.main, arguments).stdout


def test_operations_count_real_tokens_alone():
    import numpy as np

    layers, width, inner = 6, 384, 1536
    one = bench._operations(resolve("minilm"), np.array([10]))
    products = 4 * width * width + 2 * width * inner
    assert one == layers * (2 * 10 * products + 4 * 100 * width)
    assert bench._operations(resolve("minilm"), np.array([10, 10])) == 2 * one
