"""Families: their formulas as the original packages state them, and what they cost."""

import math

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pipeline.heads.cost import forward_flops, parameters
from pipeline.heads.families import PACKABLE, build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.initialization import stack, start
from pipeline.heads.network import basis_of
from pipeline.heads.resolve import resolve


def head(family, inputs, outputs, protocol="published", seed=0, **options):
    config = resolve(family, seed=seed, features="pooled", protocol=protocol, options=options)
    network = build_network(config, inputs, outputs)
    return network, start(config, network)


def shaken(tensors):
    """Weights as after some training: norms, biases and scalers that are not at their start."""
    return {name: tensor.double() + 0.3 * torch.randn(tensor.shape).double() for name, tensor in tensors.items()}


def fast_kan(x, layers):
    """`exp(-((LN(x) - c) / w)^2) W_s^T + silu(x) W_b^T + b`, in fast-kan's own layout."""
    for weight, bias, scale, shift in layers:
        inputs = x.shape[1]
        normed = functional.layer_norm(x, (inputs,), scale, shift)
        centres = torch.linspace(-2, 2, 8, dtype=x.dtype)
        bases = torch.exp(-(((normed[..., None] - centres) / (4 / 7)) ** 2)).view(len(x), -1)
        x = bases @ weight[: inputs * 8] + functional.silu(x) @ weight[inputs * 8 :] + bias
    return x


def faster_kan(x, layers, sharpness):
    """`(1 - tanh((LN(x) - c) d)^2) W^T`: d = 1 is the published forward."""
    for weight, _, scale, shift in layers:
        normed = functional.layer_norm(x, (x.shape[1],), scale, shift)
        centres = torch.linspace(-1.2, 0.2, 8, dtype=x.dtype)
        x = (1 - torch.tanh((normed[..., None] - centres) * sharpness) ** 2).view(len(x), -1) @ weight
    return x


def layers_of(network, tensors):
    names = ("weight", "bias", "norm_scale", "norm_shift")
    return [[tensors.get(f"layers.{index}.{name}") for name in names] for index in range(len(network.layers))]


def test_fast_kan_is_its_formula():
    network, tensors = head("fast_kan", 11, 3, hidden=(6, 5))
    tensors = shaken(tensors)
    x = torch.randn(20, 11, dtype=torch.float64)
    found = network_forward(network, x.unsqueeze(0), stack([tensors]))[0]
    torch.testing.assert_close(found, fast_kan(x, layers_of(network, tensors)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sharpness", [1.0, 0.5])
def test_faster_kan_is_its_formula(sharpness):
    network, tensors = head("faster_kan", 11, 3, hidden=(6, 5), sharpness=sharpness)
    tensors = shaken(tensors)
    x = torch.randn(20, 11, dtype=torch.float64)
    found = network_forward(network, x.unsqueeze(0), stack([tensors]))[0]
    torch.testing.assert_close(found, faster_kan(x, layers_of(network, tensors), sharpness), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "sigmoid", "identity"])
def test_mlp_is_torchs(activation):
    network, tensors = head("mlp", 9, 2, hidden=(6, 5), activation=activation)
    modules = []
    for weight, bias, *_ in layers_of(network, tensors):
        linear = torch.nn.Linear(*weight.shape)
        linear.load_state_dict({"weight": weight.T, "bias": bias})
        modules += [linear, getattr(functional, activation, lambda x: x)]
    x = expected = torch.randn(20, 9)
    for module in modules[:-1]:
        expected = module(expected)
    torch.testing.assert_close(network_forward(network, x.unsqueeze(0), stack([tensors]))[0], expected)


def test_linear_is_one_linear_map():
    network, tensors = head("linear", 9, 2)
    x = torch.randn(20, 9)
    expected = x @ tensors["layers.0.weight"] + tensors["layers.0.bias"]
    torch.testing.assert_close(network_forward(network, x.unsqueeze(0), stack([tensors]))[0], expected)


@pytest.mark.parametrize("family", PACKABLE)
def test_each_head_of_a_pack_sees_its_own_rows_and_weights_only(family):
    singles = []
    for seed in range(3):
        network, tensors = head(family, 7, 2, seed=seed, hidden=(5,))
        singles.append(shaken(tensors))
    x = torch.randn(3, 10, 7, dtype=torch.float64)
    found = network_forward(network, x, stack(singles))
    for place, single in enumerate(singles):
        alone = network_forward(network, x[place : place + 1], stack([single]))[0]
        torch.testing.assert_close(found[place], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "options", "count"),
    [
        ("effi_kan", {"spline_scaler": True}, 492_800),
        ("effi_kan", {"spline_scaler": False}, 443_520),
        ("fast_kan", {}, 445_250),
        ("faster_kan", {}, 395_904),
        ("mlp", {}, 768 * 64 + 64 + 64 * 2 + 2),
        ("linear", {}, 768 * 2 + 2),
    ],
)
def test_counts_at_768_64_2_are_the_original_packages(family, options, count):
    network, tensors = head(family, 768, 2, **options)
    assert parameters(network) == count == sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize("family", PACKABLE)
@pytest.mark.parametrize("protocol", ["clean", "published"])
@pytest.mark.parametrize("hidden", [(), (1,), (5, 4)])
def test_counted_parameters_are_the_tensors(family, protocol, hidden):
    options = {"hidden": hidden, "grid": 7, "order": 2, "centres": 5}
    network, tensors = head(family, 13, 3, protocol, **options)
    assert parameters(network) == sum(tensor.numel() for tensor in tensors.values())
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == network.shapes()
    assert (network.inputs, network.outputs) == (13, 3)


def test_flops_of_plain_heads_by_hand():
    linear, _ = head("linear", 768, 2)
    assert forward_flops(linear) == 2 * 768 * 2 + 2
    mlp, _ = head("mlp", 768, 2)
    # No activation on the features and none on the logits; relu is one operation.
    assert forward_flops(mlp) == 2 * 768 * 64 + 64 + 64 + 2 * 64 * 2 + 2


@pytest.mark.parametrize("family", PACKABLE)
@pytest.mark.parametrize("scaler", [True, False])
def test_flops_hold_the_products_that_a_profiler_counts(family, scaler):
    network, tensors = head(family, 13, 3, hidden=(6, 5), spline_scaler=scaler)
    with FlopCounterMode(display=False) as counter:
        network_forward(network, torch.randn(1, 1, 13), stack([tensors]))
    rest = 0
    for layer in network.layers:
        elementwise = sum(basis_of(branch.basis).flops(layer.grid) for branch in layer.branches)
        if layer.per_edge:  # the function, its weight and the sum, on every edge
            elementwise = layer.outputs * (elementwise + 2)
        rest += layer.inputs * (elementwise + (2 * sum(layer.widths) - 1 if layer.units else 0))
        rest += layer.outputs if layer.bias else 0
        rest += 8 * layer.inputs * layer.normed
        if layer.scaler:
            rest += math.prod((layer.inputs, layer.grid.intervals + layer.grid.order, layer.outputs))
    rest += (network.stacks - 1) * 3
    assert counter.get_total_flops() + rest == forward_flops(network)
