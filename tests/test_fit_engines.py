"""The fast engines train to the same numbers as the plain one, which is tested against autograd and torch.optim."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.fit import engines, predict
from pipeline.fit.engines import ready_engine
from pipeline.fit.native_engine import NativeEngine, supports
from pipeline.heads.families import ACTIVATIONS, PACKABLE, build_network
from pipeline.heads.resolve import resolve
from tests.helpers.engine_parity import difference, trained

ROOT = Path(__file__).parents[1]
#: Families with kernels: those whose bases train parameters of their own step through autograd.
FAMILIES = tuple(name for name, family in PACKABLE.items() if not family.bases)


def case(head: str, protocol: str = "clean", *, batch_size: int = 4, classes: int = 3, **options) -> dict:
    return {
        "head": head, "protocol": protocol, "inputs": 10, "rows": 3 * batch_size + 1, "classes": classes, "heads": 3,
        "epochs": 2, "options": {"batch_size": batch_size, "hidden": [12]} | options,
    }  # fmt: skip


@pytest.mark.parametrize("batch_size", [4, 20, 70])
@pytest.mark.parametrize("protocol", ["clean", "published"])
@pytest.mark.parametrize("head", FAMILIES)
def test_native_engine_equals_plain(head, protocol, batch_size):
    found = difference(NativeEngine, case(head, protocol, batch_size=batch_size))
    assert found["loss"] < 2e-5
    assert found["outputs"] < 1e-3


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("effi_kan", {"order": 1, "grid": 2}),
        ("effi_kan", {"order": 2, "grid": 3}),
        ("effi_kan", {"order": 4, "grid": 7}),
        ("effi_kan", {"order": 5, "grid": 1, "hidden": [70]}),
        ("effi_kan", {"spline_scaler": True, "hidden": [17, 5]}),
        ("fast_kan", {"centres": 5, "hidden": [9, 33]}),
        ("faster_kan", {"sharpness": 0.5, "centres": 3}),
        ("ensemble_kan", {"hidden": [22]}),  # columns in half vectors
        ("mlp", {"activation": "gelu", "hidden": [130]}),
        ("mlp", {"activation": "tanh"}),
        ("mlp", {"activation": "sigmoid", "clip": 0.01}),
        ("mlp", {"activation": "identity", "weight_decay": 0.5}),
        ("mlp", {"activation": "silu", "clip": float("inf")}),
        *(("mlp", {"activation": name, "layer_norm": True, "hidden": [12, 9]}) for name in ACTIVATIONS[-4:]),
        *(("bspline_mlp", {"activation": name, "hidden": [12, 9]}) for name in ("none", "relu", "polynomial3")),
        ("bspline_mlp", {"layer_norm": True, "hidden": [1], "order": 2}),
        ("fourier_kan", {"grid": 4, "hidden": [7], "layer_norm": True, "base": "silu"}),
        ("cheby_kan", {"order": 5, "hidden": [7, 5], "layer_norm": True, "base": "identity"}),
        ("cheby_kan", {"order": 1}),
        ("effi_kan", {"layer_norm": True, "base": "zero", "grid": 12}),
        ("effi_kan", {"grid": 300, "base": "identity"}),
        ("ensemble_kan", {"hidden": [7, 5]}),
        ("ensemble_kan", {"hidden": []}),
    ],
)
def test_native_engine_covers_every_option(head, options):
    for classes in (0, 2):
        found = difference(NativeEngine, case(head, classes=classes, batch_size=16, **options))
        assert found["loss"] < 2e-5
        assert found["outputs"] < 1e-3


@pytest.mark.parametrize("sharpness", [4.0, 5.0, 8.0])
def test_native_engine_takes_a_steep_switch(sharpness):
    """One step only: a steep basis makes float32's last digits grow from step to step, in either engine."""
    one = case("faster_kan", batch_size=13, sharpness=sharpness, hidden=[22]) | {"rows": 13, "epochs": 1}
    found = difference(NativeEngine, one)
    assert found["loss"] < 2e-5
    assert found["outputs"] < 1e-3


def test_native_engine_expands_rows_that_are_not_kept_ready(monkeypatch):
    monkeypatch.setattr(predict, "EXPANSION_SHARE", 0.0)
    found = difference(NativeEngine, case("effi_kan", batch_size=20))
    assert found["loss"] < 2e-5
    assert found["outputs"] < 1e-3


def test_native_engine_freezes_a_head_that_diverges():
    steady = case("mlp", batch_size=4) | {"lr": [1e-3, 2e-3, 3e-3]}
    broken = steady | {"lr": [1e-3, 1e30, 3e-3]}
    _, expected, never = trained(NativeEngine, steady)
    _, outputs, diverged = trained(NativeEngine, broken)
    assert never.tolist() == [-1, -1, -1]
    assert diverged[0] == diverged[2] == -1
    assert diverged[1] >= 0
    assert torch.equal(outputs[[0, 2]], expected[[0, 2]])


def test_native_engine_leaves_the_floating_point_mode_alone():
    trained(NativeEngine, case("mlp"))
    assert np.float32(1e-40) * np.float32(0.5) > 0


def test_every_family_has_a_fast_engine():
    for head in FAMILIES:
        config = resolve(head, seed=0, features="mean")
        assert supports(build_network(config, 8, 2), config)


def small(one: dict) -> dict:
    """Two steps, the second of one row: the interpreter takes its time."""
    return {"epochs": 1, "heads": 2, "inputs": 5, "rows": one["options"]["batch_size"] + 1}


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed on this platform"
)


@needs_triton
def test_gpu_tuning_names_what_does_not_fit():
    from pipeline.fit.gpu.tuning import Tuning

    for wrong in ({"tile": 12}, {"splits": 0}, {"precision": "bfloat16"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Tuning(**({"tile": 8, "splits": 4} | wrong))


@needs_triton
@pytest.mark.parametrize(
    "cases",
    [
        [
            case("effi_kan"),
            case("effi_kan", batch_size=6, classes=0),
            case("effi_kan", classes=5),
            case("effi_kan", "published"),
            case("effi_kan", "published", batch_size=6, layer_norm=True),
            case("effi_kan", order=5, grid=2, batch_size=6),
            case("effi_kan", order=2, grid=3) | {"tuning": {"table": False}},
            case("mlp", batch_size=6, classes=0, activation="gelu") | {"tuning": {"table": False, "parts": 2}},
        ],
        [
            case("linear", batch_size=3),
            case("fast_kan", centres=4, hidden=[40]),
            case("fast_kan", batch_size=6, centres=4, classes=0) | {"tuning": {"precision": "tf32x3"}},
            case("fast_kan", batch_size=40, centres=3, hidden=[22]),
            case("faster_kan", batch_size=2, sharpness=0.5),
            case("faster_kan", batch_size=6, sharpness=-30.0, centres=3),
            case("fourier_kan", batch_size=6, grid=2),
            case("cheby_kan", order=3),
        ],
        [
            case("ensemble_kan", batch_size=6, centres=3, hidden=[22], clip=0.01) | {"tuning": {"table": False}},
            case("ensemble_kan", "published", centres=3, hidden=[40], layer_norm=True) | {"tuning": {"parts": 2}},
            case("ensemble_kan", batch_size=2, centres=3, hidden=[]),
        ],
        [
            # Outputs in two blocks.
            case("faster_kan", batch_size=6, centres=3, hidden=[72]) | {"tuning": {"precision": "tf32x3"}},
            case("faster_kan", batch_size=2, centres=3, hidden=[72]),
            case("effi_kan", "published", batch_size=3, grid=2, hidden=[70]),
            case("effi_kan", "published", batch_size=6, grid=2, hidden=[70]) | {"tuning": {"precision": "tf32x3"}},
            case("mlp", batch_size=6, hidden=[90]) | {"tuning": {"table": False}},
        ],
        [
            one | {"graphed": True}
            for one in (
                case("mlp", activation="polynomial2", hidden=[4, 3], batch_size=2),
                case("bspline_mlp", activation="gelu", layer_norm=True, hidden=[4], batch_size=2),
                case("bspline_mlp", classes=0, hidden=[4], batch_size=2),
                # Weights [33, 40] large enough for their gradients to stay unwritten, behind units of their own.
                case("bspline_mlp", hidden=[33, 40], grid=2, batch_size=6),
                case("mlp", hidden=[33, 40], clip=0.01, batch_size=2),
                case("mlp", hidden=[40, 33], activation="polynomial2", classes=0, batch_size=2),
                case("ensemble_kan", hidden=[4, 3], centres=3, spline_scaler=True, batch_size=2),
                case("fourier_kan", hidden=[4], grid=2, layer_norm=True, base="silu", clip=0.01, batch_size=2),
            )
        ],
    ],
    ids=["effi_kan", "families", "stacks", "blocks", "graphed"],
)
def test_gpu_kernels_under_the_interpreter_equal_plain(cases):
    script = subprocess.run(
        [sys.executable, "-m", "tests.helpers.engine_parity", json.dumps([one | small(one) for one in cases])],
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert script.returncode == 0, script.stderr[-2000:]
    for found in json.loads(script.stdout):
        assert found["loss"] < 2e-6
        # Bias corrections of four digits, as 1 - exp(-0.001) has in float32, would show here.
        assert found["outputs"] < 5e-6


@needs_triton
@pytest.mark.parametrize("fits", [True, False])
def test_kernels_that_do_not_fit_make_way_for_smaller_ones(fits, monkeypatch, capsys):
    class Fused:
        @staticmethod
        def prepare(*given):
            assert given[2] == "training rows"
            return fits

    monkeypatch.setattr(engines, "choose_engine", lambda *_: Fused)
    config = resolve("effi_kan", seed=0, features="mean")
    found = ready_engine(build_network(config, 8, 2), [config], lambda: "training rows", torch.zeros(4))
    assert found.__name__ == ("Fused" if fits else "GraphedEngine")
    assert ("memory on the chip" in capsys.readouterr().err) is not fits


@needs_triton
def test_gpu_kernels_pass_the_compiler(tmp_path):
    """The interpreter runs what the compiler refuses, as a variable of a loop that changes its shape."""
    networks = [
        ("ensemble_kan", {"hidden": [22], "batch_size": 64}),
        ("ensemble_kan", {"hidden": [], "spline_scaler": True, "batch_size": 4}),
        ("fast_kan", {"batch_size": 4}),
        ("effi_kan", {"batch_size": 20}),
        ("faster_kan", {"hidden": [72], "batch_size": 20}),
        ("effi_kan", {"spline_scaler": True, "hidden": [72], "batch_size": 4}),
    ]
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = subprocess.run(
        [sys.executable, "-m", "tests.helpers.gpu_compiles", json.dumps(networks)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert script.returncode == 0, script.stderr[-2000:]
    found = json.loads(script.stdout)
    assert found["kernels"] == [15, 16, 5, 3, 5, 5]  # that a step launches, and the first forward's
    # Told for every pack: Triton keeps a kernel that did not fit as one that did.
    assert found["fits"] == [False, False, True, True]


@needs_triton
def test_pieces_of_the_gpu_engines_equal_pytorch():
    script = subprocess.run(
        [sys.executable, "-m", "tests.helpers.gpu_pieces"],
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert script.returncode == 0, script.stderr[-2000:]
    found = json.loads(script.stdout)
    assert max(found["products"]) < 5e-7
    assert max(found["gradients"]) < 1
    assert max(found["largest"]) <= 1
    assert max(found["losses"]) < 5e-7
    for one, steps in zip([found["updates"], *found["factored"]], (100, 6, 6), strict=True):
        assert max(one["errors"]) < 1e-5
        assert one["diverged_at"] == [-1, steps * 3 // 5, -1]
        assert one["frozen"]
        assert one["filled"] == 0
    assert found["updates"]["blocks"] > 1  # or a head's sum of squares would not be put together from blocks
