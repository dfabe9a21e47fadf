"""Starts: their distributions, and what they depend on."""

import math

import pytest
import torch

from pipeline.heads.families import PACKABLE, build_network
from pipeline.heads.initialization import start, starts
from pipeline.heads.resolve import resolve


def started(family, seed=0, inputs=64, outputs=2, protocol="clean", **options):
    config = resolve(family, seed=seed, features="pooled", protocol=protocol, options=options)
    return start(config, build_network(config, inputs, outputs))


def same(one, two):
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


def uniform(tensor, bound):
    """Whether a tensor looks uniform on plus and minus `bound`: its reach, its mean and its spread."""
    assert tensor.abs().max() <= bound
    assert tensor.abs().max() > 0.98 * bound
    assert tensor.mean().abs() < 5 * bound / math.sqrt(3 * tensor.numel())
    # Four standard errors of a uniform sample's standard deviation, where that is more than 5%.
    assert tensor.std().item() == pytest.approx(
        bound / math.sqrt(3), rel=max(0.05, 4 * math.sqrt(0.2 / tensor.numel()))
    )


@pytest.mark.parametrize("family", PACKABLE)
@pytest.mark.parametrize("protocol", ["clean", "published"])
def test_a_start_depends_on_seed_and_shape_not_on_rates(family, protocol):
    plain = started(family, protocol=protocol)
    rates = {"lr": 0.5, "weight_decay": 0.3, "clip": math.inf, "epochs": 3, "batch_size": 7, "scale": "tanh"}
    assert same(plain, started(family, protocol=protocol, **rates))
    assert not same(plain, started(family, seed=1, protocol=protocol))
    wider = started(family, inputs=65, protocol=protocol)
    assert not torch.equal(plain["layers.0.weight"].flatten()[:32], wider["layers.0.weight"].flatten()[:32])


def test_families_of_one_shape_start_apart():
    one, two = started("linear", inputs=8), started("mlp", inputs=8, hidden=())
    assert {name: t.shape for name, t in one.items()} == {name: t.shape for name, t in two.items()}
    assert not torch.equal(one["layers.0.weight"], two["layers.0.weight"])


@pytest.mark.parametrize("family", PACKABLE)
@pytest.mark.parametrize("protocol", ["clean", "published"])
def test_a_start_leaves_the_global_generator_alone(family, protocol):
    before = torch.random.get_rng_state()
    first = started(family, protocol=protocol)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(999)
    assert same(first, started(family, protocol=protocol))


@pytest.mark.parametrize("family", PACKABLE)
def test_the_projects_start_is_torchs_linear_over_the_expansion(family):
    found = started(family, inputs=200, init="project", spline_scaler=True)
    for name, tensor in found.items():
        layer, kind = name.rsplit(".", 1)
        features = len(found[f"{layer}.weight"])
        if kind == "weight":
            uniform(tensor, 1 / math.sqrt(features))
        elif kind == "bias":
            assert tensor.abs().max() <= 1 / math.sqrt(features)
            assert tensor.unique().numel() > 1
        elif kind == "unit":
            uniform(tensor, 1 / math.sqrt(tensor.shape[1]))
        elif kind in ("norm_scale", "norm_shift", "scaler"):
            assert torch.equal(tensor, torch.full_like(tensor, kind != "norm_shift"))
        else:
            assert any(basis.shapes for basis in PACKABLE[family].bases.values()), kind
        assert tensor.dtype == torch.float32


def test_efficient_kans_start():
    found = started("effi_kan", inputs=200, protocol="published")
    uniform(found["layers.0.weight"][200 * 8 :], 1 / math.sqrt(200))
    uniform(found["layers.0.scaler"], 1 / math.sqrt(200))
    bare = started("effi_kan", inputs=200, protocol="published", spline_scaler=False)
    # Without a scaler the spline is the fit as it is: of the size of its noise, 0.1 / 2 / 5.
    assert 0.003 < bare["layers.0.weight"][: 200 * 8].std() < 0.02


def test_fast_kans_start():
    found = started("fast_kan", inputs=200, protocol="published")
    spline, base = found["layers.0.weight"][: 200 * 8], found["layers.0.weight"][200 * 8 :]
    assert spline.std().item() == pytest.approx(0.1, rel=0.02)
    assert spline.abs().max() <= 2
    # Normal, not uniform: the tails are there.
    assert 0.001 < (spline.abs() > 0.3).float().mean() < 0.005
    uniform(base, 1 / math.sqrt(200))
    assert found["layers.0.bias"].abs().max() <= 1 / math.sqrt(200)
    assert torch.equal(found["layers.0.norm_scale"], torch.ones(200))
    assert torch.equal(found["layers.0.norm_shift"], torch.zeros(200))


def test_faster_kans_start_is_xavier_uniform():
    found = started("faster_kan", inputs=200, protocol="published")
    uniform(found["layers.0.weight"], math.sqrt(6 / (200 * 8 + 64)))
    assert torch.equal(found["layers.0.norm_scale"], torch.ones(200))


def test_a_packs_starts_are_each_heads_own():
    seeds, rates = (4, 4, 9, 4), (1e-3, 2e-3, 1e-3, 1e-3)
    configs = [
        resolve("effi_kan", seed=seed, features="pooled", protocol="published", options={"lr": lr})
        for seed, lr in zip(seeds, rates, strict=True)
    ]
    network = build_network(configs[0], 6, 2)
    stacked = starts(configs, network, torch.device("cpu"))
    for head, config in enumerate(configs):
        assert same(start(config, network), {name: tensor[head] for name, tensor in stacked.items()})
