"""Toy data: values against independent references, formulas read safely, splits that do not leak."""

import csv

import numpy as np
import pytest
import scipy.special
from click.testing import CliRunner
from sklearn import datasets

import embed
from pipeline.errors import ConfigError, SourceError, UnknownNameError
from pipeline.sources.expressions import numeric, parse_formula, pole_in
from pipeline.sources.toys import ToyOptions, make_toy, toy_names
from pipeline.store import open_cache


def test_the_default_formula_is_the_kan_papers():
    toy = make_toy("formula", ToyOptions(rows=200))
    assert toy.columns == ("x", "y")
    assert toy.task.labels is None
    for x, y in toy.splits.values():
        assert x.dtype == y.dtype == np.float32
        assert x.shape == (200, 2)
        assert np.abs(x).max() <= 1
        expected = np.exp(np.sin(np.pi * x[:, 0].astype(float)) + x[:, 1].astype(float) ** 2)
        np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert not set(map(bytes, toy.splits["train"][0])) & set(map(bytes, toy.splits["validation"][0]))


def test_ranges_noise_and_seed_are_honoured():
    toy = make_toy("formula", ToyOptions("a*b", ("2,3", "b=-5,-4"), 500, 0.1, seed=3))
    x, y = toy.splits["train"]
    assert x[:, 0].min() >= 2
    assert x[:, 1].max() <= -4
    residual = y - x.prod(1)
    assert residual.std() == pytest.approx(0.1, rel=0.15)
    assert not np.array_equal(x, make_toy("formula", ToyOptions("a*b", ("2,3", "b=-5,-4"), 500)).splits["train"][0])


SPECIAL = {
    "ellipkinc": scipy.special.ellipkinc,
    "ellipeinc": scipy.special.ellipeinc,
    "jv": scipy.special.jv,
    "yv": scipy.special.yv,
    "kv": scipy.special.kv,
    "iv": scipy.special.iv,
    "lpmv_2": lambda x, y: scipy.special.lpmv(2, x, y),
    # Y_1^0 and the real part of Y_2^2 in closed form.
    "sph_harm_01": lambda x, y: np.sqrt(3 / (4 * np.pi)) * np.cos(y),  # noqa: ARG005
    "sph_harm_22": lambda x, y: np.sqrt(15 / (32 * np.pi)) * np.sin(y) ** 2 * np.cos(2 * x),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions_are_the_functions_themselves(name):
    x, y = make_toy(name, ToyOptions(rows=100)).splits["train"]
    np.testing.assert_allclose(y, SPECIAL[name](*x.astype(float).T), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "digits", "diabetes"])
def test_bundled_tables_keep_every_row(name):
    toy, table = make_toy(name, ToyOptions()), getattr(datasets, f"load_{name}")()
    rows = [(*x, y) for split in toy.splits.values() for x, y in zip(*split, strict=True)]
    expected = [(*x, y) for x, y in zip(table.data.astype(np.float32), table.target, strict=True)]
    assert sorted(map(tuple, np.array(rows, float))) == sorted(map(tuple, np.array(expected, float)))
    assert len(toy.columns) == table.data.shape[1]
    assert (toy.task.labels is None) == (name == "diabetes")


def test_numeric_columns_of_a_file(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"{a:.6f}", f"{b:.6f}", "word", round(a * 9)) for a, b in rng.normal(size=(60, 2))]
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "name", "target"), *rows])
    said = []
    toy = make_toy("mine", ToyOptions(data=tmp_path / "mine.csv", label="target", regression=True), said.append)
    assert toy.columns == ("a", "b")
    assert any("'name' left out" in line for line in said)
    assert sum(len(y) for _, y in toy.splits.values()) == 60
    x, y = toy.splits["train"]
    assert toy.task.labels is None
    np.testing.assert_array_equal(y, np.round(x[:, 0] * 9))
    assert make_toy("mine", ToyOptions(data=tmp_path / "mine.csv", label="target")).task.labels is not None


@pytest.mark.parametrize(
    "text",
    [
        "", "pi x", "__import__('os').system('true')", "x.real", "lambda x: x", "[x]", "foo(x)", "sin(x, y)",
        "x if y else z", "True*x", "'x'", "f'{x}'", "x and y", "1/0 + x", "2 + 3", "sin", "x == y", "x := 3",
        "9**9**9**9*x", "sqrt(-1)*x", "((9**99)**99)**99*x", "x" * 501, "{x: 1}", "x[0]", "exp(x, y=2)",
        "await x", "x" + "*(x" * 120,
    ],
)  # fmt: skip
def test_what_is_not_a_formula_is_one_line(text):
    with pytest.raises(SourceError) as info:
        parse_formula(text)
    assert "\n" not in str(info.value)
    assert "formula" in str(info.value)


def test_formulas_mean_what_python_means_with_the_caret_as_power():
    expression, names = parse_formula("-x^2 + 3*abs(y)/ln(e^2) - cos(pi*z)")
    assert names == ("x", "y", "z")
    points = np.random.default_rng(0).normal(size=(20, 3))
    x, y, z = points.T
    np.testing.assert_allclose(numeric(expression, names)(points), -(x**2) + 1.5 * np.abs(y) - np.cos(np.pi * z))


@pytest.mark.parametrize(
    "text",
    ["1/(x - 0.3)", "1/x**2 + y", "log(x)", "tan(2*x)", "1/(x**2 + y**2)", "x**y", "sqrt(x)", "1/(x*y - z + 0.2)"],
)
def test_poles_are_found(text):
    expression, names = parse_formula(text)
    point = pole_in(expression, names, [(-1, 1)] * len(names))
    assert point is not None
    with np.errstate(all="ignore"):
        near = numeric(expression, names)(np.array([list(point.values())]) + 1e-9 * np.array([[1], [-1]]))
    assert not np.isfinite(near).all() or np.abs(near).max() > 1e3 or "log" in text


@pytest.mark.parametrize("text", ["sin(x)/x", "log(x + 2)", "tan(x)", "1/(x**2 + 0.01)", "exp(-x**2)/(1 + exp(-y))"])
def test_what_stays_finite_is_no_pole(text):
    expression, names = parse_formula(text)
    assert pole_in(expression, names, [(-1, 1)] * len(names)) is None


def test_bad_options():
    for options in (
        ToyOptions(rows=3), ToyOptions(seed=-1), ToyOptions(noise=-1.0), ToyOptions(ranges=("1,0",)),
        ToyOptions(ranges=("one,two",)), ToyOptions("exp(exp(x))", ("0,6",)),
    ):  # fmt: skip
        with pytest.raises((ConfigError, SourceError)):
            make_toy("formula", options)
    with pytest.raises(UnknownNameError, match="expected one of x, y"):
        make_toy("formula", ToyOptions(ranges=("z=0,1",)))
    with pytest.raises(UnknownNameError, match="ellipkinc"):
        make_toy("nothing", ToyOptions())
    with pytest.raises(ConfigError, match="`expression`"):
        make_toy("moons", ToyOptions("x"))
    assert len(toy_names()) == len(set(toy_names())) == 2 + 6 + 3 + 5 + 4


def test_a_toy_is_a_cache(tmp_path):
    call = CliRunner().invoke(embed.main, ["toy", "moons", "--rows", "50", "--cache", str(tmp_path), "--json"])
    assert call.exit_code == 0, call.output
    with open_cache(tmp_path / "toy" / "moons.h5") as cache:
        assert cache["train"]["pooled"].shape == (50, 2)
        np.testing.assert_array_equal(cache["train"]["reduced"], cache["train"]["pooled"])
        assert cache.attributes["encoder"] == "toy"
    other = CliRunner().invoke(embed.main, ["toy", "moons", "--rows", "60", "--cache", str(tmp_path)])
    assert other.exit_code == 1
    assert "--force" in other.stderr
    pole = CliRunner().invoke(embed.main, ["toy", "formula", "--expression", "1/x", "--cache", str(tmp_path)])
    assert pole.exit_code == 1
    assert pole.stderr.count("\n") == 1
    assert "x=0" in pole.stderr


def test_a_word_with_an_underscore_is_no_number(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("a,id,label\n" + "".join(f"{n},{n % 9}_{n % 7},{n % 2}\n" for n in range(60)))
    said = []
    toy = make_toy("own", ToyOptions(data=path), said.append)
    assert toy.columns == ("a",)
    assert any("column 'id' left out" in line for line in said)


def test_regression_is_for_files():
    with pytest.raises(ConfigError, match="`regression`: expected with `data`"):
        make_toy("moons", ToyOptions(regression=True))
