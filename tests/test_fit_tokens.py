"""Heads over every token of a row, whose vectors a pool makes into one."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic_caches import write_cache

import fit_heads
import pipeline
from pipeline.errors import CacheError
from pipeline.fit.tokens import CHUNK_ROWS, Tokens, pooled_tokens
from pipeline.heads.config import HeadConfig
from pipeline.heads.resolve import resolve
from pipeline.store import open_cache
from pipeline.sweep.caches import find_cache, load_data
from pipeline.sweep.results import Results

QUICK = ("--encoder", "tiny", "--epochs", "2", "--hidden", "4", "--device", "cpu")


def call(root, command, *arguments):
    places = ("--cache", str(root / "cache"), "--results", str(root / "r.sqlite"))
    return CliRunner().invoke(fit_heads.main, [command, *arguments, *places])


def some_tokens(rows, width=3, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], rng.integers(1, 9, rows)]).cumsum()
    return Tokens(rng.normal(size=(offsets[-1], width)).astype(np.float16), offsets)


def by_row(tokens, pool):
    """The pool of each row by itself in float64 [rows, width]."""
    rows = [tokens.values[a:b].astype(np.float64) for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    return np.stack([getattr(row, pool)(0) for row in rows])


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_a_pool_is_that_of_each_row_alone(pool):
    tokens = some_tokens(CHUNK_ROWS + 30)
    found = pooled_tokens(tokens, pool)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_row(tokens, pool), rtol=0, atol=1e-6)
    alone = Tokens(*tokens[CHUNK_ROWS - 1 : CHUNK_ROWS + 2])
    np.testing.assert_array_equal(pooled_tokens(alone, pool), found[CHUNK_ROWS - 1 : CHUNK_ROWS + 2])


def test_a_row_without_tokens_is_one_clear_line():
    with pytest.raises(CacheError, match="at least one token in every row"):
        pooled_tokens(Tokens(np.zeros((4, 2), np.float16), np.array([0, 2, 2, 4])), "mean")


def test_the_pool_belongs_to_the_name_of_heads_over_tokens_alone():
    over = {pool: resolve("mlp", seed=0, features="last_hidden", options={"token_pool": pool}) for pool in
            (None, "mean", "max")}  # fmt: skip
    assert over[None] == over["mean"] != over["max"]
    assert over["max"].to_json()["token_pool"] == "max"
    assert HeadConfig.from_json(over["max"].to_json()) == over["max"]
    assert "token_pool" not in resolve("mlp", seed=0, features="mean", options={"token_pool": "max"}).to_json()


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_heads_train_on_the_pool_of_the_cache_s_tokens(tmp_path, pool):
    path = write_cache(tmp_path, tokens=True, rows={"train": 60, "validation": 30, "test": 9})
    data = load_data(find_cache(tmp_path, "rte", "tiny"), "last_hidden", "standard", pool)
    with open_cache(path) as cache:
        splits = {name: by_row(Tokens(*cache[name]["last_hidden"][:]), pool) for name in ("train", "validation")}
    for name, rows in splits.items():
        expected = (rows - splits["train"].mean(0)) / splits["train"].std(0)
        np.testing.assert_allclose(data.features[name], expected, atol=1e-4)


def test_a_sweep_over_pools_from_cache_to_submission(tmp_path):
    write_cache(tmp_path / "cache", "wnli", tokens=True, rows={"train": 80, "validation": 30, "test": 146})
    done = call(tmp_path, "sweep", "--task", "wnli", "--head", "linear,mlp", "--features", "mean,last_hidden",
                "--token-pool", "mean,max", *QUICK, "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["heads"] == 6  # the pool is nothing to heads on `mean`
    with Results(tmp_path / "r.sqlite") as store:
        heads = store.heads({"features": "last_hidden"})
        for head in heads:
            loaded = pipeline.load_head(head["id"], results=tmp_path / "r.sqlite")
            with open_cache(tmp_path / "cache/tiny/wnli.h5") as cache:
                rows = by_row(Tokens(*cache["validation"]["last_hidden"][:]), head["config"]["token_pool"])
            found = loaded.predict(rows.astype(np.float32))
            np.testing.assert_allclose(found, store.outputs(head["id"], "validation"), atol=1e-4)
    assert {head["config"]["token_pool"] for head in heads} == {"mean", "max"}
    said = call(tmp_path, "submit", heads[0]["id"], "--partial", "--out", str(tmp_path / "out"))
    assert said.exit_code == 0, said.output
    assert len((tmp_path / "out/WNLI.tsv").read_text().splitlines()) == 147


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--features", "last_hidden", "--token-pool", "sum"), ("--token-pool", "mean", "max", "'sum'")),
        (("--features", "last_hidden", "--task", "cola"), ("'last_hidden'", "pooled, mean", "--store last_hidden")),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, arguments, words):
    write_cache(tmp_path / "cache", tokens=True, rows={"train": 40, "validation": 20})
    write_cache(tmp_path / "cache", "cola", rows={"train": 40, "validation": 20})
    said = call(tmp_path, "sweep", "--task", "rte", "--head", "linear", *QUICK, *arguments)
    assert said.exit_code == 1, said.output
    assert len(said.stderr.strip().splitlines()) == 1
    assert all(word in said.stderr for word in words), said.stderr
