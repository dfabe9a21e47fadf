"""Checkpoints and tokenizers without transformers where it is not needed: the same weights and tokens either way."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, DistilBertTokenizer, RobertaTokenizer

from pipeline import publish
from pipeline.encode import tokens
from pipeline.encode.blocks import encode_block
from pipeline.encode.checkpoint import read_weights
from pipeline.encode.encoders import resolve
from pipeline.encode.files import tokenizer_sha256
from pipeline.encode.load import load, load_model
from pipeline.encode.models import Models
from pipeline.encode.packed import PackedEncoder
from pipeline.encode.tokens import Tokeniser, load_tokeniser
from pipeline.errors import EncoderError
from pipeline.sources import Row
from tests.helpers import encoders

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TEXTS = [*encoders.TEXTS, "Mixed CASE Ünïcödé 中文 [MASK] <mask> [SEP]", "first <extra> [extra] second", " lead"]
ROWS = [Row(text, None, 0) for text in TEXTS] + [Row(*pair, 0) for pair in encoders.PAIRS]


def edit(path, **changes):
    value = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({key: part for key, part in (value | changes).items() if part is not ...}))


def as_transformers(folder, max_length):
    made = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    types = "token_type_ids" in made.model_input_names
    return Tokeniser(made.backend_tokenizer, max_length, types=types, side=made.truncation_side)


def assert_same_tokens(folder):
    """`load_tokeniser` gives what transformers gives, whatever it is made from."""
    for max_length in (24, 9):
        ours, theirs = load_tokeniser(folder, "it", max_length), as_transformers(folder, max_length)
        assert (ours.types, ours.vocabulary) == (theirs.types, theirs.vocabulary)
        found, expected = ours(ROWS), theirs(ROWS)
        for name in ("ids", "types", "offsets"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert found.truncated == expected.truncated > 0


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghilmnoprstuwyzUM", "##e", "##n", "the", "é", "中"]


def bert(folder, kind=BertTokenizer, **options):
    """A folder of BERT's or DistilBERT's class, as transformers saves it."""
    kind(vocab={word: i for i, word in enumerate(WORDS)}, **options).save_pretrained(folder)
    edit(folder / "config.json", model_type="distilbert" if kind is DistilBertTokenizer else "bert")
    return folder


def roberta(folder, **options):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.train_from_iterator(TEXTS[:3] * 9, trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    ))  # fmt: skip
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    RobertaTokenizer(vocab=model["vocab"], merges=merges, **options).save_pretrained(folder)
    edit(folder / "config.json", model_type="roberta")
    return folder


def old_style(folder):
    """What the first fast tokenizers had beside them."""
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    return folder


FOLDERS = {
    "BERT": bert,
    "BERT, cased": lambda folder: bert(folder, do_lower_case=False, strip_accents=False),
    "BERT, more tokens": lambda folder: bert(folder, extra_special_tokens=["[extra]", "<extra>"]),
    "BERT, old": lambda folder: old_style(bert(folder)),
    "DistilBERT": lambda folder: bert(folder, DistilBertTokenizer),
    "RoBERTa": roberta,
    "RoBERTa, old": lambda folder: old_style(roberta(folder)),
}


@pytest.fixture(autouse=True)
def no_kept_tokenizers(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("kept")))


@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS)
def test_a_tokenizer_that_was_kept_is_what_transformers_makes(tmp_path, monkeypatch, make):
    folder = make(tmp_path)
    assert_same_tokens(folder)
    monkeypatch.setattr(tokens, "_make", lambda *_: pytest.fail("made again"))
    assert_same_tokens(folder)


@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS)
def test_a_long_text_is_cut_where_it_leaves_no_trace(tmp_path, monkeypatch, make):
    folder = make(tmp_path)
    whole = [Row("the end of me " * n, None, 0) for n in (1, 9, 40)]
    whole += [Row("z" * 99 + " a\t\n" * 30 + "é [MASK]  \ud83d", pair, 0) for pair in (None, "the other", "")]
    whole += [Row("the few", "a lot of this, and more. " * 20, 0), Row("x" * 900 + " the", "y " * 90, 0)]
    marks = "a,bee;the-men." * 60
    whole += [Row(text, None, 0) for text in (marks, "the\u00a0men\u2003" * 60, "中é" * 300, "!?" * 400, "the" * 300)]
    tokeniser, theirs = load_tokeniser(folder, "it", 24), as_transformers(folder, 24)
    expected = theirs(whole)
    for size in (8, 40, 200):
        monkeypatch.setattr(tokens, "LONG_TEXT", size)
        found = tokeniser(whole)
        for name in ("ids", "types", "offsets"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert found.truncated == expected.truncated
    monkeypatch.setattr(tokens, "LONG_TEXT", 40)
    for text in (whole[2].text, marks):
        assert len(tokens._shortened(tokeniser._backend, text)) < len(text) / 2


def options(**changes):
    return lambda folder: edit(folder / "tokenizer_config.json", **changes)


def template(folder):
    state = json.loads((folder / "tokenizer.json").read_text())
    state["post_processor"]["pair"][3]["Sequence"]["type_id"] = 0
    (folder / "tokenizer.json").write_text(json.dumps(state))


CHANGES = {
    "case": options(do_lower_case=False),
    "accents": options(strip_accents=False),
    "characters": options(tokenize_chinese_chars=False),
    "template": template,
    "another mask": options(mask_token="<extra>"),
    "another unknown": options(unk_token="the"),
    "one more token": options(extra_special_tokens=["[extra]"]),
    "declared tokens": options(added_tokens_decoder={"2": {"content": "[CLS]", "special": True}}),
    "added tokens": lambda folder: (
        options(added_tokens_decoder=...)(folder), edit(folder / "added_tokens.json", **{"[extra]": len(WORDS)})
    ),
    "truncated at the left": options(truncation_side="left"),
    "a class of its own": options(tokenizer_class="MPNetTokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_folder_that_changed_has_another_tokenizer(tmp_path, change):
    folder = bert(tmp_path)
    assert_same_tokens(folder)
    change(folder)
    assert_same_tokens(folder)


def test_a_kept_tokenizer_that_is_damaged_is_made_again(tmp_path):
    folder = bert(tmp_path)
    load_tokeniser(folder, "it", 24)
    (kept,) = (publish.cache_folder() / "tokenizers").iterdir()
    kept.write_text(kept.read_text()[:-9])
    assert_same_tokens(folder)


def test_truncation_at_the_left_keeps_the_end(tmp_path):
    folder = bert(tmp_path)
    right = tokenizer_sha256(folder, "it")
    options(truncation_side="left")(folder)
    found = load_tokeniser(folder, "it", 6)([Row("the " * 9 + "men", None, 0)])
    assert [WORDS[number] for number in found.ids[-3:]] == ["##e", "##n", "[SEP]"]
    assert tokenizer_sha256(folder, "it") != right


def test_a_row_without_a_token_is_named(tmp_path):
    folder = roberta(tmp_path)
    edit(folder / "tokenizer.json", post_processor=None)
    tokeniser = Tokeniser(Tokenizer.from_file(str(folder / "tokenizer.json")), 24, types=False)
    with pytest.raises(EncoderError, match=r"expected a token of every row at least, found none of '': .*leave empty"):
        tokeniser([Row("the", None, 0), Row("", None, 0)])


def test_what_is_no_tokenizer_is_an_error_of_one_line(tmp_path):
    folder = bert(tmp_path)
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(EncoderError, match=r"encoder 'it': expected a tokenizer \(") as caught:
        load_tokeniser(folder, "it", 64)
    assert "\n" not in str(caught.value)


@pytest.fixture
def copy(tiny, tmp_path):
    return lambda kind: shutil.copytree(tiny(kind), tmp_path / "copy")


def change_weights(folder, change):
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_head(kind):
    return lambda tensors: {f"{kind}.{name}": value for name, value in tensors.items()} | {
        "cls.predictions.bias": torch.zeros(3), "classifier.weight": torch.zeros(2, 3)
    }  # fmt: skip


def old_names(tensors):
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in names.items():
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    return tensors | {"embeddings.position_ids": torch.arange(64)[None]}


def arrays(folder, **how):
    encoder = resolve(str(folder))
    loaded = load(encoder, 64, CPU, "float32", None, **how)
    names = tuple(encoder.features)
    return encode_block(
        loaded, loaded.tokeniser(ROWS), names, default_feature="mean", reduce_size=8, batch_tokens=150
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("bert", with_head("bert")),
        ("roberta", with_head("roberta")),
        ("distilbert", with_head("distilbert")),
        ("bert", old_names),
        ("bert", lambda tensors: {name: value.half() for name, value in tensors.items()}),
    ],
    ids=["BERT with heads", "RoBERTa with heads", "DistilBERT with heads", "names of old", "half precision"],
)
def test_checkpoints_need_no_transformers(copy, kind, change):
    folder = copy(kind)
    change_weights(folder, change)
    edit(folder / "config.json", dtype=...)
    weights = read_weights(resolve(str(folder)), CPU)
    assert weights is not None
    table = load_model(resolve(str(folder))).get_input_embeddings().weight
    assert torch.equal(weights.words, table)
    found, expected = arrays(folder), arrays(folder, padded=True)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "silu"}, {"is_decoder": True}, {"dtype": "bfloat16"}, {"vocab_size": 90},
        {"layer_norm_eps": ...}, {"num_hidden_layers": 4}, {"pruned_heads": {"0": [1]}},
    ],
)  # fmt: skip
def test_what_is_not_known_completely_is_left_to_transformers(copy, changes):
    folder = copy("bert")
    edit(folder / "config.json", **changes)
    assert read_weights(resolve(str(folder)), CPU) is None


def test_a_pooler_in_part_is_refused(copy):
    folder = copy("bert")
    change_weights(folder, lambda tensors: {k: v for k, v in tensors.items() if k != "pooler.dense.bias"})
    with pytest.raises(EncoderError, match=r"1 missing or of another shape \(pooler.dense.bias\)"):
        load(resolve(str(folder)), 64, CPU, "float32", None)


def test_deviations_are_from_what_pytorch_s_operators_compute(tiny):
    models = Models(resolve(str(tiny("bert"))), 64, None, "cpu", "bfloat16")
    assert type(models.exact.forward) is PackedEncoder
    assert models.exact.forward._weights.words is models._weights.words


def test_a_run_imports_no_transformers(tiny, tmp_path):
    probe = (
        "import sys, embed\n"
        "embed.main(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'transformers', 'sklearn', 'pandas', 'scipy', 'datasets'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    arguments = ["run", "mrpc", "--encoder", tiny("bert"), "--data", "sample", "--limit", 9, "--cache", tmp_path]
    load_tokeniser(tiny("bert"), "it", 24)
    script = subprocess.run(
        [sys.executable, "-c", probe, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert script.returncode == 0, script.stderr[-2000:]
    assert list(tmp_path.glob("**/mrpc*.h5"))
