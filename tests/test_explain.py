"""Inside heads: symbols and formulas against what is known, grids that keep functions, measures of forgetting."""

import json

import numpy as np
import pytest
import sympy
import torch
from click.testing import CliRunner

import embed
import fit_heads
from pipeline.errors import ConfigError, UnknownNameError
from pipeline.explain.command import explain_command
from pipeline.explain.continual import class_stages, domain_stages, measures, peaks_data
from pipeline.explain.convert import head_edges, head_outputs
from pipeline.explain.formula import formulas, values
from pipeline.explain.mixed import Mixed, polish
from pipeline.explain.refine import finer
from pipeline.explain.symbols import fit_symbol, library
from pipeline.fit.data import fit_scaling
from pipeline.fit.kan_forward import forward, start, update_grids
from pipeline.heads.families import PACKABLE, build_network
from pipeline.heads.initialization import start as first_weights
from pipeline.heads.resolve import resolve
from pipeline.models.saved import SavedHead
from tests.helpers.synthetic_caches import fit_data


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("sin", lambda x: 2 * torch.sin(1.5 * x + 0.4) - 1),
        ("exp", lambda x: 0.3 * torch.exp(1.2 * x)),
        ("x^2", lambda x: (x - 0.5) ** 2),
        ("x", lambda x: 3 - 2 * x),
        ("tanh", lambda x: torch.tanh(2 * x + 1)),
        ("log", lambda x: torch.log(x + 4)),
    ],
)
def test_a_symbol_is_found_through_its_own_curve(name, function):
    x = torch.linspace(-2, 3, 300, dtype=torch.float64)
    fit = fit_symbol(library([name])[name], x, function(x))
    assert fit.r2 > 0.9999
    a, b, c, d = fit.affine
    torch.testing.assert_close(c * fit.symbol.torch(a * x + b) + d, function(x), atol=0.05, rtol=0.05)


def test_symbols_without_a_value_explain_nothing():
    x = torch.linspace(-2, 2, 100, dtype=torch.float64)
    assert fit_symbol(library(["log"])["log"], x, torch.full_like(x, 3.0)).r2 <= 0
    with pytest.raises(UnknownNameError, match=r"unknown symbol 'sinn': expected one of x, x\^2"):
        library(["x", "sinn"])


def test_a_network_of_symbols_becomes_its_formula():
    symbols = library(["sin", "x^2", "exp", "x"])
    edges = {
        (0, 0, 0): ("sin", (2.0, np.pi, -1.0, 0.2)), (0, 1, 0): ("x^2", (1.5, 0.0, 2.0, 0.1)),
        (1, 0, 0): ("exp", (0.5, 0.3, 1.0, -1.0)), (1, 0, 1): ("x", (1.0, 0.0, 2.0, 0.0)),
    }  # fmt: skip
    tensors = start((2, 1, 2), 3, 3, (-1, 1), 0)
    tensors |= {name: torch.zeros_like(t) for name, t in tensors.items() if name.endswith("mask")}
    network = Mixed(
        tensors, {edge: symbols[name] for edge, (name, _) in edges.items()},
        {edge: torch.tensor(affine, dtype=torch.float64) for edge, (_, affine) in edges.items()},
    )  # fmt: skip
    rows = np.random.default_rng(0).normal(size=(50, 2))
    shift, factor = np.array([0.5, -1.0]), np.array([2.0, 0.5])
    found = formulas(network, ("p", "q"), ("one", "two"), shift, factor, (10.0, 3.0), rows)
    expected = network.forward(torch.from_numpy((rows - shift) * factor)).numpy() * 3 + 10
    np.testing.assert_allclose(values([one.expression for one in found], ("p", "q"), rows), expected, rtol=1e-9)
    rounded = values([one.rounded for one in found], ("p", "q"), rows)
    assert (np.abs(rounded - expected).max(0) <= 1.01e-4 * expected.std(0)).all()
    assert {str(symbol) for symbol in found[0].rounded.free_symbols} == {"p", "q"}
    assert len(found[0].text) < len(found[0].exact)
    assert "\\sin" in found[1].latex
    assert isinstance(found[0].expression, sympy.Expr)


def test_constants_are_brought_to_their_minimum():
    symbols = library(["sin", "x^2", "exp"])
    tensors = start((2, 1, 1), 3, 3, (-1, 1), 0)
    tensors |= {name: torch.zeros_like(t) for name, t in tensors.items() if name.endswith("mask")}
    edges = {(0, 0, 0): symbols["sin"], (0, 1, 0): symbols["x^2"], (1, 0, 0): symbols["exp"]}
    near = ((3.1, 0.02, 0.9, 0.1), (0.9, 0.1, 1.1, 0.0), (1.05, 0.1, 0.9, -0.1))
    network = Mixed(
        tensors, edges, {edge: torch.tensor(one, dtype=torch.float64) for edge, one in zip(edges, near, strict=True)}
    )
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (200, 2)))
    y = torch.exp(torch.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)

    def loss(outputs):
        return (outputs[:, 0] - y).square().mean()

    assert float(loss(network.forward(x))) > 1e-3
    best = polish(network, x, loss)
    assert float(loss(best.forward(x))) < 1e-15
    assert polish(best, x, lambda outputs: -loss(outputs) * float("nan")) is best


def test_a_finer_grid_keeps_the_function():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 2)))
    tensors = update_grids(start((2, 4, 1), 5, 3, (-1, 1), 3), x)
    tensors["layers.0.coef"] = tensors["layers.0.coef"] + torch.randn(2, 4, 8, dtype=torch.float64)
    tensors = update_grids(tensors, x)
    inside = (x < x.max(0).values).all(1)
    twice = finer(tensors, 10)
    four = finer(twice, 20)
    assert four["layers.1.coef"].shape == (4, 1, 23)
    for other in (twice, four):
        moved = (forward(other, x) - forward(tensors, x)).abs()[inside]
        assert float(moved.median()) < 1e-8
        assert float(moved.quantile(0.95)) < 1e-4
    with pytest.raises(ConfigError, match="expected at least 5 intervals, found 4"):
        finer(tensors, 4)


@pytest.mark.parametrize("family", [name for name in PACKABLE if not PACKABLE[name].stacks])
def test_edges_add_up_to_what_the_head_says(family):
    config = resolve(family, seed=0, features="pooled", options={"hidden": (4,)})
    network = build_network(config, 3, 2)
    tensors = {name: tensor + 0.1 for name, tensor in first_weights(config, network).items()}
    scaling = fit_scaling("none", np.zeros((2, 3), np.float32))
    head = SavedHead("0", config, network, tensors, scaling, (0.0, 1.0), ("a", "b"), {})
    x = torch.randn(20, 3, dtype=torch.float64)
    added = head_edges(head, x)[-1][1].sum(0).T
    bias = (
        tensors.get("layers.1.bias", torch.zeros(2)) if "layers.1.bias" in tensors else tensors.get("layers.0.bias", 0)
    )
    torch.testing.assert_close(added.double() + bias, head_outputs(head, x), atol=1e-5, rtol=1e-4)


def test_measures_of_forgetting():
    scores = np.array([[0.9, 0.1, 0.0], [0.6, 0.8, 0.1], [0.5, 0.85, 0.7]])
    found = measures(scores, error=False)
    assert found["average"] == pytest.approx((0.5 + 0.85 + 0.7) / 3)
    assert found["forgetting"] == pytest.approx((0.4 + 0.0) / 2)
    assert found["backward_transfer"] == pytest.approx((-0.4 + 0.05) / 2)
    errors = measures(1 - scores, error=True)
    assert errors["forgetting"] == pytest.approx(found["forgetting"])
    assert errors["backward_transfer"] == pytest.approx(found["backward_transfer"])


def test_stages_part_all_rows():
    peaks = peaks_data(20)
    assert np.bincount(peaks.train).tolist() == [20] * 5
    for part in range(5):
        assert peaks.data.labels["train"][peaks.train == part].max() > 0.9
    data = fit_data("three")
    classes = class_stages(data, None)
    assert classes.names == ("no", "yes", "maybe")
    assert (classes.train == data.labels["train"]).all()
    domains = domain_stages(data, 4)
    assert np.bincount(domains.train).tolist() == [50] * 4
    with pytest.raises(ConfigError, match="expected 2 to 3, the classes, found 9"):
        class_stages(data, 9)
    with pytest.raises(ConfigError, match="take domain"):
        class_stages(fit_data("number"), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("inside")
    for arguments in (["moons", "--rows", "60"], ["wine"], ["formula", "--rows", "60"]):
        done = CliRunner().invoke(embed.main, ["toy", *arguments, "--cache", str(root / "cache")])
        assert done.exit_code == 0, done.output
    return root


def call(place, *arguments):
    places = ["--cache", str(place / "cache"), "--results", str(place / "runs/results.sqlite"), "--json"]
    return CliRunner().invoke(fit_heads.main, [*map(str, arguments), *places])


def test_explain_writes_everything(place):
    done = call(
        place, "explain", "--task", "moons", "--hidden", 2, "--library", "x,x^2,sin", "--steps", 1, "--seconds", 0.1
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["failures"] == []
    folder = place / "runs/explain" / document["id"]
    assert set(document["files"]) == {path.name for path in folder.iterdir()}
    assert {one["symbol"] for one in document["symbols"]} <= {"x", "x^2", "sin"}
    assert [one["output"] for one in document["formulas"]] == ["upper", "lower"]
    assert set(document["importance"]) == {"x", "y"}
    page = (folder / "index.html").read_text()
    assert document["formulas"][0]["text"] in page.replace("&#39;", "'")
    assert "http://" not in page.replace("http://www.w3.org", "")
    refined = call(place, "refine", document["id"], "--grid", "10,20", "--steps", 1)
    assert refined.exit_code == 0, refined.output
    for step in json.loads(refined.stdout)["steps"]:
        assert step["moved"] < 1e-4
        assert step["rows_inside"] > 20


def test_a_wide_head_gets_its_page_and_a_line(place):
    head = json.loads(call(place, "run", "wine", "--head", "fast_kan", "--epochs", 1, "--scale", "tanh").stdout)["id"]
    done = call(place, "explain", head, "--library", "x", "--inputs", 2, "--steps", 1, "--seconds", 0.2)
    document = json.loads(done.stdout)
    assert document["failures"] == []
    assert len(document["kept"]) == 2
    for wrong, words in (
        (("explain", head, "--library", "x,foo"), "unknown symbol 'foo'"),
        (("explain", head, "--inputs", "40"), "expected 1 to 16, found 40"),
        (("explain",), "expected HEAD or --task"),
        (("refine", head, "--grid", "10"), "expected kan or effi_kan"),
        (("continual", "--scenario", "odd"), "unknown scenario 'odd'"),
        (("continual", "--scenario", "class"), "expected a TASK"),
    ):
        failed = call(place, *wrong)
        assert failed.exit_code == 1
        assert failed.stderr.count("\n") == 1
        assert words in failed.stderr


def test_continual_for_packs_and_for_kan(place):
    done = call(
        place, "continual", "wine", "--head", "mlp,kan", "--seeds", "0:2", "--features", "reduced", "--epochs", 2
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [one["head"] for one in document["heads"]] == ["mlp", "kan"]
    for one in document["heads"]:
        assert np.shape(one["matrix"]) == (3, 3)
        assert 0 <= one["average"]["mean"] <= 1
    assert (place / "runs/continual/wine-class/continual.svg").is_file()


def test_effi_kan_is_refined_by_the_packs_trainer(place):
    options = ("--head", "effi_kan", "--hidden", 3, "--epochs", 2)
    head = json.loads(call(place, "run", "formula", *options).stdout)["id"]
    document = json.loads(call(place, "refine", head, "--grid", 10).stdout)
    assert document["steps"][0]["moved"] < 1e-4
    assert document["steps"][0]["parameters"] > document["start"]["parameters"]


def test_options_of_a_network_to_be_trained_are_refused_beside_a_head():
    with pytest.raises(ConfigError, match="`hidden`: expected it with `task` alone, found HEAD 0123"):
        explain_command(head="0123", hidden=[3])
