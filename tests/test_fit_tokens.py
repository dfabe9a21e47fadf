"""Heads over every token of a row, whose vectors a pool makes into one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

import fit_heads
import pipeline
from pipeline.errors import CacheError
from pipeline.fit import attention
from pipeline.fit.attention import TokenSource
from pipeline.fit.data import fit_scaling
from pipeline.fit.optimiser import PackedAdamW
from pipeline.fit.step import TrainingStep, row_losses
from pipeline.fit.tokens import CHUNK_ROWS, Tokens, pooled_tokens
from pipeline.fit.train import train_pack
from pipeline.heads.bases import EXPANSIONS
from pipeline.heads.config import POOLS, TRAINED_POOLS
from pipeline.heads.cost import POOL_TOKENS, parameters, product_flops
from pipeline.heads.families import build_network
from pipeline.heads.forward import expand, network_forward
from pipeline.heads.initialization import starts
from pipeline.heads.resolve import read_config, resolve
from pipeline.models.caches import find_cache, load_data
from pipeline.store import open_cache
from pipeline.sweep.results import Results
from tests.helpers.synthetic_caches import write_cache

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
    assert read_config(over["max"].to_json()) == over["max"]
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
                "--token-pool", ",".join(POOLS), *QUICK, "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["heads"] == 10  # the pool is nothing to heads on `mean`
    with Results(tmp_path / "r.sqlite") as store:
        heads = store.heads({"features": "last_hidden"})
        for head in heads:
            loaded = pipeline.load_head(head["id"], results=tmp_path / "r.sqlite")
            with open_cache(tmp_path / "cache/tiny/wnli.h5") as cache:
                rows = Tokens(*cache["validation"]["last_hidden"][:])
            trains = head["config"]["token_pool"] in TRAINED_POOLS
            rows = rows if trains else by_row(rows, head["config"]["token_pool"]).astype(np.float32)
            for exact in (False, True):
                found = loaded.predict(rows, exact=exact)
                np.testing.assert_allclose(found, store.outputs(head["id"], "validation"), atol=1e-4)
            assert head["parameters"] == loaded.parameters == sum(one.numel() for one in loaded.tensors.values())
            out = tmp_path / head["id"]
            said = call(tmp_path, "submit", head["id"], "--partial", "--out", str(out))
            assert said.exit_code == 0, said.output
            assert len((out / "WNLI.tsv").read_text().splitlines()) == 147
            for command in ("export", "explain") if trains else ():
                said = call(tmp_path, command, head["id"])
                assert said.exit_code == 1, said.output
                assert head["config"]["token_pool"] in said.stderr
                assert len(said.stderr.strip().splitlines()) == 1
    assert {head["config"]["token_pool"] for head in heads} == set(POOLS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--features", "last_hidden", "--token-pool", "sum"), ("--token-pool", "mean", "max", "'sum'")),
        (("--head", "kan", "--features", "last_hidden", "--token-pool", "attention"), ("--token-pool", "mean or max")),
        (
            ("--head", "effi_kan", "--features", "last_hidden", "--token-pool", "attention", "--update-grid", "1"),
            ("--update-grid", "--token-pool attention"),
        ),
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


def reference(values, weight, grid=None):
    """One head's pooled row [inputs] of its tokens [tokens, inputs], float64, a token at a time."""
    scores = []
    for token in values:
        phi = token
        if grid is not None:
            splines = [b for x in token for b in EXPANSIONS["b_spline"](x, grid)]
            phi = torch.stack([*splines, *(token / (1 + torch.exp(-token)))])
        scores.append((phi * weight).sum())
    raised = torch.stack([torch.exp(score - max(scores).detach()) for score in scores])
    return sum(share * token for share, token in zip(raised / raised.sum(), values, strict=True))


def pooling(pool, rows=7, heads=3, width=3, kind="standard", seed=0):
    """Some scaled tokens in float64, their source, and weights [heads, features, 1] of a pool."""
    config = resolve("linear", seed=0, features="last_hidden", options={"token_pool": pool})
    network = build_network(config, width, 2)
    tokens = some_tokens(rows, width, seed)
    tokens = fit_scaling(kind, tokens).apply(tokens)
    source = TokenSource(network.pool, tokens, torch.device("cpu"), torch.float64)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(heads, *network.shapes()["pool.weight"], generator=generator, dtype=torch.float64)
    values = tokens.values.astype(np.float64)
    if kind != "none":
        values = (values - tokens.scaling.shift) * tokens.scaling.factor
    values = torch.from_numpy(np.tanh(values) if kind == "tanh" else values)
    by_rows = [values[a:b] for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    return network.pool, source, weight, by_rows


@pytest.mark.parametrize("pool", TRAINED_POOLS)
@pytest.mark.parametrize("kind", ["none", "standard", "tanh"])
@pytest.mark.parametrize("numbers", [1, 100, 1 << 24])
def test_attention_is_that_of_a_row_by_itself(pool, kind, numbers, monkeypatch):
    monkeypatch.setitem(attention.PIECE_NUMBERS, "cpu", numbers)
    layer, source, weight, rows = pooling(pool, kind=kind)
    grid = layer.grid if pool == "kan_attention" else None
    own = torch.tensor([[6, 0, 2, 2], [1, 3, 5, 0], [4, 4, 4, 1]])
    trained = weight.clone().requires_grad_()
    expected = torch.stack([
        torch.stack([reference(rows[at], trained[head, :, 0], grid) for at in line]) for head, line in enumerate(own)
    ])  # fmt: skip
    batch = source.take(own)
    torch.testing.assert_close(batch.pooled(weight), expected.detach(), rtol=0, atol=1e-12)
    delta = torch.randn(expected.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected.backward(delta)
    torch.testing.assert_close(batch.gradient(weight, delta), trained.grad, rtol=0, atol=1e-11)
    shared = source.take(own[0]).pooled(weight)
    torch.testing.assert_close(shared, source.take(own[:1].expand(3, -1)).pooled(weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pool", TRAINED_POOLS)
def test_padding_reaches_no_row(pool):
    _, source, weight, rows = pooling(pool)
    longest = max(range(len(rows)), key=lambda at: len(rows[at]))
    shortest = min(range(len(rows)), key=lambda at: len(rows[at]))
    assert len(rows[shortest]) < len(rows[longest])
    alone = source.take(torch.tensor([shortest])).pooled(weight)
    beside = source.take(torch.tensor([shortest, longest])).pooled(weight)[:, :1]
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-15)
    source.features[-1] = torch.nan  # what stands for padding is never read for its value
    assert not source.take(torch.tensor([longest])).pooled(weight).isnan().any()


@pytest.mark.parametrize("pool", TRAINED_POOLS)
@pytest.mark.parametrize("family", ["linear", "mlp", "effi_kan", "fast_kan", "ensemble_kan"])
def test_a_step_s_gradients_are_those_of_the_whole_network(pool, family):
    config = resolve(family, seed=1, features="last_hidden", options={"token_pool": pool, "hidden": (4,)})
    network = build_network(config, 3, 2)
    configs = [config, replace(config, seed=2)]
    tensors = {name: one.double() for name, one in starts(configs, network, torch.device("cpu")).items()}
    _, source, tensors["pool.weight"], _ = pooling(pool, heads=2)
    own, targets = torch.tensor([[6, 0, 2], [1, 3, 5]]), torch.tensor([[0, 1, 1], [1, 0, 1]])
    shares = torch.full((3,), 1 / 3, dtype=torch.float64)
    ones = torch.ones(2)
    found = TrainingStep(network, tensors, PackedAdamW(tensors, ones, ones, ones)).gradients(
        source.take(own), targets, shares
    )[1]  # fmt: skip
    leaves = {name: one.clone().requires_grad_() for name, one in tensors.items()}
    x, real = source.padded(own)
    scores = torch.einsum("hrlf,hf->hrl", expand(network.pool, x).view(*x.shape[:3], -1), leaves["pool.weight"][..., 0])
    pooled = (scores.masked_fill(~real, -torch.inf).softmax(2).unsqueeze(3) * x).sum(2)
    (row_losses(network_forward(network, pooled, leaves), targets) * shares).sum().backward()
    for name, one in leaves.items():
        torch.testing.assert_close(found[name], one.grad, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("pool", TRAINED_POOLS)
def test_a_head_learns_alone_as_in_its_pack_and_better_than_the_mean(tmp_path, pool):
    write_cache(tmp_path, tokens=True, rows={"train": 240, "validation": 150})
    ref = find_cache(tmp_path, "rte", "tiny")

    def heads(named, seeds):
        data = load_data(ref, "last_hidden", "standard", named)
        options = {"token_pool": named, "epochs": 10, "batch_size": 16, "lr": 0.02}
        configs = [resolve("linear", seed=seed, features="last_hidden", options=options) for seed in seeds]
        return train_pack(configs, data, torch.device("cpu"))

    pack, (alone,) = heads(pool, (0, 1, 2)), heads(pool, (1,))
    for name, one in alone.tensors.items():
        torch.testing.assert_close(one, pack[1].tensors[name], rtol=0, atol=2e-5, msg=name)
    assert alone.parameters == sum(one.numel() for one in alone.tensors.values())
    scores = [
        np.mean([one.metrics["validation"]["accuracy"] for one in done]) for done in (pack, heads("mean", (0, 1, 2)))
    ]
    assert scores[0] > scores[1] + 0.05


@pytest.mark.parametrize("pool", TRAINED_POOLS)
def test_the_products_are_what_a_profiler_counts(pool):
    config = resolve("effi_kan", seed=0, features="last_hidden", options={"token_pool": pool, "hidden": (4,)})
    network = build_network(config, 6, 2)
    tensors = starts([config], network, torch.device("cpu"))
    tokens = Tokens(np.ones((POOL_TOKENS, 6), np.float16), np.array([0, POOL_TOKENS]))
    source = TokenSource(network.pool, tokens, torch.device("cpu"))
    assert parameters(network) == sum(one.numel() for one in tensors.values())
    ones = torch.ones(1)
    step = TrainingStep(network, tensors, PackedAdamW(tensors, ones, ones, ones))
    with FlopCounterMode(display=False) as forward:
        network_forward(
            network, source.take(torch.zeros(1, 1, dtype=torch.int64)).pooled(tensors["pool.weight"]), tensors
        )
    assert forward.get_total_flops() == product_flops(network)
    own, shares = source.take(torch.zeros(1, 1, dtype=torch.int64)), torch.ones(1)
    with FlopCounterMode(display=False) as training:
        step.gradients(own, torch.zeros(1, 1, dtype=torch.int64), shares)
    again = 2 * POOL_TOKENS * network.pool.features  # scores, which are computed twice to save memory
    assert training.get_total_flops() == product_flops(network, training=True) + again
