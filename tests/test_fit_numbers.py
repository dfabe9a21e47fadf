"""The numbers of packs on processors: gradients against float64, the optimiser against torch's, packs against heads."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.fit.engine import Epoch
from pipeline.fit.native_engine import NativeEngine
from pipeline.fit.predict import FirstLayer, outputs
from pipeline.fit.split import replicate
from pipeline.fit.train import train_pack
from pipeline.heads.families import build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.initialization import stack, start
from pipeline.heads.resolve import resolve
from tests.helpers.synthetic_caches import fit_data

CPU = torch.device("cpu")
FAMILIES = ("linear", "mlp", "effi_kan", "fast_kan", "faster_kan", "fourier_kan", "cheby_kan", "bspline_mlp")


def engine_of(head, *, heads=1, inputs=10, rows=40, **options):
    defaults = {"hidden": [12], "batch_size": rows, "clip": float("inf"), "weight_decay": 0.0, "scale": "none"}
    configs = [
        resolve(head, seed=seed, features="mean", options={"lr": 1e-3} | defaults | options) for seed in range(heads)
    ]
    network = build_network(configs[0], inputs, 3)
    tensors = stack([start(config, network) for config in configs])
    x = torch.randn(rows, inputs) * 0.7
    y = torch.randint(0, 3, (rows,))
    return NativeEngine(network, tensors, configs, FirstLayer(network, x.numpy(), CPU), y), tensors, x, y


def whole(rows, number, of):
    return Epoch(torch.arange(rows)[None], torch.tensor([0]), rows, number, of)


def loss64(network, leaves, x, y):
    return functional.cross_entropy(network_forward(network, x.double()[None], leaves)[0], y)


@pytest.mark.parametrize("rows", [4, 40])
@pytest.mark.parametrize("head", [*FAMILIES, "effi_kan with scaler"])
def test_gradients_equal_autograd_in_float64(head, rows):
    head, _, scaler = head.partition(" with ")
    assert_gradients(head, rows=rows, spline_scaler=bool(scaler))


def assert_gradients(head, **options):
    """After one step from zero the first moment is a tenth of the gradient, whichever way that was formed."""
    engine, tensors, x, y = engine_of(head, **options)
    leaves = {name: tensor.double().requires_grad_() for name, tensor in tensors.items()}
    expected = torch.autograd.grad(loss64(engine.network, leaves, x, y), list(leaves.values()))
    engine.run(whole(len(x), 0, 10))
    norm = torch.stack([one.norm() for one in expected]).norm()
    for name, gradient in zip(leaves, expected, strict=True):
        found = engine._state[name]["first"][..., : gradient.shape[-1]].double() / (1 - np.float32(0.9).item())
        assert (found - gradient).norm() <= 1e-5 * norm, name


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("ensemble_kan", {"rows": 1, "hidden": [22]}),
        ("ensemble_kan", {"rows": 9, "hidden": [22], "inputs": 1}),
        ("ensemble_kan", {"rows": 17, "hidden": [22], "inputs": 7, "spline_scaler": True}),
        ("ensemble_kan", {"rows": 129, "hidden": [37], "inputs": 33, "order": 2, "grid": 4}),
        ("fast_kan", {"rows": 70, "hidden": [24, 40], "centres": 11}),
        ("fast_kan", {"rows": 64, "hidden": [20], "centres": 3, "inputs": 49}),
        ("faster_kan", {"rows": 33, "hidden": [18], "centres": 65}),
        ("faster_kan", {"rows": 16, "hidden": [300], "centres": 7, "sharpness": 6.0}),
        ("effi_kan", {"rows": 50, "hidden": [23], "layer_norm": True, "order": 5}),
        ("effi_kan", {"rows": 50, "hidden": [18], "layer_norm": True, "order": 1, "base": "identity"}),
        ("fourier_kan", {"rows": 65, "hidden": [20], "layer_norm": True, "grid": 3}),
        ("cheby_kan", {"rows": 65, "hidden": [20], "layer_norm": True, "order": 5, "base": "silu"}),
    ],
)
def test_gradients_of_odd_shapes_equal_autograd_in_float64(head, options):
    """Rows, columns and functions that fill no vector, tiles of one input, and inputs far from the grid."""
    assert_gradients(head, **options)


@pytest.mark.parametrize("rows", [4, 40])
def test_a_hundred_steps_equal_torchs_adamw(rows):
    """In float64, with the recipe's clipping, decay and schedule; the differences are of single precision."""
    settings = {"clip": 0.05, "weight_decay": 0.1, "lr": 1e-3, "spline_scaler": True}
    engine, tensors, x, y = engine_of("effi_kan", rows=rows, **settings)
    leaves = {name: tensor.double().requires_grad_() for name, tensor in tensors.items()}
    optimiser = torch.optim.AdamW(leaves.values(), lr=1e-3, weight_decay=0.1)
    for step in range(100):
        engine.run(whole(rows, step, 100))
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1 - step / 100)
        optimiser.zero_grad()
        loss64(engine.network, leaves, x, y).backward()
        torch.nn.utils.clip_grad_norm_(leaves.values(), 0.05)
        optimiser.step()
    for name, expected in leaves.items():
        difference = (engine.tensors[name].double() - expected).norm() / expected.norm()
        assert difference <= 1e-5, (name, float(difference))


def test_a_head_in_a_pack_of_512_is_the_head_alone():
    data = fit_data("three", rows=100)
    options = {"epochs": 1, "batch_size": 16, "hidden": [6]}
    configs = [
        resolve("effi_kan", seed=seed % 64, features="mean", options=options | {"lr": 1e-3 * (1 + seed // 64)})
        for seed in range(512)
    ]
    pack = train_pack(configs, data, CPU)
    for place in (0, 200, 511):
        (alone,) = train_pack([configs[place]], data, CPU)
        theirs = alone.outputs["validation"]
        assert np.abs(pack[place].outputs["validation"] - theirs).max() <= 1e-3 * theirs.std()


def test_the_engines_outputs_are_those_of_plain_pytorch_on_rows_of_each_head():
    engine, *_ = engine_of("fast_kan", heads=3, rows=150)
    rows = torch.stack([torch.randperm(150)[:70] for _ in range(3)])
    for asked in (rows, rows[0]):
        expected = outputs(engine.network, engine.tensors, engine.source, asked)
        torch.testing.assert_close(engine.outputs(engine.source, asked), expected, rtol=1e-4, atol=1e-5)


def test_as_many_rows_are_held_out_for_every_seed():
    for kind in ("sum", "three", "number"):
        data = fit_data(kind, rows=97)
        assert len({len(replicate(data, seed, "clean").selection) for seed in range(20)}) == 1


def test_an_interrupted_engine_stops_within_a_step():
    engine, *_ = engine_of("mlp")
    engine._stop[0] = 1
    before = {name: tensor.clone() for name, tensor in engine.tensors.items()}
    engine.run(whole(40, 0, 10))
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.tensors.items())
