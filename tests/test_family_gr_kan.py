"""`gr_kan` against the formula of its paper, in float64."""

import numpy as np
import pytest
import torch

from pipeline.heads.families import build_network
from pipeline.heads.families.gr_kan import INITIAL, SECOND_MOMENTS
from pipeline.heads.forward import network_forward
from pipeline.heads.initialization import start
from pipeline.heads.resolve import resolve


def made(inputs=16, **options):
    config = resolve("gr_kan", seed=3, features="pooled", options={"hidden": (10,), **options})
    network = build_network(config, inputs, 3)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor.double() + 0.2 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in start(config, network).items()
    }
    return network, tensors, torch.randn(7, inputs, generator=generator, dtype=torch.float64)


def layer(x, tensors, prefix):
    a, b = (tensors[prefix + name].numpy() for name in ("numerator", "denominator"))
    inputs, groups = x.shape[1], len(a)
    f = np.empty(x.shape)
    for i in range(inputs):
        group = i * groups // inputs
        p = np.polynomial.polynomial.polyval(x[:, i], a[group])
        q = np.polynomial.polynomial.polyval(x[:, i], [0, *b[group]])
        f[:, i] = p / (1 + np.abs(q))
    return f @ tensors[prefix + "weight"].numpy() + tensors[prefix + "bias"].numpy()


@pytest.mark.parametrize("inputs", [16, 5])
def test_logits_are_the_papers_formula(inputs):
    network, tensors, x = made(inputs)
    expected = layer(layer(x.numpy(), tensors, "layers.0."), tensors, "layers.1.")
    pack = {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}
    np.testing.assert_allclose(network_forward(network, x.unsqueeze(0), pack)[0].numpy(), expected, rtol=1e-10)


def test_groups_train_their_coefficients():
    network, tensors, x = made(hidden=(3,))
    assert tensors["layers.0.numerator"].shape == (8, 6)
    names = list(tensors)
    leaves = [tensors[name].unsqueeze(0).requires_grad_() for name in names]
    assert torch.autograd.gradcheck(
        lambda *values: network_forward(network, x.unsqueeze(0), dict(zip(names, values, strict=True))), leaves
    )


def test_first_coefficients_are_the_identity_and_silu():
    x = np.linspace(-3, 3, 61)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    for name, function in {"rational_identity": lambda x: x, "rational_silu": lambda x: x / (1 + np.exp(-x))}.items():
        a, b = INITIAL[name]
        values = np.polynomial.polynomial.polyval(x, a) / (1 + np.abs(np.polynomial.polynomial.polyval(x, [0, *b])))
        np.testing.assert_allclose(values, function(x), atol=1e-4)
        moment = (weights * function(nodes) ** 2).sum() / weights.sum()
        assert moment == pytest.approx(SECOND_MOMENTS[name], abs=1e-4)
