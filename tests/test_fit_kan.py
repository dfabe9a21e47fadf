"""The family `kan`: our evaluation against pykan's own, what it leaves alone, and the way through the commands."""

import os
import random
import threading

import numpy as np
import pytest
import torch

import pipeline
from pipeline.errors import ConfigError
from pipeline.explain.mixed import attribution
from pipeline.fit.kan_forward import edge_values, forward, layer_of, penalty, start, update_grids
from pipeline.fit.kan_train import optimise, train_kan
from pipeline.fit.pykan_adapter import pykan_network, to_pykan
from pipeline.heads.resolve import resolve
from pipeline.sweep.results import Results
from tests.helpers.synthetic_caches import fit_data, write_cache

X = torch.from_numpy(np.random.default_rng(0).uniform(-1.2, 1.2, (300, 3)))


@pytest.fixture(scope="module")
def tensors():
    """A network whose grids have moved and one of whose edges is pruned."""
    found = update_grids(start((3, 4, 2), 5, 3, (-1, 1), 7), X)
    found["layers.0.mask"] = found["layers.0.mask"].clone()
    found["layers.0.mask"][1, 2] = 0
    return found


def test_values_penalty_and_importance_are_pykans(tensors):
    network = to_pykan(tensors)
    torch.testing.assert_close(forward(tensors, X).float(), network(X.float()), atol=2e-6, rtol=1e-5)
    outputs, size = penalty(tensors, X, 2.0)
    torch.testing.assert_close(outputs, forward(tensors, X))
    expected = network.get_reg("edge_forward_spline_n", 1.0, 2.0, 0.0, 0.0)
    assert float(size) == pytest.approx(float(expected.detach()), rel=1e-5)
    network.attribute()
    edges, nodes = attribution(edge_values(tensors, X))
    for own, theirs in zip(edges, network.edge_scores, strict=True):
        torch.testing.assert_close(own.T.float(), theirs, atol=1e-5, rtol=1e-4)
    for own, theirs in zip(nodes, network.node_scores, strict=True):
        torch.testing.assert_close(own.float(), theirs, atol=1e-5, rtol=1e-4)


def test_starts_are_pykans():
    for seed in (0, 5):
        own, network = start((3, 4, 2), 5, 3, (-2, 1), seed), pykan_network((3, 4, 2), 5, 3, (-2, 1), seed)
        for index, layer in enumerate(network.act_fun):
            for name, tensor in layer_of(own, index).items():
                torch.testing.assert_close(tensor.float(), getattr(layer, name).detach(), atol=2e-7, rtol=1e-5)


def test_grids_move_as_pykans():
    first = start((3, 4, 2), 5, 3, (-1, 1), 1)
    network = to_pykan(first)
    network.update_grid(X.float())
    moved = update_grids(first, X)
    for index, layer in enumerate(network.act_fun):
        torch.testing.assert_close(moved[f"layers.{index}.grid"].float(), layer.grid.data, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(forward(moved, X).float(), network(X.float()), atol=1e-4, rtol=1e-4)


def test_gradients_of_values_and_penalty(tensors):
    names = [name for name in tensors if name.split(".")[-1] in ("coef", "scale_base", "scale_sp")]
    weights = [tensors[name].clone().requires_grad_() for name in names]

    def both(*changed):
        return penalty({**tensors, **dict(zip(names, changed, strict=True))}, X[:25], 2.0)

    assert torch.autograd.gradcheck(both, weights)


def test_inputs_that_do_not_vary_are_harmless():
    x = X.clone()
    x[:, 1] = 0.25
    moved = update_grids(start((3, 4, 2), 5, 3, (-1, 1), 1), x)
    assert bool(forward(moved, x).isfinite().all())


def test_global_state_and_folders_stay_as_they_are(tmp_path, monkeypatch):
    import matplotlib as mpl

    monkeypatch.chdir(tmp_path)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), dict(mpl.rcParams)
    to_pykan(start([2, 3, 1], 4, 3, (-1, 1), 11))
    pykan_network([2, 3, 1], 4, 3, (-1, 1), 11)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert dict(mpl.rcParams) == before[3]
    assert torch.get_default_dtype() == torch.float32
    assert os.listdir(tmp_path) == []


def config(**options):
    seed = options.pop("seed", 0)
    return resolve("kan", seed=seed, features="pooled", options={"hidden": (3,), "epochs": 8} | options)


@pytest.mark.parametrize("kind", ["xor", "number"])
def test_lbfgs_learns_what_a_line_cannot(kind):
    done = train_kan(config(epochs=12), fit_data(kind, width=3, rows=300))
    assert done.diverged_at is None
    assert len(done.curve) == 12
    if kind == "xor":
        assert done.metrics["validation"]["accuracy"] > 0.9
    else:
        assert done.metrics["validation"]["r2"] > 0.9
        assert done.outputs["validation"].mean() == pytest.approx(40, abs=5)


def test_several_at_once_are_the_same_as_one_after_another():
    data = fit_data("sum", width=3)
    configs = [config(seed=seed, epochs=3) for seed in range(3)]
    alone = [train_kan(one, data) for one in configs]
    found = {}
    threads = [
        threading.Thread(target=lambda one=one: found.update({one.seed: train_kan(one, data)})) for one in configs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in alone:
        np.testing.assert_array_equal(found[one.config.seed].outputs["validation"], one.outputs["validation"])
    assert not np.array_equal(alone[0].outputs["validation"], alone[1].outputs["validation"])


def test_options_are_honoured():
    data = fit_data("sum", width=3)
    done = train_kan(config(hidden=(4, 2), grid=3, order=2, optimiser="adam", lamb=0.01, batch_size=50), data)
    assert done.tensors["layers.0.coef"].shape == (3, 4, 5)
    assert done.tensors["layers.2.coef"].shape == (2, 2, 5)
    assert done.parameters == sum(t.numel() for n, t in done.tensors.items() if n.split(".")[-1][0] in "cs")
    assert done.config.lr == 0.01
    assert config().lr == 1.0
    for wrong in ({"optimiser": "sgd"}, {"lamb": -1.0}, {"lamb_entropy": float("inf")}, {"epochs": 0}):
        with pytest.raises(ConfigError):
            config(**wrong)


def test_the_penalty_makes_edges_small():
    x, y = X[:100, :2], torch.sin(2 * X[:100, :1])
    first = start((2, 3, 1), 5, 3, (-1, 1), 0)
    free, bound = (optimise(first, x, lambda o: ((o - y) ** 2).mean(), steps=8, lamb=lamb) for lamb in (0.0, 0.02))
    assert float(penalty(bound, x, 2.0)[1]) < 0.6 * float(penalty(free, x, 2.0)[1])


def test_through_the_commands(tmp_path):
    write_cache(tmp_path / "cache", width=4)
    places = {"cache": tmp_path / "cache", "results": tmp_path / "runs/results.sqlite"}
    done = pipeline.fit("rte", head="kan", encoder="tiny", hidden=[3], epochs=4, **places)
    assert done.config["optimiser"] == "lbfgs"
    head = pipeline.load_head(done.id, results=places["results"])
    with pipeline.open_cache(tmp_path / "cache/tiny/rte.h5") as cache, Results(places["results"]) as store:
        again = head.predict(np.asarray(cache["validation"]["pooled"]))
        np.testing.assert_array_equal(again, store.outputs(done.id, "validation"))
    assert not pipeline.fit("rte", head="kan", encoder="tiny", hidden=[3], epochs=4, **places).trained
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "runs"]


def test_too_wide_is_said_before_anything_trains(tmp_path):
    write_cache(tmp_path / "cache", width=17)
    with pytest.raises(ConfigError, match="at most 16 wide, found 17; use `features='reduced'`"):
        pipeline.sweep(
            task=["rte"],
            head=["linear", "kan"],
            encoder=["tiny"],
            cache=tmp_path / "cache",
            results=tmp_path / "r.sqlite",
        )
