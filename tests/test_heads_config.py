"""Configurations: defaults of the protocols, what counts for a family, ranges, and the names of heads."""

import dataclasses
import json
import math
import re

import pytest

from pipeline.errors import ConfigError, KanglueError, UnknownNameError
from pipeline.heads.config import identity
from pipeline.heads.resolve import read_config, resolve, unused

ALWAYS = {"epochs", "batch_size", "lr", "weight_decay", "clip", "scale", "init"}
USED = {
    "linear": ALWAYS,
    "mlp": ALWAYS | {"hidden", "activation"},
    "effi_kan": ALWAYS | {"hidden", "grid", "order", "grid_range", "spline_scaler"},
    "fast_kan": ALWAYS | {"hidden", "centres", "grid_range"},
    "faster_kan": ALWAYS | {"hidden", "centres", "grid_range", "sharpness"},
    "fourier_kan": ALWAYS | {"hidden", "grid"},
    "cheby_kan": ALWAYS | {"hidden", "order"},
    "bspline_mlp": ALWAYS | {"hidden", "activation", "grid", "order", "grid_range"},
    "ensemble_kan": ALWAYS | {"hidden", "grid", "order", "centres", "grid_range", "sharpness", "spline_scaler"},
}
#: Options that a configuration holds only where they are not at the family's default, and such values.
LATER = {
    "mlp": {"layer_norm": True, "dropout": 0.5},
    "effi_kan": {"base": "zero", "layer_norm": True, "dropout": 0.1, "spline_l1": 0.1, "spline_entropy": 2.0},
    "fast_kan": {"base": "identity", "layer_norm": False},
    "faster_kan": {"base": "silu", "layer_norm": False},
    "fourier_kan": {"base": "identity", "layer_norm": True},
    "cheby_kan": {"base": "silu", "layer_norm": True},
    "bspline_mlp": {"layer_norm": True},
    "ensemble_kan": {"base": "zero", "layer_norm": True},
}
#: For every option a value that is no protocol's default.
OTHER = {
    "epochs": 7, "batch_size": 8, "lr": 0.5, "weight_decay": 0.5, "clip": math.inf, "scale": "tanh",
    "hidden": (7, 3), "activation": "tanh", "grid": 7, "order": 2, "centres": 5, "grid_range": (-2, 1.5),
    "sharpness": 0.5,
}  # fmt: skip


def config(head="effi_kan", protocol="clean", seed=0, features="pooled", **options):
    return resolve(head, seed=seed, features=features, protocol=protocol, options=options)


def other(name, protocol):
    if name == "init":
        return "package" if protocol == "clean" else "project"
    return protocol == "clean" if name == "spline_scaler" else OTHER[name]


def test_clean_defaults_are_the_designs():
    found = config()
    assert (found.epochs, found.batch_size, found.lr, found.weight_decay, found.clip) == (20, 64, 2e-3, 0.01, 1.0)
    assert (found.hidden, found.grid, found.order, found.grid_range) == ((64,), 5, 3, (-3.0, 3.0))
    assert (found.scale, found.spline_scaler, found.init) == ("standard", False, "project")
    assert config("faster_kan").centres == 8
    assert config("faster_kan").sharpness == 1.0
    assert config("mlp").activation == "relu"


@pytest.mark.parametrize(
    ("head", "grid_range"), [("effi_kan", (-1, 1)), ("fast_kan", (-2, 2)), ("faster_kan", (-1.2, 0.2))]
)
def test_published_defaults_are_the_packages(head, grid_range):
    found = config(head, "published")
    assert (found.epochs, found.batch_size, found.lr, found.weight_decay, found.clip) == (10, 4, 2e-3, 0.01, 1.0)
    assert found.grid_range == grid_range
    assert (found.scale, found.init) == ("none", "package")
    assert found.spline_scaler is (True if head == "effi_kan" else None)


@pytest.mark.parametrize("protocol", ["clean", "published"])
@pytest.mark.parametrize("head", USED)
def test_a_name_changes_with_every_option_that_counts_and_with_no_other(head, protocol):
    plain = config(head, protocol)
    name = identity(plain, "f" * 64)
    assert len(name) == 16
    assert int(name, 16) >= 0
    names = {name}
    for option in (*OTHER, "init", "spline_scaler"):
        changed = config(head, protocol, **{option: other(option, protocol)})
        if option in USED[head]:
            assert getattr(changed, option) == other(option, protocol)
            names.add(identity(changed, "f" * 64))
        else:
            assert getattr(changed, option) is None
            assert changed == plain
    names |= {identity(config(head, protocol, seed=1), "f" * 64), identity(plain, "e" * 64)}
    names.add(identity(config(head, protocol, features="cls"), "f" * 64))
    names.add(identity(config(head, "clean" if protocol == "published" else "published"), "f" * 64))
    assert len(names) == 1 + len(USED[head]) + 4


@pytest.mark.parametrize(("head", "option"), [(head, option) for head, some in LATER.items() for option in some])
def test_a_later_option_counts_only_where_it_is_not_the_default(head, option):
    plain, changed = config(head), config(head, **{option: LATER[head][option]})
    assert option not in plain.to_json()
    assert changed.to_json() == plain.to_json() | {option: LATER[head][option]}
    assert identity(changed, "") != identity(plain, "")
    assert read_config(changed.to_json()) == changed


def test_a_familys_own_default_given_aloud_names_the_same_head():
    assert config("effi_kan", base="silu", layer_norm=False) == config("effi_kan")
    assert config("faster_kan", base="zero", layer_norm=True) == config("faster_kan")


def test_defaults_given_aloud_name_the_same_head():
    plain = config("effi_kan")
    assert config("effi_kan", lr=0.002, grid=5, hidden=(64,), grid_range=(-3, 3), clip=1) == plain
    assert config("effi_kan", lr=None, hidden=None) == plain


def test_whole_numbers_and_floats_name_the_same_head():
    one = config("faster_kan", lr=1, weight_decay=0, clip=2, sharpness=1, grid_range=(-1, 1), hidden=[8])
    same = config("faster_kan", lr=1.0, weight_decay=0.0, clip=2.0, sharpness=1.0, grid_range=[-1.0, 1.0], hidden=(8,))
    assert identity(one, "") == identity(same, "")


@pytest.mark.parametrize("head", USED)
@pytest.mark.parametrize("clip", [0.5, math.inf])
def test_a_configuration_survives_json(head, clip):
    found = config(head, clip=clip, seed=3)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert read_config(json.loads(text)) == found
    assert set(found.to_json()) == USED[head] | {"head", "protocol", "seed", "features"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wavelet": 3}, "wavelet"),
        ({"head": "nope"}, "expected one of linear"),
        ({"head": ["mlp"]}, "an object with head"),
        ({"sharpness": "0) + __import__('os').system('x"}, "expected a number, found"),
        ({"sharpness": math.nan}, "a number"),
        ({"centres": 10**400}, "expected a whole number"),
        ({"centres": 1}, "at least 2"),
        ({"centres": 8.5}, "whole"),
        ({"centres": 8.0}, None),
        ({"hidden": [64, "64"]}, "whole"),
        ({"hidden": {"a": 1}}, "whole"),
        ({"seed": -1}, "seed"),
        ({"grid_range": [1, -1]}, "low,high"),
        ({"order": 3}, "nothing"),
        ({"seed": None}, "seed"),
        ({"seed": True}, "whole"),
        ({"epochs": None}, "epochs"),
        ({"clip": "nan"}, "a number"),
        ({"features": 3}, "an object with head"),
    ],
)
def test_a_configuration_from_a_file_is_checked_like_a_users(change, words):
    document = json.loads(json.dumps(config("faster_kan").to_json())) | change
    if words is None:
        assert read_config(document) == config("faster_kan")
    else:
        with pytest.raises(KanglueError, match=re.escape(words)):
            read_config(document)


def test_a_configuration_that_lacks_an_option_is_refused():
    whole = config("effi_kan").to_json()
    for name in whole:
        with pytest.raises(KanglueError):
            read_config({key: value for key, value in whole.items() if key != name})


@pytest.mark.parametrize(
    ("change", "kind", "valid"),
    [
        ({"head": "efi_kan"}, "head 'efi_kan'", ("linear", "mlp", "effi_kan", "fast_kan", "faster_kan")),
        ({"protocol": "dirty"}, "protocol 'dirty'", ("clean", "published")),
        ({"features": "pool"}, "feature 'pool'", ("pooled", "cls", "mean", "weight", "reduced")),
        ({"learning_rate": 1.0}, "option 'learning_rate'", ("lr", "weight_decay", "grid_range")),
    ],
)
def test_an_unknown_name_lists_the_valid_ones(change, kind, valid):
    with pytest.raises(UnknownNameError, match=kind) as caught:
        config(**change)
    assert all(name in str(caught.value) for name in valid)


@pytest.mark.parametrize(
    ("head", "option", "value"),
    [
        ("linear", "seed", -1), ("linear", "epochs", 0), ("linear", "batch_size", 0), ("linear", "lr", 0.0),
        ("linear", "lr", -1.0), ("linear", "lr", math.inf), ("linear", "lr", math.nan),
        ("linear", "weight_decay", -0.1), ("linear", "weight_decay", math.nan), ("linear", "clip", 0.0),
        ("linear", "clip", math.nan), ("linear", "scale", "robust"), ("linear", "init", "zeros"),
        ("mlp", "hidden", (64, 0)), ("mlp", "activation", "swish"), ("effi_kan", "grid", 0), ("effi_kan", "order", 0),
        ("effi_kan", "order", 6), ("effi_kan", "base", "relu"), ("mlp", "dropout", 1.0),
        ("effi_kan", "spline_l1", -1.0), ("effi_kan", "spline_entropy", math.inf),
        ("cheby_kan", "order", 6), ("fourier_kan", "grid", 0),
        ("bspline_mlp", "activation", "swish"), ("mlp", "activation", "none"),
        ("fast_kan", "centres", 1), ("effi_kan", "grid_range", (1, 1)),
        ("effi_kan", "grid_range", (2, -2)), ("effi_kan", "grid_range", (0, 1, 2)),
        ("effi_kan", "grid_range", (-math.inf, 1)), ("effi_kan", "grid_range", (math.nan, 1)),
    ],
)  # fmt: skip
def test_a_value_out_of_range_names_its_option(head, option, value):
    with pytest.raises(ConfigError) as caught:
        config(head, **{option: value})
    assert str(caught.value).startswith("--" + option.replace("_", "-") + ": expected ")
    assert "found" in str(caught.value)


def test_values_at_the_edge_of_their_range_are_taken():
    found = config("effi_kan", epochs=1, batch_size=1, weight_decay=0, clip=math.inf, grid=1, order=5, hidden=(1,))
    assert (found.order, found.clip, found.hidden) == (5, math.inf, (1,))
    assert config("mlp", hidden=()).hidden == ()
    assert config("fast_kan", centres=2).centres == 2


def test_configurations_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().lr = 1.0


@pytest.mark.parametrize(
    ("head", "options", "words"),
    [
        ("linear", {"grid": 0}, "--grid: expected at least 1 interval, found 0"),
        ("linear", {"hidden": (4, 0)}, "--hidden: expected widths of at least 1, found 4,0"),
        ("mlp", {"base": "selu"}, "--base: expected one of zero, identity, silu, found 'selu'"),
        ("effi_kan", {"token_pool": "sum"}, "--token-pool: expected one of mean"),
        ("kan", {"weight_decay": -1.0}, "--weight-decay: expected a number of at least 0, found -1.0"),
        ("kan", {"grid": (5, 10), "grid_epochs": (3, 3)}, "--grid-epochs: expected a family whose grid grows"),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_would_change_nothing_too(head, options, words):
    with pytest.raises(ConfigError) as error:
        config(head, **options)
    assert words in str(error.value)


def test_options_that_change_nothing_are_named():
    given = ("lr", "grid", "base", "optimiser", "token_pool", "weight_decay", "grid_epochs")
    assert unused(given, ["linear", "mlp"], [None]) == ["base", "grid", "optimiser", "token_pool"]
    assert unused(given, ["effi_kan"], ["last_hidden"]) == ["optimiser"]
    assert unused(given, ["kan"], [None]) == ["token_pool", "weight_decay"]
