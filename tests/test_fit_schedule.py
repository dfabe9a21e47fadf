"""Grids that grow during training: as options, as stages, and what training makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.fit.data import FitData, Scaling
from pipeline.fit.optimiser import PackedAdamW
from pipeline.fit.train import train_pack
from pipeline.heads.resolve import read_config, resolve
from pipeline.heads.schedule import stages
from pipeline.sweep.spec import product_from
from pipeline.tasks import TASKS


def config(head="effi_kan", seed=0, **options):
    return resolve(head, seed=seed, features="mean", options={"hidden": (4,), "batch_size": 16} | options)


def data(rows=60, inputs=5):
    generator = np.random.default_rng(0)
    features = {split: generator.normal(size=(rows, inputs)).astype(np.float32) for split in ("train", "validation")}
    labels = {split: (x[:, 0] * x[:, 1] > 0).astype(np.int64) for split, x in features.items()}
    scaling = Scaling("none", np.zeros(inputs, np.float32), np.ones(inputs, np.float32))
    return FitData(TASKS["mrpc"], "f" * 64, features, labels, scaling)


def test_a_schedule_is_one_heads_stages():
    found = config(grid=(5, 10, 20), grid_epochs=(10, 5, 3))
    assert (found.grid, found.earlier_grids, found.grid_epochs, found.epochs) == (20, (5, 10), (10, 5, 3), 18)
    assert stages(found) == {0: 5, 10: 10, 15: 20}
    assert read_config(found.to_json()) == found
    assert config(grid=(7,), grid_epochs=(4,)) == config(grid=7, epochs=4)
    assert stages(config("fast_kan")) == {0: None}
    # Every family of a sweep trains for as long.
    assert config("mlp", grid=(5, 10), grid_epochs=(3, 4)).epochs == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grid": (5, 10)}, "`grid_epochs`: expected epochs, at least 1, for each grid of `grid` 5,10, found none"),
        ({"grid": (5, 10), "grid_epochs": (3,)}, "`grid_epochs`: expected"),
        ({"grid": (5, 10), "grid_epochs": (3, 0)}, "`grid_epochs`: expected"),
        ({"grid": (10, 5), "grid_epochs": (3, 3)}, "`grid`: expected numbers of intervals that grow, found 10,5"),
        ({"grid": (5, 10), "grid_epochs": (3, 3), "epochs": 7}, "`epochs`: expected the sum of `grid_epochs`, 6"),
    ],
)
def test_a_wrong_schedule_says_so(options, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        config(**options)


def test_in_a_sweep_epochs_turn_grids_into_stages():
    table = {"task": "mrpc", "head": ["effi_kan"], "grid": [5, 10]}
    assert len(product_from(table, "sweep").combinations()) == 2
    one = product_from(table | {"grid_epochs": [3, 4]}, "sweep").combinations()
    assert [options["grid"] for _, options in one] == [(5, 10)]
    two = product_from(table | {"grid": [[5, 10], [4, 8]], "grid_epochs": [3, 4]}, "sweep").combinations()
    assert [options["grid"] for _, options in two] == [(5, 10), (4, 8)]


def test_training_goes_on_from_the_same_function(capfd):
    """A schedule whose later stage learns nothing ends where training on the first grid alone ends."""
    grown = config(grid=(5, 10), grid_epochs=(3, 1), lr=1e-2, weight_decay=0, grid_range=(-60, 60))
    [found] = train_pack([grown], data(), torch.device("cpu"))
    assert "grid 5 to 10 before epoch 4: nested, functions stay as they are" in capfd.readouterr().err
    assert found.tensors["layers.0.weight"].shape == (5 * 14, 4)
    assert found.epoch == 4  # chosen among the epochs of the last grid
    assert len(found.curve) == 4
    [plain] = train_pack([replace(grown, grid=5, earlier_grids=None, grid_epochs=None)], data(), torch.device("cpu"))
    # The first stage is plain training on five intervals, of which the schedule's rate knows all four epochs.
    np.testing.assert_allclose([c[:2] for c in found.curve[:3]], [c[:2] for c in plain.curve[:3]], rtol=1e-3)
    assert abs(found.curve[3][0] - plain.curve[3][0]) < 0.05


def test_other_grids_are_said_to_be_fits(capfd):
    train_pack([config(grid=(5, 7), grid_epochs=(1, 1))], data(), torch.device("cpu"))
    assert "grid 5 to 7 before epoch 2: not nested, functions are least-squares fits" in capfd.readouterr().err


@pytest.mark.parametrize("head", ["bspline_mlp", "ensemble_kan", "fourier_kan"])
def test_every_family_with_a_grid_grows(head):
    [found] = train_pack([config(head, grid=(2, 4), grid_epochs=(1, 1))], data(), torch.device("cpu"))
    assert {name: tuple(t.shape) for name, t in found.tensors.items()} == found.network.shapes()
    assert found.network.layers[-1 if head == "bspline_mlp" else 0].grid.intervals == 4


def test_restarted_moments_are_corrected_as_at_the_beginning():
    torch.manual_seed(0)
    gradients = [torch.randn(1, 3, 2) for _ in range(4)]
    begin = torch.randn(1, 3, 2)
    one, two = ({"w": begin.clone()} for _ in range(2))
    rates = torch.tensor([0.1]), torch.tensor([0.0]), torch.tensor([1e9])
    late, early = PackedAdamW(one, *rates), PackedAdamW(two, *rates)
    late.step({"w": torch.ones(1, 3, 2)}, torch.ones(1), 1.0)
    one["w"].copy_(begin)
    late.restart(100, torch.tensor([-1]))
    for gradient in gradients:
        late.step({"w": gradient.clone()}, torch.ones(1), 1.0)
        early.step({"w": gradient.clone()}, torch.ones(1), 1.0)
    torch.testing.assert_close(one["w"], two["w"])
    late.step({"w": torch.full((1, 3, 2), torch.nan)}, torch.ones(1), 1.0)
    assert late.diverged_at.tolist() == [104]
