"""Encoders by name, and what a folder has to hold."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

from pipeline.device import resolve_device
from pipeline.encode import encoders as registry
from pipeline.encode.blocks import encode_block
from pipeline.encode.encoders import ENCODERS, resolve
from pipeline.encode.load import load, load_model
from pipeline.encode.request import Options
from pipeline.errors import ConfigError, DeviceError, EncoderError
from pipeline.hashing import hash_file
from pipeline.sources import Row
from tests.helpers import encoders

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny, tmp_path):
    """`copy("bert")` is a copy of a tiny encoder's folder, to be damaged."""
    return lambda kind, **changes: shutil.copytree(tiny(kind, **changes), tmp_path / "copy")


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_minilm_is_the_package_with_its_declared_pooling():
    encoder = resolve("minilm")
    assert (encoder.name, encoder.default_feature, encoder.max_length) == ("minilm", "sentence", 256)
    assert (encoder.layers, encoder.width) == (6, 384)
    assert encoder.features == ("pooled", "cls", "mean", "weight", "sentence", "max", "last")
    assert encoder.weights_sha256 == ENCODERS["minilm"].weights_sha256


def test_minilm_with_another_byte_is_refused(tmp_path, monkeypatch):
    folder = shutil.copytree(resolve("minilm").folder, tmp_path / "model")
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    monkeypatch.setitem(ENCODERS, "minilm", replace(ENCODERS["minilm"], find=lambda: folder))
    with pytest.raises(EncoderError, match=r"'minilm': expected weights with sha256 53aa5117.*found "):
        resolve("minilm")


def test_a_folder_is_named_by_its_weights(tiny):
    folder = tiny("bert")
    encoder = resolve(str(folder))
    assert encoder.name == f"bert-{hash_file(folder / 'model.safetensors')[:8]}"
    assert encoder.default_feature == "mean"
    assert encoder.max_length == 64


def test_alias_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("minilm").name == "minilm"


def test_hub_id_names_the_cache_with_dashes(tiny, monkeypatch):
    monkeypatch.setattr(registry, "_from_hub", lambda _: lambda: tiny("bert"))
    assert resolve("someone/model").name == "someone--model"


def test_bert_base_cased_takes_the_pooler(tiny, monkeypatch):
    monkeypatch.setitem(ENCODERS, "bert-base-cased", replace(ENCODERS["bert-base-cased"], find=lambda: tiny("bert")))
    assert resolve("bert-base-cased").default_feature == "pooled"
    without = tiny("bert", pooler=False)
    monkeypatch.setitem(ENCODERS, "bert-base-cased", replace(ENCODERS["bert-base-cased"], find=lambda: without))
    with pytest.raises(EncoderError, match="expected weights of a pooler"):
        resolve("bert-base-cased")


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, None),
        ({"pooling_mode_weightedmean_tokens": True}, None),
        ({}, None),
    ],
)
def test_default_feature_is_what_the_folder_declares(copy, declared, expected):
    folder = copy("bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(declared))
    if expected is None:
        with pytest.raises(EncoderError, match="expected one pooling of cls, mean, max, last in 1_Pooling"):
            resolve(str(folder))
    else:
        assert resolve(str(folder)).default_feature == expected


def sentence_folder(base, folder, *modules):
    """A folder that sentence-transformers saves: the transformer of `base`, 20 tokens long, and further modules."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(base), max_seq_length=20)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling, *modules], device="cpu").save(str(folder))
    return folder


@pytest.mark.parametrize("tail", ["normalize", "dense", "dense and normalize"])
def test_a_sentence_transformers_folder_gives_its_own_embedding(tiny, tmp_path, tail):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    dense = [Dense(24, 10), Dense(10, 12, bias=False, activation_function=torch.nn.Identity())]
    modules = [*(dense if "dense" in tail else []), *([Normalize()] if "normalize" in tail else [])]
    folder = sentence_folder(tiny("bert"), tmp_path / "it", *modules)
    encoder = resolve(str(folder))
    assert (encoder.default_feature, encoder.max_length) == ("sentence", 20)
    assert encoder.sentence_width == (12 if "dense" in tail else 24)
    texts = ["a plain sentence.", "one", "many words, " * 30]
    loaded = load(encoder, encoder.max_length, CPU, "float32", None)
    arrays = encode_block(
        loaded, loaded.tokeniser([Row(text, None, 0) for text in texts]), ("sentence",),
        default_feature="sentence", reduce_size=4, batch_tokens=50,
    )  # fmt: skip
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(arrays["sentence"], expected, rtol=0, atol=2e-5)


def test_a_dense_layer_is_part_of_what_the_encoder_is(tiny, tmp_path):
    from sentence_transformers.sentence_transformer.modules import Dense

    torch.manual_seed(0)
    hashes = {resolve(str(sentence_folder(tiny("bert"), tmp_path / n, Dense(24, 9)))).config_sha256 for n in "ab"}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("modules.json", lambda v: v.append({"type": "x.models.LayerNorm", "path": "3"}), "found LayerNorm; remove"),
        ("modules.json", lambda v: v.pop(0), "expected a Transformer as first module of modules.json, found Pooling"),
        ("config_sentence_transformers.json", lambda v: v.update(default_prompt_name="query"), "no default prompt"),
        ("sentence_bert_config.json", lambda v: v.update(do_lower_case=True), "expected do_lower_case false"),
        ("2_Dense/config.json", lambda v: v.update(activation_function="x.Other"), "in 2_Dense, found Other"),
        ("2_Dense/config.json", lambda v: v.update(out_features=4), r"expected a dense layer \[4, 24\]"),
    ],
)  # fmt: skip
def test_what_a_sentence_transformers_folder_asks_for_is_refused_rather_than_left_out(
    tiny, tmp_path, file, change, message
):
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = sentence_folder(tiny("bert"), tmp_path / "it", Dense(24, 9))
    edit(folder / file, change)
    with pytest.raises(EncoderError, match=message):
        load(resolve(str(folder)), 20, CPU, "float32", None)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_untrained_pooler_gives_no_pooled(tiny, kind):
    encoder = resolve(str(tiny(kind, pooler=False)))
    assert "pooled" not in encoder.features
    assert any("no trained pooler" in note for note in encoder.notes)
    load(encoder, 64, CPU, "float32", None)


def test_narrow_word_embeddings_give_no_weight(tiny):
    encoder = resolve(str(tiny("albert")))
    assert "weight" not in encoder.features
    assert any("`weight` is left out" in note for note in encoder.notes)


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet"])
def test_own_max_length_considers_where_positions_start(copy, kind):
    folder = copy(kind)
    edit(folder / "tokenizer_config.json", lambda value: value.update(model_max_length=10**30))
    assert resolve(str(folder)).max_length == 64
    edit(folder / "tokenizer_config.json", lambda value: value.update(model_max_length=48))
    assert resolve(str(folder)).max_length == 48


def test_hashes_ignore_what_does_not_matter(copy, tiny):
    folder = copy("bert")
    edit(folder / "config.json", lambda value: value.update(transformers_version="9", _name_or_path="elsewhere"))
    edit(folder / "tokenizer.json", lambda value: value.update(truncation={
        "direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0,
    }))  # fmt: skip
    ours, theirs = resolve(str(folder)), resolve(str(tiny("bert")))
    assert (ours.config_sha256, ours.tokenizer_sha256) == (theirs.config_sha256, theirs.tokenizer_sha256)
    edit(folder / "config.json", lambda value: value.update(layer_norm_eps=0.1))
    edit(folder / "tokenizer_config.json", lambda value: value.update(do_lower_case=False))
    changed = resolve(str(folder))
    assert changed.config_sha256 != theirs.config_sha256
    assert changed.tokenizer_sha256 != theirs.tokenizer_sha256


def test_shards_are_one_encoder(copy):
    folder = copy("bert")
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    encoder = resolve(str(folder))
    assert "pooled" in encoder.features
    load(encoder, 64, CPU, "float32", None)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(EncoderError, match="missing model-00002-of-00002"):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", r"expected one of bert-base-cased, minilm, mpnet, a folder or a hub id, found no such folder"),
        ("bert-base-cased", r"the hub cannot be reached and no copy of an earlier run is there; use --encoder minilm"),
        ("no-such-model", r"'no-such-model': expected an alias, a folder or a model on the hub"),
        ("a/b/c", r"found no such folder"),
    ],
)
def test_names_that_mean_nothing(name, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match=message):
        resolve(name)


def remove(name):
    return lambda folder: (folder / name).unlink()


def pickle_instead(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder):
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)


def cut_at_the_end(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-400])


def no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def no_lengths(folder):
    edit(folder / "config.json", lambda value: value.pop("max_position_embeddings"))
    edit(folder / "tokenizer_config.json", lambda value: value.pop("model_max_length"))


def text_for_a_number(folder):
    edit(folder / "config.json", lambda value: value.update(max_position_embeddings="64"))


def list_of_shards(folder):
    remove("model.safetensors")(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ["a", "b"]}')


def no_modules(folder):
    remove("config.json")(folder)
    (folder / "modules.json").write_text('{"0": "Transformer"}')


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (remove("config.json"), EncoderError, "found no config.json"),
        (remove("model.safetensors"), EncoderError, "expected weights as model.safetensors, found none"),
        (pickle_instead, EncoderError, "found pytorch_model.bin; save the model as safetensors"),
        (cut, EncoderError, "expected a safetensors file in model.safetensors"),
        (cut_at_the_end, EncoderError, r"safetensors file in model.safetensors, found \d+ bytes of tensors where its"),
        (no_tokenizer, EncoderError, "expected a tokenizer beside the weights"),
        (no_lengths, ConfigError, "expected a maximum length"),
        (lambda folder: (folder / "config.json").write_text("{"), EncoderError, "expected JSON in "),
        (text_for_a_number, EncoderError, "expected a whole number as max_position_embeddings in config.json, found"),
        (list_of_shards, EncoderError, "expected an object as weight_map of model.safetensors.index.json"),
        (no_modules, EncoderError, r"expected a list of modules in modules.json \("),
    ],
)
def test_folders_that_are_no_encoder(copy, damage, error, message):
    folder = copy("bert")
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        resolve(str(folder))
    assert "\n" not in str(caught.value)


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_missing_weights_are_refused(copy):
    folder = copy("bert")
    change_weights(folder, lambda tensors: tensors.pop("encoder.layer.1.output.dense.weight"))
    with pytest.raises(EncoderError, match=r"1 missing or of another shape \(encoder.layer.1.output.dense.weight\)"):
        load(resolve(str(folder)), 64, CPU, "float32", None)


def test_weights_of_another_shape_are_refused(copy):
    folder = copy("bert")
    change_weights(folder, lambda tensors: tensors.update({"encoder.layer.0.output.dense.bias": torch.zeros(7)}))
    with pytest.raises(EncoderError, match=r"1 missing or of another shape \(encoder.layer.0.output.dense.bias\)"):
        load(resolve(str(folder)), 64, CPU, "float32", None)


def test_extra_weights_of_the_encoder_are_said_those_of_heads_are_not(copy, capsys):
    folder = copy("bert")
    change_weights(folder, lambda tensors: tensors.update({"cls.predictions.bias": torch.zeros(3)}))
    load(resolve(str(folder)), 64, CPU, "float32", None)
    assert "not used" not in capsys.readouterr().err
    change_weights(folder, lambda tensors: tensors.update({"encoder.layer.9.output.dense.bias": torch.zeros(3)}))
    load(resolve(str(folder)), 64, CPU, "float32", None)
    assert "1 weights of the checkpoint are not used (encoder.layer.9.output.dense.bias)" in capsys.readouterr().err


@pytest.mark.parametrize("heads", [0, 5])
def test_heads_that_do_not_divide_the_width_are_refused(copy, heads):
    folder = copy("bert")
    edit(folder / "config.json", lambda value: value.update(num_attention_heads=heads))
    with pytest.raises(EncoderError, match="expected a model that AutoModel reads"):
        load(resolve(str(folder)), 64, CPU, "float32", None)


def test_a_declared_precision_does_not_round_the_weights(copy):
    folder = copy("bert")
    edit(folder / "config.json", lambda value: value.update(dtype="float16", torch_dtype="float16"))
    kept = load_file(folder / "model.safetensors")
    for name, tensor in load_model(resolve(str(folder))).state_dict().items():
        assert torch.equal(tensor, kept[name])


def test_a_classifiers_pooler_is_not_the_encoders(copy):
    folder = copy("bert")
    assert "pooled" in resolve(str(folder)).features
    tensors = load_file(folder / "model.safetensors")
    under = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    save_file(under, folder / "model.safetensors", {"format": "pt"})
    assert "pooled" in resolve(str(folder)).features
    own = {name: tensor for name, tensor in under.items() if "pooler" not in name}
    save_file(own | {"pooler.dense.weight": torch.zeros(3, 3)}, folder / "model.safetensors", {"format": "pt"})
    assert "pooled" not in resolve(str(folder)).features


def test_of_an_encoder_with_a_decoder_the_encoder_is_enough(tmp_path):
    torch.manual_seed(0)
    tokens = encoders.tokenizer("t5")
    model = T5EncoderModel(T5Config(
        vocab_size=len(tokens), d_model=24, d_kv=8, d_ff=32, num_layers=3, num_heads=2, pad_token_id=tokens.pad_token_id
    )).eval()  # fmt: skip
    model.save_pretrained(tmp_path / "t5")
    tokens.save_pretrained(tmp_path / "t5")
    encoder = resolve(str(tmp_path / "t5"))
    assert encoder.layers == 3
    loaded = load(encoder, 64, CPU, "float32", None)
    row = loaded.tokeniser([Row("the word and", None, 0)])
    ids = torch.from_numpy(row.ids)
    found = loaded.forward(ids, torch.from_numpy(row.types), row.lengths.tolist())
    with torch.no_grad():
        expected = model(ids.long()[None]).last_hidden_state[0]
    torch.testing.assert_close(found.last, expected)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = encoders.save(tmp_path / "small", "bert", vocab_size=50)
    with pytest.raises(EncoderError, match=r"at most the embedding's 50 tokens, found \d+; the tokenizer belongs"):
        load(resolve(str(folder)), 64, CPU, "float32", None)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:0", ""])
def test_unknown_devices(name):
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda or cuda:N"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_where_there_is_none():
    assert resolve_device("auto") == CPU
    for name in ("cuda", "cuda:3"):
        with pytest.raises(DeviceError, match=f"device '{name}'.*found 0 GPUs; use `device='cpu'`"):
            resolve_device(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 65}, "--max-length: expected 4 to 64"),
        ({"max_length": 3}, "--max-length: expected 4 to 64"),
        ({"reduce_size": 0}, "--reduce-size: expected at least 1, found 0"),
        ({"limit": 0}, "--limit: expected at least 1 row, found 0"),
        ({"pairs": "both"}, "--pairs: expected joint or siamese, found 'both'"),
        ({"layers": (0,)}, "--layers: expected numbers from 1 to 3"),
        ({"layers": (1, 4)}, "--layers: expected numbers from 1 to 3"),
    ],
)
def test_options_out_of_range(tiny, options, message):
    with pytest.raises(ConfigError, match=message):
        Options(**options).checked(resolve(str(tiny("bert"))))


def test_the_last_layer_is_the_default(tiny):
    encoder = resolve(str(tiny("bert")))
    assert Options(layers=(3,)).checked(encoder).layers is None
    assert Options(layers=(2, 1, 2)).checked(encoder).layers == (1, 2)
