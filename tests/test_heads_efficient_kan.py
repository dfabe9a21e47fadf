"""`effi_kan` against efficient-kan's own layer (the copy in the package kan-gpt)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.heads.bases import b_spline
from pipeline.heads.families import build_network
from pipeline.heads.families.effi_kan import FAMILY
from pipeline.heads.forward import network_forward
from pipeline.heads.initialization import stack, start
from pipeline.heads.initializers import Draw
from pipeline.heads.network import Branch, Grid, LayerSpec
from pipeline.heads.resolve import resolve


@pytest.fixture(scope="module")
def kan_linear():
    """efficient-kan's `KANLinear`, from its file alone: the package around it wants much that is not needed here."""
    package = importlib.util.find_spec("kan_gpt")
    assert package is not None, "kan-gpt is not installed: pip install --no-deps kan-gpt==1.2.0 (make setup does it)"
    file = Path(package.submodule_search_locations[0]) / "efficient_kan" / "model.py"
    spec = importlib.util.spec_from_file_location("efficient_kan_model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.KANLinear


def in_float64(layer, grid):
    """The peer in float64, its knots too (it makes them in float32)."""
    layer = layer.double()
    step = (grid.high - grid.low) / grid.intervals
    knots = grid.low + (torch.arange(grid.intervals + 2 * grid.order + 1, dtype=torch.float64) - grid.order) * step
    layer.grid = knots.expand(layer.in_features, -1).contiguous()
    return layer


def peer_of(kan_linear, inputs, outputs, grid, scaler=True):
    return kan_linear(
        inputs, outputs, grid_size=grid.intervals, spline_order=grid.order, grid_range=[grid.low, grid.high],
        enable_standalone_scale_spline=scaler,
    )  # fmt: skip


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("low", "high", "intervals"), [(-1, 1, 5), (-3, 3, 5), (-0.5, 2.0, 1), (-2, 3, 13)])
def test_bases_and_their_gradients_equal_efficient_kans(kan_linear, order, low, high, intervals):
    grid = Grid(low, high, intervals, order)
    peer = in_float64(peer_of(kan_linear, 2, 1, grid), grid)
    reach = (order + 1) * (high - low) / intervals
    x = torch.empty(400, 2, dtype=torch.float64).uniform_(low - reach, high + reach)
    if order > 1:  # on its knots a spline of order 1 has no gradient
        x[: peer.grid.shape[1], 0] = peer.grid[0]
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = b_spline(ours, grid), peer.b_splines(theirs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    share = torch.randn_like(found)
    inner = slice(peer.grid.shape[1] if order == 2 else 0, None)  # order 2 has one-sided second derivatives there
    gradients = [torch.autograd.grad((y * share).sum(), z)[0][inner] for y, z in ((found, ours), (expected, theirs))]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def head(inputs, outputs, seed=0, **options):
    config = resolve("effi_kan", seed=seed, features="pooled", protocol="published", options=options)
    return config, build_network(config, inputs, outputs)


def copied(kan_linear, network, tensors):
    """The stack of peers with one head's weights."""
    peers = []
    for index, layer in enumerate(network.layers):
        peer = peer_of(kan_linear, layer.inputs, layer.outputs, layer.grid, layer.scaler)
        weight = tensors[f"layers.{index}.weight"]
        if weight.dtype == torch.float64:
            peer = in_float64(peer, layer.grid)
        width = layer.grid.intervals + layer.grid.order
        spline, base = weight[: layer.inputs * width], weight[layer.inputs * width :]
        with torch.no_grad():
            peer.spline_weight.copy_(spline.view(layer.inputs, width, layer.outputs).permute(2, 0, 1))
            peer.base_weight.copy_(base.T)
            if layer.scaler:
                peer.spline_scaler.copy_(tensors[f"layers.{index}.scaler"].T)
        peers.append(peer)
    return torch.nn.Sequential(*peers)


@pytest.mark.parametrize("scaler", [True, False])
@pytest.mark.parametrize(
    ("inputs", "options"),
    [(768, {}), (24, {"hidden": (5, 4), "grid": 9, "order": 2, "grid_range": (-3, 3)}), (8, {"init": "project"})],
)
def test_outputs_equal_efficient_kans_with_the_same_weights(kan_linear, scaler, inputs, options):
    config, network = head(inputs, 2, spline_scaler=scaler, **options)
    single = start(config, network)
    # Spline weights of the size that training gives them, so that the splines count.
    single = {name: t + 0.1 * torch.randn(t.shape) for name, t in single.items()}
    x = torch.randn(50, inputs)
    found = network_forward(network, x.unsqueeze(0), stack([single]))[0]
    expected = copied(kan_linear, network, single)(x)
    assert expected.std() > 0.03
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())
    wide = {name: tensor.double() for name, tensor in single.items()}
    found = network_forward(network, x.double().unsqueeze(0), stack([wide]))[0]
    torch.testing.assert_close(found, copied(kan_linear, network, wide)(x.double()), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scaler", [True, False])
def test_a_packs_heads_are_each_their_own_efficient_kan(kan_linear, scaler):
    singles, network = [], None
    for seed in range(3):
        config, network = head(7, 3, seed=seed, spline_scaler=scaler, hidden=(4,))
        singles.append(start(config, network))
    x = torch.rand(3, 20, 7) * 2 - 1
    found = network_forward(network, x, stack(singles))
    for place, single in enumerate(singles):
        torch.testing.assert_close(found[place], copied(kan_linear, network, single)(x[place]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_package_start_is_efficient_kans_fit_through_noise(kan_linear, order):
    grid = Grid(-1, 1, 5, order)
    layer = LayerSpec(40, 30, (Branch("b_spline"), Branch("silu")), grid, scaler=True)
    found = FAMILY.initialize(layer, Draw(torch.Generator().manual_seed(5)))
    width = grid.intervals + order
    spline = found["weight"][: 40 * width].view(40, width, 30).double()
    knots = torch.linspace(-1, 1, 6, dtype=torch.float64)
    noise = torch.einsum("gk,iko->gio", b_spline(knots, grid), spline)
    # The curve goes through the noise at the knots: uniform on plus and minus 0.1 / 2 / intervals ...
    bound = 0.5 * 0.1 / grid.intervals
    assert noise.abs().max() <= bound * (1 + 1e-5)
    assert noise.abs().max() > 0.99 * bound
    assert noise.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.03)
    # ... and the peer, given that noise, finds the same coefficients.
    peer = in_float64(peer_of(kan_linear, 40, 30, grid), grid)
    expected = peer.curve2coeff(knots.unsqueeze(1).expand(-1, 40), noise).permute(1, 2, 0)
    torch.testing.assert_close(spline, expected, rtol=0, atol=2e-8)
