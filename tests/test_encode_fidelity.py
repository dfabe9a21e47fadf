"""The numbers are those of plain transformers, one row at a time in float32, on both paths."""

import gc
import os
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.encode.blocks import encode_block
from pipeline.encode.cores import side_by_side
from pipeline.encode.encoders import resolve
from pipeline.encode.load import load
from pipeline.encode.packed import PackedEncoder
from pipeline.sources import Row
from tests.helpers import encoders

SINGLES = [Row(text, None, 0) for text in encoders.TEXTS]
PAIRS = [Row(*pair, 0) for pair in encoders.PAIRS]
DATASETS = ("cls", "mean", "reduced", "last_hidden")


def encode(folder, rows, *, padded=False, max_length=64, batch_tokens=150, layers=None, reduce_size=5):
    encoder = resolve(str(folder))
    loaded = load(encoder, max_length, torch.device("cpu"), "float32", layers, padded=padded)
    tokens = loaded.tokeniser(rows)
    given = [name for name in encoder.features if name != "pooled" or layers is None]
    arrays = encode_block(
        loaded, tokens, {*given, *DATASETS}, default_feature="mean", reduce_size=reduce_size, batch_tokens=batch_tokens
    )
    return arrays, tokens, loaded


def replaced(rows):
    """Rows as the tokenizer sees them: a lone surrogate has no UTF-8."""
    return [(row.text.replace("\ud83d", "\ufffd"), row.text_pair) for row in rows]


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_heads_of_any_width(tiny, heads, activation):
    width = {1: 40, 2: 32, 4: 128, 8: 24}[heads]
    # As much a unit as in the other tests: what is random and steep magnifies every rounding.
    options = {"hidden_size": width, "intermediate_size": 50, "initializer_range": 0.4 * (24 / width) ** 0.5}
    folder = tiny("bert", num_attention_heads=heads, hidden_act=activation, **options)
    arrays, _, loaded = encode(folder, SINGLES)
    assert type(loaded.forward) is PackedEncoder
    expected = encoders.plain(folder, replaced(SINGLES), 64)
    for name in ("pooled", "cls", "mean"):
        np.testing.assert_allclose(arrays[name], expected[name], rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_side_by_side_are_those_one_after_another(tiny, threads):
    rows, before = SINGLES * 4, torch.get_num_threads()
    expected, _, _ = encode(tiny("bert"), rows, batch_tokens=100)
    torch.set_num_threads(threads)
    try:
        found, _, _ = encode(tiny("bert"), rows, batch_tokens=100)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6)


def test_a_batch_that_fails_ends_the_others_and_gives_the_threads_back():
    before, done = torch.get_num_threads(), []

    def work(number):
        if number == 2:
            raise ValueError("batch 2")
        done.append(number)
        return number

    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="batch 2"):
            list(side_by_side(work, range(1000)))
        assert torch.get_num_threads() == 2
        assert len(done) < 1000
        assert list(side_by_side(str, range(5))) == list("01234")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [SINGLES, PAIRS], ids=["singles", "pairs"])
@pytest.mark.parametrize("padded", [False, True], ids=["first choice", "padded"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "mpnet", "electra", "albert"])
def test_same_as_plain_transformers(tiny, kind, padded, rows):
    folder = tiny(kind)
    arrays, tokens, loaded = encode(folder, rows, padded=padded)
    shaped = kind in ("bert", "roberta", "distilbert")
    assert loaded.forward.path == ("packed" if shaped and not padded else "padded")
    expected = encoders.plain(folder, replaced(rows), 64)
    assert ("pooled" in arrays) == ("pooled" in expected)
    for name in sorted(set(arrays) - {"reduced", "last_hidden"}):
        assert arrays[name].dtype == np.float32
        np.testing.assert_allclose(arrays[name], expected[name], rtol=0, atol=2e-5, err_msg=name)
    assert tokens.lengths.tolist() == [len(states) for states in expected["last_hidden"]]
    states = torch.cat(expected["last_hidden"]).numpy()
    np.testing.assert_allclose(arrays["last_hidden"], states, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
def test_a_batch_is_let_go_of_at_once(tiny, padded):
    # A cycle would keep every batch's states until the collector comes by: memory would grow with the split.
    loaded = load(resolve(str(tiny("bert"))), 64, torch.device("cpu"), "float32", None, padded=padded)
    tokens = loaded.tokeniser(SINGLES)
    gc.disable()
    try:
        with torch.inference_mode():
            ids, types = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.types)
            hidden = loaded.forward(ids, types, tokens.lengths.tolist())
            hidden.pooler()
            states = weakref.ref(hidden.last)
            del hidden
        assert states() is None
    finally:
        gc.enable()


def test_roberta_counts_positions_past_a_literal_padding_token(tiny):
    rows = [Row("a <pad> b <pad>", None, 0), Row("<pad>", None, 0), Row("plain", None, 0)]
    arrays, _, _ = encode(tiny("roberta"), rows)
    expected = encoders.plain(tiny("roberta"), [row[:2] for row in rows], 64)
    np.testing.assert_allclose(arrays["mean"], expected["mean"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("layers", [(1,), (1, 3), (2, 3)])
def test_layers_are_the_mean_of_hidden_states(tiny, layers, padded):
    arrays, _, _ = encode(tiny("bert"), PAIRS, layers=layers, padded=padded)
    expected = encoders.plain(tiny("bert"), PAIRS_TEXT, 64, layers)
    assert "pooled" not in arrays
    for name in ("cls", "mean"):
        np.testing.assert_allclose(arrays[name], expected[name], rtol=0, atol=2e-5)


PAIRS_TEXT = [row[:2] for row in PAIRS]


@pytest.mark.parametrize("padded", [False, True])
def test_batch_mates_do_not_change_a_row(tiny, padded):
    rows = SINGLES * 3
    whole, _, _ = encode(tiny("bert"), rows, padded=padded, batch_tokens=100_000)
    for budget in (1, 70, 300):
        part, _, _ = encode(tiny("bert"), rows, padded=padded, batch_tokens=budget)
        again, _, _ = encode(tiny("bert"), rows, padded=padded, batch_tokens=budget)
        for name in whole:
            np.testing.assert_allclose(whole[name], part[name], rtol=2e-3, atol=2e-5)
            np.testing.assert_array_equal(part[name], again[name])


def test_truncation_is_longest_first_and_counted(tiny):
    arrays, tokens, _ = encode(tiny("bert"), PAIRS, max_length=16)
    expected = encoders.plain(tiny("bert"), PAIRS_TEXT, 16)
    np.testing.assert_allclose(arrays["mean"], expected["mean"], rtol=0, atol=2e-5)
    full = encode(tiny("bert"), PAIRS, max_length=64)[1]
    assert tokens.lengths.max() == 16
    assert tokens.truncated == sum(length > 16 for length in full.lengths.tolist()) == 2
    assert encode(tiny("bert"), [Row("ab cd", None, 0)], max_length=6)[1].truncated == 0


def test_weight_is_the_sum_of_word_embeddings_special_tokens_included(tiny):
    arrays, tokens, _ = encode(tiny("bert"), [Row("the word", None, 0)])
    table = load_file(tiny("bert") / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert len(tokens.ids) == 4
    np.testing.assert_allclose(arrays["weight"][0], sum(table[i].numpy() for i in tokens.ids), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 5, 8, 24, 30])
def test_reduced_folds_the_default_feature(tiny, size):
    arrays, _, _ = encode(tiny("bert"), SINGLES[:1], reduce_size=size)
    x = arrays["mean"][0]
    expected = [sum(x[k] for k in range(j, encoders.HIDDEN, size)) for j in range(size)]
    assert arrays["reduced"].shape == (1, size)
    np.testing.assert_allclose(arrays["reduced"][0], expected, rtol=1e-5, atol=1e-6)


def minilm_rows():
    """Sentence pairs of all sizes; real MRPC rows, the longest among them, where `GLUE_DIR` names them."""
    folder = os.environ.get("GLUE_DIR")
    if not folder:
        text = "some companies said on tuesday that shares of the largest maker fell by 3.4 percent ."
        words = text.split()
        return [Row(" ".join(words[: 2 + n % 15]), " ".join(words[n % 7 :]), 0) for n in range(60)]
    from pipeline.sources import open_source

    rows = list(open_source("mrpc", folder).rows("train"))
    rows.sort(key=lambda row: len(row.text) + len(row.text_pair))
    return rows[::50] + rows[-10:]


@pytest.fixture(scope="module")
def minilm_expected():
    rows = minilm_rows()
    return rows, encoders.plain(resolve("minilm").folder, [row[:2] for row in rows], 512)


@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
def test_minilm_same_as_plain_transformers(minilm_expected, padded):
    rows, expected = minilm_expected
    encoder = resolve("minilm")
    loaded = load(encoder, 512, torch.device("cpu"), "float32", None, padded=padded)
    arrays = encode_block(
        loaded,
        loaded.tokeniser(rows),
        ("pooled", "cls", "mean"),
        default_feature="mean",
        reduce_size=8,
        batch_tokens=4096,
    )
    for name in ("pooled", "cls", "mean"):
        assert np.abs(arrays[name] - expected[name]).max() <= 1e-4


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_close(tiny, precision):
    rows = PAIRS + SINGLES
    exact, _, _ = encode(tiny("bert"), rows)
    loaded = load(resolve(str(tiny("bert"))), 64, torch.device("cpu"), precision, None)
    arrays = encode_block(
        loaded,
        loaded.tokeniser(rows),
        ("pooled", "cls", "mean"),
        default_feature="mean",
        reduce_size=8,
        batch_tokens=99,
    )
    for name in ("pooled", "cls", "mean"):
        assert arrays[name].dtype == np.float32
        cosine = (
            (arrays[name] * exact[name]).sum(1)
            / np.linalg.norm(arrays[name], axis=1)
            / np.linalg.norm(exact[name], axis=1)
        )
        assert cosine.min() > (0.998 if precision == "bfloat16" else 0.9999)
