"""Every family against a transcription of its formula in float64: outputs, and gradients of weights and inputs.

The references keep the original packages' layouts and share nothing with the project's code.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.heads.families import ACTIVATIONS, PACKABLE, build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.initialization import stack, start
from pipeline.heads.resolve import resolve

INPUTS, CLASSES, ROWS = 7, 3, 12


def cox_de_boor(x, low, high, intervals, order):
    """The recursion of de Boor 1978 on uniform knots: [..., intervals + order]."""
    step = (high - low) / intervals
    t = low + (torch.arange(intervals + 2 * order + 1, dtype=x.dtype) - order) * step
    x = x.unsqueeze(-1)
    bases = ((x >= t[:-1]) & (x < t[1:])).to(x.dtype)
    for k in range(1, order + 1):
        left = (x - t[: -(k + 1)]) / (t[k:-1] - t[: -(k + 1)])
        right = (t[k + 1 :] - x) / (t[k + 1 :] - t[1:-k])
        bases = left * bases[..., :-1] + right * bases[..., 1:]
    return bases


ACTIVATED = {
    "relu": torch.relu, "square_relu": lambda x: torch.relu(x) ** 2, "gelu": functional.gelu, "silu": functional.silu,
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "identity": lambda x: x,
    "polynomial2": lambda x, c: c[0] + c[1] * x + c[2] * x * x,
    "polynomial3": lambda x, c: c[0] + c[1] * x + c[2] * x * x + c[3] * x**3,
    "polynomial5": lambda x, c: c[0] + c[1] * x + c[2] * x * x + c[3] * x**3 + c[4] * x**4 + c[5] * x**5,
}  # fmt: skip
BASE = {"zero": None, "identity": lambda x: x, "silu": lambda x: x * torch.sigmoid(x)}


def edges(weight, inputs):
    """Weights [inputs * width, out] as [inputs, width, out]."""
    return weight.view(inputs, -1, weight.shape[1])


def layer_norm(x, layer):
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * layer["norm_scale"] + layer["norm_shift"]


def kan_layer(config, values, x, layer, base):
    """`sum_i sum_k w_oik phi_k(x_i)`, a base branch and a bias, from basis values [rows, inputs, width]."""
    count = values.shape[1] * values.shape[2]
    spline = edges(layer["weight"][:count], values.shape[1])
    if config.spline_scaler and "scaler" in layer:
        spline = spline * layer["scaler"].unsqueeze(1)
    y = torch.einsum("nik,iko->no", values, spline)
    if base != "zero":
        y = y + BASE[base](x) @ layer["weight"][count:]
    return y + layer.get("bias", 0)


def effi_kan(config, x, layer, first):  # noqa: ARG001
    z = layer_norm(x, layer) if config.layer_norm else x
    low, high = config.grid_range or (-1, 1)
    return kan_layer(config, cox_de_boor(z, low, high, config.grid, config.order), x, layer, config.base or "silu")


def fast_kan(config, x, layer, first):  # noqa: ARG001
    z = x if config.layer_norm is False else layer_norm(x, layer)
    low, high = config.grid_range or (-2, 2)
    width = (high - low) / (config.centres - 1)
    centres = torch.tensor([low + j * width for j in range(config.centres)], dtype=x.dtype)
    values = torch.exp(-(((z.unsqueeze(-1) - centres) / width) ** 2))
    return kan_layer(config, values, x, layer, config.base or "silu")


def faster_kan(config, x, layer, first):  # noqa: ARG001
    z = x if config.layer_norm is False else layer_norm(x, layer)
    low, high = config.grid_range or (-1.2, 0.2)
    centres = torch.tensor(np.linspace(low, high, config.centres))
    values = 1 - torch.tanh((z.unsqueeze(-1) - centres) * config.sharpness) ** 2
    return kan_layer(config, values, x, layer, config.base or "zero")


def fourier_kan(config, x, layer, first):  # noqa: ARG001
    z = layer_norm(x, layer) if config.layer_norm else x
    values = torch.stack(
        [torch.cos(g * z) for g in range(1, config.grid + 1)] + [torch.sin(g * z) for g in range(1, config.grid + 1)],
        -1,
    )
    return kan_layer(config, values, x, layer, config.base or "zero")


def cheby_kan(config, x, layer, first):  # noqa: ARG001
    z = layer_norm(x, layer) if config.layer_norm else x
    # T_n(cos a) = cos(n a), another formula than the recursion.
    angle = torch.acos(torch.tanh(z))
    values = torch.stack([torch.cos(n * angle) for n in range(config.order + 1)], -1)
    return kan_layer(config, values, x, layer, config.base or "zero")


def mlp(config, x, layer, first):
    if not first:
        x = layer_norm(x, layer) if config.layer_norm else x
        polynomial = config.activation.startswith("polynomial")
        x = ACTIVATED[config.activation](x, layer["unit"][0]) if polynomial else ACTIVATED[config.activation](x)
    return x @ layer["weight"] + layer["bias"]


def bspline_mlp(config, x, layer, first):
    if not first:
        z = layer_norm(x, layer) if config.layer_norm else x
        width = config.grid + config.order
        values = cox_de_boor(z, *config.grid_range, config.grid, config.order)
        y = torch.einsum("nuk,uk->nu", values, layer["unit"][:, :width])
        if config.activation.startswith("polynomial"):
            y = y + ACTIVATED[config.activation](x, layer["unit"][:, width:].T)
        elif config.activation != "none":
            y = y + layer["unit"][:, width] * ACTIVATED[config.activation](x)
        x = y
    return x @ layer["weight"] + layer["bias"]


def linear(config, x, layer, first):  # noqa: ARG001
    return x @ layer["weight"] + layer["bias"]


def reference(config, x, tensors, depth):
    """The whole network; ensemble_kan is the sum of three."""

    def run(one, from_layer):
        y = x
        for index in range(depth):
            prefix = f"layers.{from_layer + index}."
            layer = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            y = one(config, y, layer, index == 0)
        return y

    if config.head == "ensemble_kan":
        return run(effi_kan, 0) + run(fast_kan, depth) + run(faster_kan, 2 * depth)
    return run(globals()[config.head], 0)


def made(family, protocol="clean", **options):
    config = resolve(family, seed=1, features="pooled", protocol=protocol, options={"hidden": (5, 4)} | options)
    network = build_network(config, INPUTS, CLASSES)
    tensors = start(config, network)
    generator = torch.Generator().manual_seed(0)
    shaken = {n: t.double() + 0.3 * torch.randn(t.shape, generator=generator).double() for n, t in tensors.items()}
    return config, network, shaken


CASES = [
    # A family with a basis of its own has a test file of its own.
    *(
        (family, protocol, {})
        for family in PACKABLE
        if not PACKABLE[family].bases
        for protocol in ("clean", "published")
    ),
    *(("mlp", "clean", {"activation": name}) for name in ACTIVATIONS),
    ("mlp", "clean", {"layer_norm": True, "activation": "silu"}),
    *(("bspline_mlp", "clean", {"activation": name}) for name in ACTIVATIONS),
    ("bspline_mlp", "clean", {"layer_norm": True, "grid": 3, "order": 2}),
    *(
        (family, "clean", {"base": base})
        for family in ("effi_kan", "fast_kan", "faster_kan", "fourier_kan", "cheby_kan", "ensemble_kan")
        for base in BASE
    ),
    *((family, "clean", {"layer_norm": True, "base": "silu"}) for family in ("effi_kan", "fourier_kan", "cheby_kan")),
    *((family, "clean", {"layer_norm": False}) for family in ("fast_kan", "faster_kan")),
    *(("effi_kan", "published", {"grid": 1 + 3 * order, "order": order}) for order in range(1, 6)),
    *(("cheby_kan", "clean", {"order": order, "hidden": (5,)}) for order in range(1, 6)),
    *(("fourier_kan", "clean", {"grid": grid, "hidden": ()}) for grid in (1, 2, 9)),
    ("ensemble_kan", "published", {"hidden": (4,), "sharpness": 0.5, "centres": 3, "grid": 2, "order": 1}),
    ("ensemble_kan", "clean", {"hidden": (), "spline_scaler": True}),
]


@pytest.mark.parametrize(("family", "protocol", "options"), CASES)
def test_a_family_is_its_formula_and_has_its_gradients(family, protocol, options):
    config, network, tensors = made(family, protocol, **options)
    depth = len(network.layers) // network.stacks
    x = torch.randn(ROWS, INPUTS, dtype=torch.float64)
    share = torch.randn(ROWS, CLASSES, dtype=torch.float64)
    results = []
    for forward in (
        lambda leaf, own: network_forward(network, leaf.unsqueeze(0), stack([own]))[0],
        lambda leaf, own: reference(config, leaf, own, depth),
    ):
        leaf, own = x.clone().requires_grad_(), {n: t.clone().requires_grad_() for n, t in tensors.items()}
        y = forward(leaf, own)
        results.append((y.detach(), torch.autograd.grad((y * share).sum(), [leaf, *own.values()])))
    (found, found_gradients), (expected, expected_gradients) = results
    assert expected.std() > 1e-3
    assert (found - expected).abs().max() <= 1e-9 * max(1, expected.abs().max().item())
    for name, one, other in zip(["x", *tensors], found_gradients, expected_gradients, strict=True):
        assert other.norm() > 0, name
        assert (one - other).norm() <= 1e-9 * other.norm(), name


@pytest.mark.parametrize("family", PACKABLE)
def test_gradcheck(family):
    _, network, tensors = made(family, hidden=(3,), grid=2, centres=3, order=2, layer_norm=None)
    x = torch.randn(1, 3, INPUTS, dtype=torch.float64, requires_grad=True)
    leaves = [tensor.unsqueeze(0).requires_grad_() for tensor in tensors.values()]

    def forward(x, *own):
        return network_forward(network, x, dict(zip(tensors, own, strict=True)))

    assert torch.autograd.gradcheck(forward, (x, *leaves), eps=1e-6, atol=1e-6)


def test_published_starts_of_the_later_families():
    def started(family, **options):
        config = resolve(family, seed=0, features="pooled", protocol="published", options=options)
        return start(config, build_network(config, 200, 2))

    fourier = started("fourier_kan")
    weight = fourier["layers.0.weight"]
    assert weight.std().item() == pytest.approx(1 / math.sqrt(200 * 5), rel=0.02)
    assert (weight.abs() > 3 / math.sqrt(200 * 5)).float().mean().item() == pytest.approx(0.0027, abs=0.001)
    assert not fourier["layers.0.bias"].any()
    assert started("cheby_kan")["layers.0.weight"].std().item() == pytest.approx(1 / (200 * 4), rel=0.02)
    spline = started("bspline_mlp")
    at_knots = cox_de_boor(torch.linspace(-1, 0.999999, 6), -1, 1, 5, 3) @ spline["layers.1.unit"].T
    assert 0.8 * 0.01 < at_knots.abs().max() < 1.01 * 0.01
    assert spline["layers.0.weight"].abs().max() <= 1 / math.sqrt(200)
    assert started("mlp", activation="polynomial5")["layers.1.unit"].shape == (1, 6)


def test_an_ensembles_stacks_start_as_their_packages():
    config = resolve("ensemble_kan", seed=0, features="pooled", protocol="published")
    network = build_network(config, 200, 2)
    found = start(config, network)
    assert [layer.grid.low for layer in network.layers] == [-1, -1, -2, -2, -1.2, -1.2]
    assert 0.003 < found["layers.0.weight"][: 200 * 8].std() < 0.02
    assert found["layers.2.weight"][: 200 * 8].std().item() == pytest.approx(0.1, rel=0.02)
    bound = math.sqrt(6 / (200 * 8 + 64))
    assert 0.98 * bound < found["layers.4.weight"].abs().max() <= bound
