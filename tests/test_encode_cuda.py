"""On a GPU: variable-length attention in half precision, and float32, against float32 on the CPU."""

import numpy as np
import pytest
import torch

from pipeline.encode.blocks import encode_block
from pipeline.encode.encoders import resolve
from pipeline.encode.load import load
from pipeline.encode.run import embed
from pipeline.sources import Row
from tests.helpers import encoders

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ROWS = [Row(text, None, 0) for text in encoders.TEXTS] * 20
FEATURES = ("pooled", "cls", "mean", "weight", "reduced", "last_hidden")


def encode(folder, device, precision, *, padded=False):
    loaded = load(resolve(str(folder)), 64, torch.device(device), precision, None, padded=padded)
    return encode_block(
        loaded, loaded.tokeniser(ROWS), FEATURES, default_feature="mean", reduce_size=8, batch_tokens=1000
    )


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-4), ("float16", 0.05), ("bfloat16", 0.4)])
def test_same_as_on_the_cpu(tiny, padded, precision, most):
    # Heads of 8 numbers: variable-length attention wants a multiple of 8.
    folder = tiny("bert", hidden_size=32)
    expected, found = encode(folder, "cpu", "float32"), encode(folder, "cuda", precision, padded=padded)
    for name in ("pooled", "cls", "mean"):
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - expected[name]).max() <= most
        norms = np.linalg.norm(found[name], axis=1) * np.linalg.norm(expected[name], axis=1)
        cosine = (found[name] * expected[name]).sum(1) / norms
        assert cosine.min() >= (0.9999 if precision != "bfloat16" else 0.995)


def test_heads_of_a_width_that_no_kernel_takes(tiny):
    expected, found = encode(tiny("bert"), "cpu", "float32"), encode(tiny("bert"), "cuda", "float16")
    assert np.abs(found["mean"] - expected["mean"]).max() <= 0.05


def test_a_run_reports_its_deviation(tiny, tmp_path):
    folder = tiny("bert", hidden_size=32)
    result = embed("mrpc", encoder=str(folder), data="sample", cache=tmp_path, limit=100, device="cuda")
    [detail] = result.details
    assert (detail.precision, detail.path) == ("float16", "packed")
    assert detail.deviation["mean"][1] >= 0.9999
