"""Knots that follow the data (`--update-grid`): as efficient-kan moves them, and what heads make of it."""

import importlib.util
import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.interpolate
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import fit_heads
import pipeline
from pipeline.errors import ConfigError
from pipeline.export.load import load_weights
from pipeline.export.write import export
from pipeline.fit import train
from pipeline.fit.data import FitData, Scaling
from pipeline.fit.engine import PlainEngine
from pipeline.fit.engines import choose_engine
from pipeline.fit.train import train_pack
from pipeline.heads.bases import b_spline, knot_spline
from pipeline.heads.config import identity
from pipeline.heads.cost import forward_flops, parameters
from pipeline.heads.extend import extend_grid
from pipeline.heads.families import build_network
from pipeline.heads.forward import network_forward
from pipeline.heads.knots import data_knots, even_knots, start_knots, update_grid
from pipeline.heads.network import Grid
from pipeline.heads.resolve import read_config, resolve
from pipeline.tasks import TASKS
from tests.helpers.synthetic_caches import write_cache

CPU = torch.device("cpu")


def config(head="effi_kan", seed=0, **options):
    given = {"hidden": (4,), "batch_size": 16, "epochs": 3, "update_grid": 2, "lr": 1e-2} | options
    return resolve(head, seed=seed, features="mean", options=given)


def data(rows=60, inputs=5):
    generator = np.random.default_rng(0)
    # Skewed, so that quantiles lie elsewhere than even knots.
    features = {s: generator.gumbel(size=(rows, inputs)).astype(np.float32) for s in ("train", "validation")}
    labels = {split: (x[:, 0] * x[:, 1] > 0).astype(np.int64) for split, x in features.items()}
    scaling = Scaling("none", np.zeros(inputs, np.float32), np.ones(inputs, np.float32))
    return FitData(TASKS["mrpc"], "f" * 64, features, labels, scaling)


@pytest.fixture(scope="module")
def kan_linear():
    """efficient-kan's `KANLinear`, from its file alone."""
    package = importlib.util.find_spec("kan_gpt")
    assert package is not None, "kan-gpt is not installed: pip install --no-deps kan-gpt==1.2.0 (make setup does it)"
    file = Path(package.submodule_search_locations[0]) / "efficient_kan" / "model.py"
    spec = importlib.util.spec_from_file_location("efficient_kan_model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.KANLinear


def random_head(scaler, heads=1, **options):
    """A network of float64 tensors [heads, ...] for 5 inputs, on even knots."""
    network = build_network(config(spline_scaler=scaler, **options), 5, 3)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(heads, *shape, generator=generator, dtype=torch.float64)
        for name, shape in network.shapes().items()
    }
    kept = {name: knots.double() for name, knots in start_knots(network, heads, CPU).items()}
    return network, tensors | kept


def peers(kan_linear, network, tensors, scaler, head=0):
    """The head as layers of efficient-kan."""
    found = []
    for index, layer in enumerate(network.layers):
        mine = {name.split(".")[-1]: t[head] for name, t in tensors.items() if name.startswith(f"layers.{index}.")}
        peer = kan_linear(
            layer.inputs, layer.outputs, grid_size=layer.grid.intervals, spline_order=layer.grid.order,
            enable_standalone_scale_spline=scaler, grid_range=[layer.grid.low, layer.grid.high],
        ).double()  # fmt: skip
        split = layer.inputs * layer.widths[0]
        spline = mine["weight"][:split].view(layer.inputs, -1, layer.outputs).permute(2, 0, 1)
        peer.spline_weight.data.copy_(spline)
        peer.base_weight.data.copy_(mine["weight"][split:].T)
        peer.grid = mine["knots"].clone()
        if scaler:
            peer.spline_scaler.data.copy_(mine["scaler"].T)
        found.append(peer)
    return found


@pytest.mark.parametrize(("order", "intervals"), [(3, 5), (1, 2), (5, 4)])
def test_knots_and_functions_are_efficient_kans(kan_linear, order, intervals):
    network, tensors = random_head(False, order=order, grid=intervals)
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    first, second = peers(kan_linear, network, tensors, False)
    first.update_grid(x)
    y = first(x)
    second.update_grid(y)
    expected = second(y).detach()
    update_grid(network, tensors, x, torch.tensor([True]))
    torch.testing.assert_close(tensors["layers.0.knots"][0], first.grid, rtol=0, atol=1e-6)
    torch.testing.assert_close(tensors["layers.1.knots"][0], second.grid, rtol=0, atol=1e-6)
    found = network_forward(network, x[None], tensors)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_in_float32_too(kan_linear):
    peer, x = kan_linear(5, 2), torch.randn(300, 5, generator=torch.Generator().manual_seed(3))
    peer.update_grid(x)
    torch.testing.assert_close(data_knots(x, Grid(-1.0, 1.0)), peer.grid, rtol=0, atol=1e-5)


def test_with_a_scaler_the_function_changes_as_least_squares_must():
    network, tensors = random_head(True)
    layer = network.layers[0]
    x = torch.randn(150, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    weight, scaler = tensors["layers.0.weight"][0].clone(), tensors["layers.0.scaler"][0].clone()
    before = even_knots(layer.grid, 5).double()
    update_grid(network, tensors, x, torch.tensor([True]))
    after = tensors["layers.0.knots"][0]
    assert torch.equal(tensors["layers.0.scaler"][0], scaler)
    width, moved, kept = layer.widths[0], tensors["layers.0.weight"][0], 0
    for i in range(5):
        rows = slice(i * width, (i + 1) * width)

        def basis(knots, i=i):
            columns = scipy.interpolate.BSpline(knots[i].numpy(), np.eye(width), 3, extrapolate=True)(x[:, i].numpy())
            inside = (x[:, i] >= knots[i, 3]) & (x[:, i] < knots[i, -4])
            return columns, inside.numpy()

        (old, seen), (new, all_seen) = basis(before), basis(after)
        assert all_seen.all()
        # Beyond the inner knots scipy goes on with polynomials; there the project's own splines stand in.
        old[~seen] = b_spline(x[:, i], layer.grid).numpy()[~seen]
        scaled = weight[rows].numpy() * scaler[i].numpy()
        expected = new @ np.linalg.lstsq(new, old @ scaled, rcond=None)[0]
        found = new @ (moved[rows].numpy() * scaler[i].numpy())
        np.testing.assert_allclose(found, expected, atol=1e-8)
        kept += np.abs(found - old @ scaled).mean() / np.abs(old @ scaled).mean() / 5
    assert kept < 0.2  # of random weights, whose splines are as rough as can be


def test_splines_on_even_knots_are_the_even_splines():
    x = torch.empty(50, 4, dtype=torch.float64).uniform_(-5, 5, generator=torch.Generator().manual_seed(5))
    for grid in (Grid(), Grid(-1.0, 2.0, 4, 1), Grid(-1.0, 2.0, 1, 5)):
        step = (grid.high - grid.low) / grid.intervals
        knots = torch.arange(-grid.order, grid.intervals + grid.order + 1, dtype=torch.float64) * step + grid.low
        found = knot_spline(x, knots.expand(4, -1), grid.order)
        torch.testing.assert_close(found, b_spline(x, grid), rtol=0, atol=1e-12)
    knots = torch.randn(2, 3, 12, dtype=torch.float64).sort(-1).values
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: knot_spline(x, knots, 3), (x,))


def test_an_input_that_does_not_vary_keeps_its_value():
    network, tensors = random_head(False)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(6))
    x[:, 1], x[:, 2] = 2.5, (x[:, 2] > 0).float()
    x[:, 3] = 1e6  # so large that knots coincide in float32
    first = {name: tensor.clone() for name, tensor in tensors.items()}
    update_grid(network, tensors, x, torch.tensor([True]))
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert not torch.equal(first["layers.0.knots"], tensors["layers.0.knots"])
    spline = slice(8, 24)
    values = [  # of the inputs 1 and 2, before and after
        torch.einsum(
            "niw,iwo->nio",
            knot_spline(x[:, 1:3], one["layers.0.knots"][0, 1:3], 3),
            one["layers.0.weight"][0, spline].unflatten(0, (2, 8)),
        )
        for one in (first, tensors)
    ]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-4)


def test_a_head_alone_is_its_head_in_a_pack(monkeypatch):
    calls = []
    own = train.update_grid
    monkeypatch.setattr(train, "update_grid", lambda *given: (calls.append(1), own(*given)))
    restarts = []
    resume = PlainEngine.resume
    monkeypatch.setattr(PlainEngine, "resume", lambda self, *given: (restarts.append(given[0]), resume(self, *given)))
    configs = [config(seed=0), config(seed=1, lr=3e-2), config(seed=1)]
    pack = train_pack(configs, data(), CPU)
    assert len(calls) == 2  # before the first two epochs of three
    assert restarts == [4]  # 54 rows in minibatches of 16
    for one, together in zip(configs, pack, strict=True):
        [alone] = train_pack([one], data(), CPU)
        assert alone.epoch == together.epoch
        for name, tensor in together.tensors.items():
            torch.testing.assert_close(tensor, alone.tensors[name], rtol=1e-4, atol=1e-5)
    knots = data_knots(torch.from_numpy(data().features["train"]), pack[0].network.layers[0].grid)
    for found in pack:
        torch.testing.assert_close(found.tensors["layers.0.knots"], knots)
    assert not torch.equal(pack[0].tensors["layers.1.knots"], pack[2].tensors["layers.1.knots"])
    shapes = {name: tuple(tensor.shape) for name, tensor in pack[0].tensors.items()}
    assert shapes == pack[0].network.shapes() | pack[0].network.buffers()


def test_what_is_trained_is_what_is_scored():
    """The outputs in the results are those of the kept weights on the kept knots."""
    for one in (config(), config(layer_norm=True), config("ensemble_kan"), config(hidden=(4, 3), spline_scaler=True)):
        [found] = train_pack([one], data(), CPU)
        x = torch.from_numpy(data().features["validation"])
        stacked = {name: tensor.unsqueeze(0) for name, tensor in found.tensors.items()}
        expected = network_forward(found.network, x[None], stacked)[0].numpy()
        np.testing.assert_allclose(found.outputs["validation"], expected, rtol=1e-4, atol=1e-5)
        assert found.network.buffers()


def test_a_head_that_diverged_stays_as_it_is():
    network, tensors = random_head(True, heads=2)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    update_grid(network, tensors, torch.randn(40, 5, dtype=torch.float64), torch.tensor([True, False]))
    for name, tensor in tensors.items():
        assert torch.equal(tensor[1], before[name][1])
    assert not torch.equal(tensors["layers.1.weight"][0], before["layers.1.weight"][0])


def test_options():
    plain = config(update_grid=0)
    assert plain == config(update_grid=None)
    assert "update_grid" not in plain.to_json()
    assert identity(plain, "f") != identity(config(), "f")
    assert read_config(config().to_json()) == config()
    assert choose_engine(build_network(config(), 5, 2), config(), CPU) is PlainEngine
    for head in ("mlp", "fast_kan", "bspline_mlp"):  # as any option that a family does not use
        assert config(head) == config(head, update_grid=0)
    with pytest.raises(ConfigError, match=r"^--update-grid: expected a number of epochs of at least 0, found -1$"):
        config(update_grid=-1)
    with pytest.raises(ConfigError, match=r"^--update-grid: expected 0 beside --grid-epochs"):
        config(grid=(5, 10), grid_epochs=(1, 2), epochs=None)
    network = build_network(config(), 5, 2)
    even = build_network(plain, 5, 2)
    assert parameters(network) == parameters(even)
    # By hand, for one input, 5 intervals and order 3: 24 to place x on 12 knots, 11 differences, 6 (10 + 9 + 8).
    per_input = 24 + 11 + 162
    closed = 2 + 8 * (2 + 2 * 6 - 1)
    assert forward_flops(network) - forward_flops(even) == (5 + 4) * (per_input - closed)
    with pytest.raises(ConfigError, match="expected a head on an even grid, found one whose knots follow the data"):
        extend_grid({}, network, 10)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("update")
    write_cache(root / "cache", width=6)
    command = (
        "run rte --head effi_kan --encoder tiny --update-grid 2 --epochs 3 --hidden 4 --scale none --device cpu "
        f"--spline-scaler --cache {root / 'cache'} --results {root / 'r.sqlite'} --json"
    )
    done = CliRunner().invoke(fit_heads.main, command.split())
    assert done.exit_code == 0, done.stderr
    with pipeline.open_cache(next((root / "cache").rglob("*.h5"))) as cache:
        features = np.asarray(cache["validation"]["pooled"][:])
    head = next(path.name for path in (root / "heads").iterdir())
    return root, pipeline.load_head(head, results=root / "r.sqlite"), features


def test_saved_and_exported_to_efficient_kan_and_back(kan_linear, trained, tmp_path):
    root, head, features = trained
    expected = head.predict(features)
    export(head.id, format="safetensors", out=tmp_path / "out", results=root / "r.sqlite")
    state = load_file(tmp_path / "out" / "model.safetensors")
    y = torch.from_numpy(features)
    for index, layer in enumerate(head.network.layers):
        assert not torch.allclose(state[f"layers.{index}.grid"][0], state[f"layers.{index}.grid"][1], atol=1e-3)
        peer = kan_linear(layer.inputs, layer.outputs)
        prefix = f"layers.{index}."
        peer.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        y = peer(y)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=0, atol=1e-5)
    back = load_weights(tmp_path / "out", results=tmp_path / "r.sqlite")
    again = pipeline.load_head(back.id, results=tmp_path / "r.sqlite")
    np.testing.assert_allclose(again.predict(features), expected, rtol=0, atol=1e-6)
    # The bare state dict, of which nothing is known but that its knots are its own.
    bare = load_weights(
        tmp_path / "out" / "model.safetensors", head="effi_kan", task="rte", encoder="tiny", cache=root / "cache",
        results=tmp_path / "r.sqlite",
    )  # fmt: skip
    found = pipeline.load_head(bare.id, results=tmp_path / "r.sqlite")
    np.testing.assert_allclose(found.predict(features), expected, rtol=0, atol=1e-6)


def test_exported_as_one_file_and_back(trained, tmp_path):
    root, head, features = trained
    export(head.id, format="torch", out=tmp_path / "out", results=root / "r.sqlite")
    module = runpy.run_path(str(tmp_path / "out" / "head.py"))["load"]()
    with torch.no_grad():
        found = module(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(found, head.predict(features), rtol=0, atol=1e-5)
    assert sum(p.numel() for p in module.parameters()) == head.parameters
    assert load_weights(tmp_path / "out", results=root / "r.sqlite").id == head.id


def test_an_even_heads_folder_with_an_updated_grid_is_refused(trained, tmp_path):
    root, head, _ = trained
    export(head.id, format="safetensors", out=tmp_path / "out", results=root / "r.sqlite")
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    del document["config"]["update_grid"]
    (tmp_path / "out" / "config.json").write_text(json.dumps(document))
    with pytest.raises(
        pipeline.errors.KanglueError, match="expected the even grid of config\\.json, found one that was"
    ):
        load_weights(tmp_path / "out", results=tmp_path / "r.sqlite")


def test_learned_functions_are_drawn_on_their_knots(trained):
    from pipeline.report.activations import learned_functions

    root, head, _ = trained
    found = learned_functions(root / "r.sqlite", head.id, "rte")
    knots = head.tensors["layers.0.knots"][:, 3:-3]
    assert found.grid[[0, -1]] == pytest.approx([knots.min().item(), knots.max().item()])
    edge = [int(part) for part in found.names[0].split(" → ")]
    network = replace(head.network, layers=head.network.layers[:1])
    x = torch.zeros(len(found.grid), 6)
    x[:, edge[0]] = torch.from_numpy(found.grid)
    first = {name: tensor.unsqueeze(0) for name, tensor in head.tensors.items() if name.startswith("layers.0.")}
    curve = network_forward(network, x[None], first)[0, :, edge[1]].numpy()
    np.testing.assert_allclose(found.curves[0], curve - curve.mean(), atol=1e-5)
