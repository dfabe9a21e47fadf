"""Costs: training FLOPs against a profiler, and KANbeFair's published counts against the tensors."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.fit.step import row_losses
from pipeline.heads.cost import forward_flops, parameters, product_flops, training_flops
from pipeline.heads.families import PACKABLE, build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.initialization import stack, start
from pipeline.heads.kanbefair import published_cost
from pipeline.heads.resolve import resolve


def config(family, **options):
    return resolve(family, seed=0, features="pooled", protocol="clean", options=options)


@pytest.mark.parametrize("family", PACKABLE)
@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
@pytest.mark.parametrize("scaler", [True, False])
def test_products_are_those_that_a_profiler_counts(family, hidden, scaler):
    """Forward, and forward and backward through autograd, over rows that a step would hold."""
    rows = 7
    shape = config(family, hidden=hidden, spline_scaler=scaler, grid=4, order=2, centres=3)
    network = build_network(shape, 13, 3)
    tensors = {name: tensor.requires_grad_() for name, tensor in stack([start(shape, network)]).items()}
    with FlopCounterMode(display=False) as counter:
        found = network_forward(network, torch.randn(1, rows, 13), tensors)
    assert product_flops(network) * rows == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        found = network_forward(network, torch.randn(1, rows, 13), tensors)
        row_losses(found, torch.randint(3, (1, rows))).sum().backward()
    assert product_flops(network, training=True) * rows == counter.get_total_flops()


def test_pykans_products_are_those_that_a_profiler_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kan = pytest.importorskip("kan").KAN(
        width=[8, 5, 2], grid=4, k=2, symbolic_enabled=False, auto_save=False, save_act=False
    )
    with FlopCounterMode(display=False) as counter:
        kan(torch.randn(7, 8))
    network = build_network(config("kan", hidden=(5,), grid=4, order=2), 8, 2)
    assert product_flops(network) * 7 == counter.get_total_flops()
    assert product_flops(network) < forward_flops(network) < training_flops(network, 64)


def test_training_flops_of_an_mlp_by_hand():
    network = build_network(config("mlp", hidden=(4,)), 10, 2)
    forward = 10 * 4 * 2 + 4 + 4 + 4 * 2 * 2 + 2
    # Weights' gradients as much as the products; biases' one an output; through the hidden layer: products and relu.
    backward = (10 * 4 * 2 + 4) + (4 * 2 * 2 + 2) + (4 * 2 * 2 + 2 * 4)
    optimiser = 17 * (10 * 4 + 4 + 4 * 2 + 2)
    assert forward_flops(network) == forward
    assert training_flops(network, 1) == forward + 5 * 2 + backward + optimiser
    assert training_flops(network, 64) == forward + 5 * 2 + backward + round(optimiser / 64)


def test_a_separate_scaler_is_applied_once_a_step():
    with_scaler = build_network(config("effi_kan", spline_scaler=True), 100, 2)
    without = build_network(config("effi_kan", spline_scaler=False), 100, 2)
    weights = 8 * (100 * 64 + 64 * 2)
    assert forward_flops(with_scaler) - forward_flops(without) == weights
    once = 4 * weights + 17 * (parameters(with_scaler) - parameters(without))
    assert training_flops(with_scaler, 1) - training_flops(without, 1) == once
    assert training_flops(with_scaler, 50) - training_flops(without, 50) == pytest.approx(once / 50, abs=1)


@pytest.mark.parametrize("family", PACKABLE)
def test_training_costs_more_than_forward_and_less_the_larger_the_batch(family):
    network = build_network(config(family), 100, 2)
    costs = [training_flops(network, batch) for batch in (1, 4, 64, 4096)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] > 2 * product_flops(network)


def test_kanbefair_at_768_64_2():
    """Numbers worked out from the formulas of arXiv 2407.16674 on paper."""
    edges = 768 * 64 + 64 * 2
    kan = published_cost(config("effi_kan", spline_scaler=True), 768, 2)
    assert (kan.parameters, kan.flops) == (edges * 11 + 66, edges * (27 * 9.5 + 10 - 7.5 + 3) + 5 * (768 + 64))
    mlp = published_cost(config("mlp", activation="gelu"), 768, 2)
    assert (mlp.parameters, mlp.flops) == (769 * 64 + 65 * 2, 2 * edges + 14 * 66)
    linear = published_cost(config("linear"), 768, 2)
    assert (linear.parameters, linear.flops) == (769 * 2, 2 * 768 * 2)
    bare = published_cost(config("effi_kan", base="zero"), 768, 2)
    assert (bare.parameters, bare.flops) == (edges * 10 + 66, edges * (27 * 9.5 + 10 - 7.5 + 1))
    spline = published_cost(config("bspline_mlp"), 768, 2)
    assert (spline.parameters, spline.flops) == (769 * 64 + 65 * 2 + 66 * 8, 2 * edges + 66 * (27 * 9.5 + 10 - 7.5 - 1))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("fast_kan", {}), ("fourier_kan", {}), ("ensemble_kan", {}), ("mlp", {"layer_norm": True}),
        ("effi_kan", {"layer_norm": True}), ("bspline_mlp", {"activation": "silu"}),
    ],
)  # fmt: skip
def test_kanbefair_has_no_formula_for_the_rest(family, options):
    assert published_cost(config(family, **options), 768, 2) is None


def test_kanbefairs_known_over_counts():
    """One parameter an edge and a bias above efficient-kan's tensors; an activation that the output layer lacks."""
    shape = config("effi_kan", spline_scaler=True, hidden=(9, 5), grid=7, order=2)
    network = build_network(shape, 11, 3)
    edges = sum(layer.inputs * layer.outputs for layer in network.layers)
    assert published_cost(shape, 11, 3).parameters - parameters(network) == edges + 9 + 5 + 3
    kan = config("kan", hidden=(9, 5), grid=7, order=2)
    assert published_cost(kan, 11, 3).parameters - parameters(build_network(kan, 11, 3)) == edges + 9 + 5 + 3
    bspline = config("bspline_mlp", hidden=(9, 5), grid=7, order=2)
    assert published_cost(bspline, 11, 3).parameters - parameters(build_network(bspline, 11, 3)) == 3 * (7 + 2)
    relu = config("mlp", hidden=(9, 5))
    network = build_network(relu, 11, 3)
    biases = 9 + 5 + 3
    assert published_cost(relu, 11, 3).parameters == parameters(network)
    assert published_cost(relu, 11, 3).flops - (forward_flops(network) - biases) == 3
