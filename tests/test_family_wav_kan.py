"""`wav_kan` against the formula of its paper, in float64."""

import math

import pytest
import torch

from pipeline.heads.families import build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.initialization import start
from pipeline.heads.resolve import resolve


def made(**options):
    config = resolve("wav_kan", seed=3, features="pooled", options={"hidden": (4,), **options})
    network = build_network(config, 5, 3)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor.double() + 0.2 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in start(config, network).items()
    }
    return network, tensors, torch.randn(7, 5, generator=generator, dtype=torch.float64)


def psi(u):
    return 2 / (math.sqrt(3) * math.pi ** (1 / 4)) * (u * u - 1) * math.exp(-0.5 * u * u)


def layer(x, tensors, prefix, base):
    inputs, outputs = tensors[prefix + "translation"].shape
    y = torch.zeros(len(x), outputs, dtype=torch.float64)
    for row in range(len(x)):
        for o in range(outputs):
            for i in range(inputs):
                u = (x[row, i] - tensors[prefix + "translation"][i, o]) / tensors[prefix + "scale"][i, o]
                y[row, o] += tensors[prefix + "weight"][i, o] * psi(u.item())
                if base == "silu":
                    silu = x[row, i] / (1 + math.exp(-x[row, i]))
                    y[row, o] += tensors[prefix + "weight"][inputs + i, o] * silu
    return y


@pytest.mark.parametrize("base", ["zero", "silu"])
def test_logits_are_the_papers_formula(base):
    network, tensors, x = made(base=base)
    expected = layer(layer(x, tensors, "layers.0.", base), tensors, "layers.1.", base)
    pack = {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}
    torch.testing.assert_close(network_forward(network, x.unsqueeze(0), pack)[0], expected)


def test_every_edge_trains_its_translation_and_scale():
    network, tensors, x = made()
    names = list(tensors)
    leaves = [tensors[name].unsqueeze(0).requires_grad_() for name in names]
    assert torch.autograd.gradcheck(
        lambda *values: network_forward(network, x.unsqueeze(0), dict(zip(names, values, strict=True))), leaves
    )
