"""Bases: what every basis promises, and direct transcriptions of the simple ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from torch.nn import functional

from pipeline.heads.bases import EXPANSIONS, b_spline, radial, switch
from pipeline.heads.network import BASES, Grid

lows = st.floats(-5, 5)
spans = st.floats(0.2, 10)
grids = st.builds(
    lambda low, span, intervals, order: Grid(low, low + span, intervals, order),
    lows, spans, st.integers(1, 12), st.integers(1, 5),
)  # fmt: skip


def knots(grid):
    """The uniform knots low + (j - k) h in float64."""
    step = (grid.high - grid.low) / grid.intervals
    return grid.low + (np.arange(grid.intervals + 2 * grid.order + 1) - grid.order) * step


@given(grids)
@settings(max_examples=25, deadline=None)
def test_b_splines_sum_to_one_inside_and_vanish_outside(grid):
    inside = torch.linspace(grid.low, grid.high, 101, dtype=torch.float64)
    bases = b_spline(inside, grid)
    assert bases.shape == (101, grid.intervals + grid.order)
    assert bases.min() >= -1e-14
    torch.testing.assert_close(bases.sum(-1), torch.ones(101, dtype=torch.float64), rtol=0, atol=1e-12)
    first, last = knots(grid)[[0, -1]]
    outside = torch.tensor([first - 1e-6, first - 3, last + 1e-6, last + 3, -1e9, 1e9], dtype=torch.float64)
    assert b_spline(outside, grid).abs().max() == 0


@given(grids)
@settings(max_examples=25, deadline=None)
def test_b_splines_equal_scipys(grid):
    t, order = knots(grid), grid.order
    x = np.linspace(t[0] + 1e-9, t[-1] - 1e-9, 97)
    expected = np.stack(
        [BSpline.basis_element(t[j : j + order + 2], extrapolate=False)(x) for j in range(len(t) - order - 1)], -1
    )
    found = b_spline(torch.from_numpy(x), grid).numpy()
    np.testing.assert_allclose(found, np.nan_to_num(expected), rtol=0, atol=1e-11)


@given(grids, st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_b_splines_have_the_right_gradient(grid, seed):
    step = (grid.high - grid.low) / grid.intervals
    cells = torch.randint(-grid.order, grid.intervals + grid.order, (6,), generator=torch.manual_seed(seed))
    # Away from the knots, where splines of order 1 have none.
    x = grid.low + (cells + 0.05 + 0.9 * torch.rand(6, dtype=torch.float64)) * step
    assert torch.autograd.gradcheck(lambda x: b_spline(x, grid), (x.requires_grad_(),), eps=1e-6 * step, rtol=1e-4)


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_a_splines_gradient_at_its_own_knots_and_centre(order):
    grid = Grid(-1, 1, 5, order)
    t = knots(grid)
    x = torch.from_numpy(np.sort(np.concatenate([t, (t[1:] + t[:-1]) / 2]))).requires_grad_()
    for j in range(grid.intervals + order):
        found = torch.autograd.grad(b_spline(x, grid)[:, j].sum(), x)[0].numpy()
        piece = BSpline.basis_element(t[j : j + order + 2], extrapolate=False).derivative()
        expected = np.nan_to_num(piece(x.detach().numpy()))
        # On the outermost knots of an order-2 spline SciPy's one-sided value is 0 as well.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_float32_splines_are_as_good_as_float32_allows():
    grid = Grid(-3, 3, 20, 5)
    x = torch.linspace(-3.5, 3.5, 5001, dtype=torch.float64)
    assert (b_spline(x.float(), grid) - b_spline(x, grid)).abs().max() < 2e-6


@given(lows, spans, st.integers(2, 12), st.floats(0.1, 3))
@settings(max_examples=25, deadline=None)
def test_radial_and_switch_are_their_formulas(low, span, count, sharpness):
    grid = Grid(low, low + span, centres=count, sharpness=sharpness)
    x = np.random.default_rng(0).normal(size=(7, 3)) * 3
    centres = np.array([low + span * j / (count - 1) for j in range(count)])
    away = x[..., None] - centres
    width = span / (count - 1)
    np.testing.assert_allclose(radial(torch.from_numpy(x), grid), np.exp(-((away / width) ** 2)), rtol=0, atol=1e-12)
    expected = 1 - np.tanh(away * sharpness) ** 2
    np.testing.assert_allclose(switch(torch.from_numpy(x), grid), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis", ["radial", "switch"])
def test_radial_and_switch_have_the_right_gradient(basis):
    x = torch.randn(9, dtype=torch.float64, requires_grad=True)
    grid = Grid(-1.2, 0.2, centres=8, sharpness=0.5)
    assert torch.autograd.gradcheck(lambda x: EXPANSIONS[basis](x, grid), (x,))


def test_the_original_packages_widths_follow_from_their_ranges():
    x = torch.zeros(1, dtype=torch.float64)
    assert math.isclose(radial(x, Grid(-2, 2, centres=8))[0, 0], math.exp(-((2 / (4 / 7)) ** 2)), rel_tol=1e-12)
    assert math.isclose(switch(x, Grid(-1.2, 0.2, centres=8))[0, 1], 1 - math.tanh(1.0) ** 2, rel_tol=1e-12)


def test_every_basis_has_the_width_it_declares():
    assert set(EXPANSIONS) == set(BASES)
    grid = Grid(-2, 1, 7, 4, 6)
    for name, expansion in EXPANSIONS.items():
        assert expansion(torch.randn(5, 3), grid).shape == (5, 3, BASES[name].width(grid)), name


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "tanh", "sigmoid"])
def test_pointwise_bases_are_torchs_functions(name):
    x = torch.randn(5, 3)
    expected = getattr(torch, name)(x) if hasattr(torch, name) else getattr(functional, name)(x)
    assert torch.equal(EXPANSIONS[name](x, Grid()), expected.unsqueeze(-1))
