"""`embed`: what it writes, what it skips, what it refuses, and that an interruption changes nothing."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.encode import session
from pipeline.encode.run import embed
from pipeline.encode.vectors import import_vectors
from pipeline.errors import CacheError, CacheMismatchError, ConfigError, KanglueError, SourceError, UnknownNameError
from pipeline.sources import Row, open_source
from pipeline.store import open_cache, verify
from pipeline.store.journal import Lock, work_folder
from tests.helpers import encoders

ALL = {"idx", "text", "text_pair", "label", "length", "pooled", "cls", "mean", "weight", "reduced", "last_hidden"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def own(here):
    """A file of one's own: two splits of pairs, one text empty, one far longer than the limit."""
    texts = [text for text in encoders.TEXTS if "\ud83d" not in text]
    rows = [
        {
            "a": texts[n % len(texts)],
            "b": f"second {n}",
            "y": ["no", "yes"][n % 2],
            "s": "train" if n < 40 else "validation",
        }
        for n in range(55)
    ]
    path = write_jsonl(here / "own.jsonl", rows)
    return {
        "data": str(path), "text_column": "a", "text_pair_column": "b", "label_column": "y", "split_column": "s",
    }  # fmt: skip


def arrays(path):
    """Every dataset of a file as bytes, by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return {name: value.tolist() if value.dtype == object else value.tobytes() for name, value in found.items()}


def no_encoder(monkeypatch):
    """From here on, computing anything is an error."""

    def refuse(*_, **__):
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr("pipeline.encode.load.load", refuse)


def test_a_file_holds_every_dataset_of_the_table(tiny, own):
    result = embed("mine", encoder=str(tiny("bert")), cache="c", **own)
    assert result.files == (f"c/{result.files[0].split('/')[1]}/mine.h5",)
    assert (result.rows, result.details[0].splits) == (55, {"train": 40, "validation": 15})
    assert verify(result.files[0]).fault is None
    source = open_source("mine", own["data"], text="a", text_pair="b", label="y", split_column="s")
    expected = encoders.plain(tiny("bert"), [row[:2] for row in source.rows("validation")], 64)
    with open_cache(result.files[0]) as cache:
        view = cache["validation"]
        assert set(view.names) == ALL
        assert view["text"] == [row.text.replace("\0", "\ufffd") for row in source.rows("validation")]
        assert view["text_pair"] == [row.text_pair for row in source.rows("validation")]
        assert view["label"].tolist() == [row.label for row in source.rows("validation")]
        assert view["idx"].tolist() == list(range(15))
        for name in ("pooled", "cls", "mean", "weight"):
            np.testing.assert_allclose(view[name], expected[name], rtol=0, atol=5e-5)
        values, offsets = view["last_hidden"][0:15]
        assert (
            np.diff(offsets).tolist() == view["length"].tolist() == [len(states) for states in expected["last_hidden"]]
        )
        np.testing.assert_allclose(values[: offsets[1]], expected["last_hidden"][0].numpy(), rtol=1e-3, atol=1e-4)
        assert view["reduced"].shape == (15, 8)
        np.testing.assert_allclose(view["reduced"], view["mean"].reshape(15, 3, 8).sum(1), rtol=1e-5, atol=1e-5)
        assert cache.labels == ["no", "yes"]
        assert (cache.precision, cache.attributes["path"]) == ("float32", "packed")
        assert result.tokens == sum(int(cache[split]["length"].sum()) for split in cache)
    # Of the texts only the one of many words passes the limit: the long word is one unknown token.
    texts = [row.text for split in source.splits for row in source.rows(split)]
    assert result.truncated == sum(text.startswith("many") for text in texts) > 0


def test_the_second_run_does_nothing_and_says_so(tiny, own, monkeypatch, capsys):
    first = embed("mine", encoder=str(tiny("bert")), cache="c", **own)
    before = arrays(first.files[0])
    no_encoder(monkeypatch)
    second = embed("mine", encoder=str(tiny("bert")), cache="c", **own)
    assert second.files == first.files
    assert (second.rows, second.tokens, second.truncated) == (0, 0, 0)
    assert second.details[0].up_to_date
    assert "up to date, nothing to do" in capsys.readouterr().err
    assert arrays(first.files[0]) == before


def test_splits_and_datasets_are_added_and_the_old_ones_kept(tiny, own):
    options = {"encoder": str(tiny("bert")), "cache": "c", **own}
    path = embed("mine", split=["validation"], store=["mean"], **options).files[0]
    before = arrays(path)
    assert {name.split("/")[1] for name in before} == {"idx", "text", "text_pair", "label", "length", "mean"}
    embed("mine", store=["mean", "cls"], **options)
    after = arrays(path)
    assert {name: after[name] for name in before} == before
    assert {"train/mean", "train/cls", "validation/cls"} <= set(after)
    embed("mine", **options)
    whole = embed("mine", **(options | {"cache": "d"})).files[0]
    assert arrays(path) == arrays(whole)


def test_another_fingerprint_is_refused_without_force(tiny, own):
    options = {"encoder": str(tiny("bert")), "cache": "c", **own}
    path = embed("mine", **options).files[0]
    before = arrays(path)
    data = Path(own["data"])
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[3]["a"] = "another text"
    write_jsonl(data, rows)
    with pytest.raises(CacheMismatchError, match=r"source_sha256.*--force"):
        embed("mine", **options)
    with pytest.raises(CacheMismatchError, match=r"precision: expected 'bfloat16', found 'float32'"):
        embed("mine", precision="bfloat16", **options)
    assert arrays(path) == before
    embed("mine", force=True, **options)
    assert arrays(path) != before


def test_another_width_of_reduced_is_refused(tiny, own):
    options = {"encoder": str(tiny("bert")), "cache": "c", **own}
    embed("mine", **options)
    with pytest.raises(KanglueError, match=r"--reduce-size 8|m: expected 6, found 8"):
        embed("mine", reduce_size=6, **options)


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_an_interrupted_run_goes_on_and_the_file_is_the_same(tiny, own, monkeypatch, capsys, kind):
    monkeypatch.setattr(session, "CPU_BLOCK_ROWS", 8)
    options = {"encoder": str(tiny(kind)), "batch_tokens": 200, **own}
    whole = embed("mine", cache="whole", **options).files[0]
    from pipeline.encode import write

    encode, calls = write.start_block, []

    def stop_after_three(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(*args, **kwargs)

    monkeypatch.setattr(write, "start_block", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        embed("mine", cache="c", **options)
    assert not list(Path("c").rglob("mine.h5"))
    capsys.readouterr()
    # The token budget of the first run is kept, whatever is asked for now.
    result = embed("mine", cache="c", **(options | {"batch_tokens": 77}))
    said = capsys.readouterr().err
    assert "going on after 3 finished blocks" in said
    assert "keeping the 200 tokens a batch" in said
    assert result.rows == 55 - 24
    assert arrays(result.files[0]) == arrays(whole)


def test_names_say_what_was_asked_for(tiny, own):
    options = {"encoder": str(tiny("bert")), "cache": "c", "store": ["mean"], **own}

    def name(**more):
        return embed("mine", **options, **more).files[0].split("/")[-1]

    assert name(layers=[1, 2], max_length=9, limit=3) == "mine.layers1-2.len9.limit3.h5"
    assert name(layers=[3], max_length=64) == "mine.h5"
    assert name(limit=2, max_length=30) == "mine.len30.limit2.h5"


def test_layers_leave_the_pooler_out(tiny, own):
    path = embed("mine", encoder=str(tiny("bert")), cache="c", layers=[1, 2], **own).files[0]
    with open_cache(path) as cache:
        assert set(cache["train"].names) == ALL - {"pooled"}
        assert cache.attributes["layers"] == [1, 2]
    with pytest.raises(ConfigError, match="gives no pooler of layers"):
        embed("mine", encoder=str(tiny("bert")), cache="c", layers=[1, 2], store=["pooled"], **own)


def test_no_text_and_no_pooler(tiny, own, capsys):
    path = embed("mine", encoder=str(tiny("bert", pooler=False)), cache="c", text=False, **own).files[0]
    with open_cache(path) as cache:
        assert set(cache["train"].names) == ALL - {"pooled", "text", "text_pair"}
        assert cache.default_feature == "mean"
    assert "has no trained pooler: `pooled` is left out" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="has no pooler"):
        embed("mine", encoder=str(tiny("bert", pooler=False)), cache="d", store=["pooled"], **own)


def test_last_hidden_is_left_out_unasked_where_it_is_large(tiny, own, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.encode.request.LAST_HIDDEN_LIMIT", 1000)
    options = {"encoder": str(tiny("bert")), "cache": "c", **own}
    path = embed("mine", **options).files[0]
    assert "last_hidden would take about" in capsys.readouterr().err
    with open_cache(path) as cache:
        assert "last_hidden" not in cache["train"]
    embed("mine", store=["last_hidden"], **options)
    with open_cache(path) as cache:
        assert "last_hidden" in cache["train"]


@pytest.mark.usefixtures("here")
def test_tasks_share_a_run_and_the_sample_has_its_own_cache(tiny, capsys):
    result = embed(["cola", "sst2"], encoder=str(tiny("bert")), data="sample", store=["mean"], limit=20)
    assert [file.split("/")[:2] for file in result.files] == [["cache", "sample"]] * 2
    assert capsys.readouterr().err.count("loading ") == 1
    with open_cache(result.files[0]) as cache:
        assert cache.source == "sample"


@pytest.mark.usefixtures("here")
def test_several_encoders_in_one_call(tiny, capsys):
    folders = [str(tiny("bert")), str(tiny("roberta")), str(tiny("bert"))]
    options = {"data": "sample", "store": ["mean"], "limit": 20}
    result = embed(["cola", "sst2"], encoder=folders, **options)
    assert capsys.readouterr().err.count("loading ") == 2
    assert len(result.files) == len(set(result.files)) == 4
    for number, folder in enumerate(folders[:2]):
        alone = embed(["cola", "sst2"], encoder=folder, cache="alone", **options)
        for file, other in zip(result.files[2 * number :], alone.files, strict=False):
            assert arrays(file) == arrays(other)
    assert all(one.up_to_date for one in embed(["cola", "sst2"], encoder=folders, **options).details)
    with pytest.raises(KanglueError, match=r"encoder '\./none'"):
        embed("cola", encoder=[str(tiny("bert", hidden_size=32)), "./none"], **options)


def test_auto_precision_is_that_of_the_file_that_is_there(tiny, own, monkeypatch, capsys):
    options = {"encoder": str(tiny("bert")), "cache": "c", "store": ["mean"], "limit": 8, **own}
    first = embed("mine", precision="bfloat16", **options)
    assert first.details[0].deviation["mean"][0] > 0
    assert "mean in bfloat16 deviates from float32 by at most" in capsys.readouterr().err
    no_encoder(monkeypatch)
    assert embed("mine", **options).details[0].precision == "bfloat16"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": ["dev"]}, UnknownNameError, "unknown split of mine 'dev': expected one of train, validation"),
        ({"store": ["pool"]}, UnknownNameError, "unknown dataset 'pool'"),
        ({"precision": "int8"}, ConfigError, "--precision: expected one of auto, float32"),
        ({"encoder": ""}, ConfigError, "expected at least one encoder, found none"),
        ({"batch_tokens": 0}, ConfigError, "--batch-tokens: expected at least 1, found 0"),
        ({"max_length": 1000}, ConfigError, "--max-length: expected 4 to 64"),
        ({"data": "nowhere.csv"}, SourceError, "nowhere.csv"),
    ],
)
def test_wrong_requests_leave_nothing(tiny, own, here, options, error, message):
    with pytest.raises(error, match=message) as caught:
        embed("mine", **({"encoder": str(tiny("bert")), "cache": "c"} | own | options))
    assert "\n" not in str(caught.value)
    assert not (here / "c").exists()


def test_lone_surrogates_pass_into_the_tokenizer_and_the_file(tiny):
    from pipeline.encode.arrays import columns_of, plain_arrays
    from pipeline.encode.tokens import load_tokeniser
    from pipeline.tasks import own_task

    rows = [Row("half \ud83d", "\udc00", 0), Row("é", "plain", 1)]
    tokens = load_tokeniser(tiny("bert"), "tiny", 64)(rows)
    found = plain_arrays(columns_of(rows), tokens.lengths, 5, own_task("mine", ("a", "b"), pair=True))
    assert found["text"].data.decode() == "half \ufffd\0é\0"
    assert found["text_pair"].data.decode() == "\ufffd\0plain\0"
    assert found["idx"].tolist() == [5, 6]
    assert (tokens.lengths > 3).all()


def test_vectors_become_a_cache(here):
    x, y = np.random.default_rng(0).normal(size=(50, 11)).astype(np.float32), np.arange(50) % 3
    split = np.array(["train"] * 40 + ["validation"] * 10)
    np.savez(here / "v.npz", x=x, y=y, split=split)
    result = import_vectors("mine", here / "v.npz", cache="c")
    assert result.files == ("c/import/mine.h5",)
    assert verify(result.files[0]).fault is None
    with open_cache(result.files[0]) as cache:
        np.testing.assert_array_equal(cache["validation"]["pooled"], x[40:])
        np.testing.assert_array_equal(cache["train"]["label"], y[:40])
        padded = np.pad(x[40:], ((0, 0), (0, 5))).reshape(10, 2, 8).sum(1)
        np.testing.assert_allclose(cache["validation"]["reduced"], padded, rtol=1e-6)
        assert (cache.encoder, cache.default_feature) == ("import", "pooled")
    assert import_vectors("mine", here / "v.npz", cache="c").details[0].up_to_date
    np.savez(here / "v.npz", x=x + 1, y=y, split=split)
    with pytest.raises(CacheMismatchError, match="--force"):
        import_vectors("mine", here / "v.npz", cache="c")
    import_vectors("mine", here / "v.npz", cache="c", force=True)
    with pytest.raises(ConfigError, match="expected a task name of"):
        import_vectors("../mine", here / "v.npz", cache="c")


def test_siamese_pairs_hold_each_sentence_alone(tiny, tmp_path):
    folder = str(tiny("bert"))
    pairs = tmp_path / "pairs.jsonl"
    rows = [("one text", "another"), ("another", "one text"), ("", "one text"), ("one text", "one text")]
    pairs.write_text("".join(json.dumps({"a": a, "b": b, "y": 0, "s": "train"}) + "\n" for a, b in rows))
    options = {
        "encoder": folder, "data": str(pairs), "text_column": "a", "text_pair_column": "b", "label_column": "y",
        "split_column": "s", "cache": tmp_path / "c", "pairs": "siamese",
    }  # fmt: skip
    result = embed("mine", **options)
    assert result.files[0].endswith("/mine.siamese.h5")
    expected = encoders.plain(folder, [(text, None) for text in ("one text", "another", "")], 64)["mean"]
    with open_cache(result.files[0]) as cache:
        train = cache["train"]
        assert set(train.names) == {"idx", "text", "text_pair", "label", "length", "u", "v"}
        assert (cache.attributes["pairs"], cache.default_feature) == ("siamese", "siamese")
        assert np.abs(train.read("u", 0, 4) - expected[[0, 1, 2, 0]]).max() <= 1e-5
        assert np.abs(train.read("v", 0, 4) - expected[[1, 0, 0, 0]]).max() <= 1e-5
        lengths = np.array([len("onetext") + 2, len("another") + 2, 2])
        assert train.read("length", 0, 4).tolist() == (lengths[[0, 1, 2, 0]] + lengths[[1, 0, 0, 0]]).tolist()
    # Each distinct sentence was encoded once.
    assert result.tokens == lengths.sum()
    with pytest.raises(ConfigError, match="--store cls: expected u and v"):
        embed("mine", **(options | {"store": ["cls"], "limit": 2}))
    with pytest.raises(ConfigError, match="--pairs siamese: expected a task of sentence pairs"):
        embed("cola", encoder=folder, data="sample", cache=tmp_path, pairs="siamese")
    with pytest.raises(ConfigError, match="--store u: expected --pairs siamese"):
        embed("mine", **(options | {"store": ["u"], "pairs": "joint"}))


def test_siamese_sentences_of_a_split_are_encoded_once_and_an_interruption_changes_nothing(here, tiny, monkeypatch):
    monkeypatch.setattr(session, "CPU_BLOCK_ROWS", 8)
    texts = [f"text {'of some words ' * (n % 5)}{n}" for n in range(20)]
    # Two splits; a split's later rows say again what earlier ones did, and its third block brings nothing new.
    rows = [(texts[n % 9], texts[(n * n) % 9 if n < 24 else n % 20]) for n in range(40)] * 2
    pairs = write_jsonl(
        here / "p.jsonl",
        [{"a": a, "b": b, "y": 0, "s": "train" if n < 40 else "test"} for n, (a, b) in enumerate(rows)],
    )
    options = {
        "encoder": str(tiny("bert")), "data": str(pairs), "text_column": "a", "text_pair_column": "b",
        "label_column": "y", "split_column": "s", "pairs": "siamese", "batch_tokens": 90,
    }  # fmt: skip
    whole = embed("mine", cache="whole", **options)
    expected = encoders.plain(tiny("bert"), [(text, None) for pair in rows for text in pair], 64)
    with open_cache(whole.files[0]) as cache:
        for split, first in (("train", 0), ("test", 80)):
            for side, name in enumerate("uv"):
                wanted = expected["mean"][first + side : first + 80 : 2]
                np.testing.assert_allclose(cache[split].read(name, 0, 40), wanted, rtol=0, atol=2e-5)
    used = dict(zip([text for pair in rows for text in pair], map(len, expected["last_hidden"]), strict=True))
    assert whole.tokens == 2 * sum(used.values())
    from pipeline.encode import write

    encode, calls = write.start_block, []
    for stop in (2, 7):

        def stopping(*args, stop=stop, **kwargs):
            calls.append(1)
            if len(calls) == stop + 1:
                raise KeyboardInterrupt
            return encode(*args, **kwargs)

        monkeypatch.setattr(write, "start_block", stopping)
        with pytest.raises(KeyboardInterrupt):
            embed("mine", cache="c", **options)
    monkeypatch.setattr(write, "start_block", encode)
    last = embed("mine", cache="c", **options)
    assert last.rows == 80 - 6 * 8
    assert arrays(last.files[0]) == arrays(whole.files[0])
    assert not [path for path in Path("c").rglob("*") if path.suffix != ".h5" and path.is_file()]


def test_who_finds_another_writer_loads_no_encoder(tiny, own, monkeypatch):
    options = {"encoder": str(tiny("bert")), "cache": "c", **own}
    path = Path(embed("mine", **options).files[0])
    path.unlink()
    held = Lock(work_folder(path))
    no_encoder(monkeypatch)
    try:
        with pytest.raises(CacheError, match="expected to be the only writer"):
            embed("mine", **options)
    finally:
        held.release()


def test_vectors_of_another_reduced_width_are_not_up_to_date(tmp_path):
    arrays = {"train_x": np.ones((4, 16), np.float32), "train_y": np.array([0, 1, 0, 1])}
    np.savez(tmp_path / "v.npz", **arrays)
    import_vectors("mine", tmp_path / "v.npz", cache=tmp_path)
    with pytest.raises(CacheError, match="expected `reduced` 4 wide, found 8"):
        import_vectors("mine", tmp_path / "v.npz", cache=tmp_path, reduce_size=4)
