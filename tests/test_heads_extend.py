"""Grid extension: what stays exactly as it is, what is refitted, and how well."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from pipeline.errors import ConfigError
from pipeline.heads.extend import extend_grid
from pipeline.heads.families import build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.initialization import stack, start
from pipeline.heads.resolve import resolve


def head(family, **options):
    options = {"hidden": (), "grid_range": (-2, 2)} | options
    config = resolve(family, seed=0, features="pooled", options=options)
    network = build_network(config, 6, 3)
    return network, {n: t + 0.5 * torch.randn(t.shape) for n, t in start(config, network).items()}


def outputs(network, tensors, x):
    return network_forward(network, x.unsqueeze(0), stack([tensors]))[0]


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_a_nested_grid_leaves_the_function_inside_it_unchanged(intervals, times, order):
    network, tensors = head("effi_kan", grid=intervals, order=order, spline_scaler=True)
    x = torch.rand(300, 6) * 4 - 2
    found = extend_grid(tensors, network, intervals * times)
    assert found.nested
    assert {name: tuple(t.shape) for name, t in found.tensors.items()} == found.network.shapes()
    before = outputs(network, tensors, x)
    assert (outputs(found.network, found.tensors, x) - before).abs().max() <= 1e-5 * max(1, before.abs().max().item())


@pytest.mark.parametrize("family", ["effi_kan", "bspline_mlp", "ensemble_kan", "fourier_kan"])
@pytest.mark.parametrize("packed", [False, True])
def test_five_to_ten_leaves_every_familys_function_unchanged(family, packed):
    # Deep heads too, as long as hidden values stay inside the grid.
    network, tensors = head(family, grid=5, hidden=(4,) if family != "effi_kan" else (), grid_range=(-60, 60))
    x = torch.randn(200, 6)
    before = outputs(network, tensors, x)
    given = {name: tensor.unsqueeze(0) for name, tensor in tensors.items()} if packed else tensors
    found = extend_grid(given, network, 10)
    after = {name: tensor[0] for name, tensor in found.tensors.items()} if packed else found.tensors
    assert found.nested
    assert before.std() > 0.1
    assert (outputs(found.network, after, x) - before).abs().max() <= 1e-5 * max(1, before.abs().max().item())
    grown = {"bspline_mlp": "layers.1.unit", "fourier_kan": "layers.0.weight"}.get(family, "layers.0.weight")
    assert found.tensors[grown].numel() > tensors[grown].numel()
    assert all(torch.equal(after[n], t) for n, t in tensors.items() if "weight" not in n and n != grown)


@pytest.mark.parametrize(("intervals", "order"), [(7, 3), (4, 3), (3, 2), (9, 5)])
def test_other_grids_are_the_least_squares_fit(intervals, order):
    network, tensors = head("effi_kan", grid=5, order=order, base="zero")
    found = extend_grid(tensors, network, intervals)
    assert not found.nested
    x = np.linspace(-2, 2, 4001)[:-1]
    knots = [-2 + (np.arange(n + 2 * order + 1) - order) * 4 / n for n in (5, intervals)]
    design = [BSpline.design_matrix(x, t, order).toarray() for t in knots]
    old = tensors["layers.0.weight"].view(6, 5 + order, 3).double().numpy()
    new = found.tensors["layers.0.weight"].view(6, intervals + order, 3).double().numpy()
    for i in range(6):
        curve = design[0] @ old[i]
        best = design[1] @ np.linalg.lstsq(design[1], curve, rcond=None)[0]
        error, least = np.sqrt(((design[1] @ new[i] - curve) ** 2).mean()), np.sqrt(((best - curve) ** 2).mean())
        assert least > 1e-6
        assert error <= 1.01 * least


def test_a_grid_that_stays_keeps_its_weights():
    network, tensors = head("effi_kan")
    found = extend_grid(tensors, network, 5)
    assert found.nested
    assert found.network == network
    torch.testing.assert_close(found.tensors["layers.0.weight"], tensors["layers.0.weight"], rtol=1e-5, atol=1e-6)


def test_what_cannot_be_extended_says_so():
    network, tensors = head("fast_kan")
    with pytest.raises(ConfigError, match="expected a head with a grid"):
        extend_grid(tensors, network, 5)
    network, tensors = head("effi_kan")
    with pytest.raises(ConfigError, match="`grid`: expected at least 1 interval, found 0"):
        extend_grid(tensors, network, 0)
