"""Heads as one PyTorch file, as the packages' state dicts, as ONNX, and back: the same outputs everywhere."""

import ast
import importlib.util
import itertools
import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

import fit_heads
import pipeline
from pipeline.errors import ConfigError, ResultsError
from pipeline.export import modules, torch_file
from pipeline.export.load import load_weights
from pipeline.export.onnx_file import write_onnx
from pipeline.export.packages import PACKAGES, from_package, to_package
from pipeline.export.torch_file import network_document, state_of, torch_source
from pipeline.fit.data import Scaling
from pipeline.heads.bases import EXPANSIONS
from pipeline.heads.cost import parameters, product_flops
from pipeline.heads.families import ACTIVATIONS, FAMILIES, build_network
from pipeline.heads.initialization import start
from pipeline.heads.network import BASES, Branch, Grid, LayerSpec, NetworkSpec
from pipeline.heads.resolve import resolve
from pipeline.models.saved import SavedHead, load_head
from tests.helpers.synthetic_caches import arrays_of, write_cache

PACKABLE = [name for name, family in FAMILIES.items() if not family.own_loop]
LABELS = ("no", "yes", 'a "third"')


def made(family, inputs=7, labels=LABELS, network=None, seed=0, **options):
    """A head with random weights of the size that training gives them."""
    config = resolve(family, seed=seed, features="pooled", options={"hidden": (5,)} | options)
    network = network or build_network(config, inputs, 1 if labels is None else len(labels))
    generator = torch.Generator().manual_seed(seed)
    shapes = network.shapes()
    tensors = start(config, network) if network == build_network(config, inputs, network.outputs) else {}
    tensors = {
        name: tensors.get(name, torch.zeros(shape)) + 0.2 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }
    rng = np.random.default_rng(seed)
    shift, factor = rng.normal(size=inputs).astype(np.float32), rng.uniform(0.5, 2, inputs).astype(np.float32)
    if config.scale == "none":
        shift, factor = np.zeros(inputs, np.float32), np.ones(inputs, np.float32)
    provenance = {"task": "mine", "encoder": "tiny", "fingerprint": "f" * 64, "labels": labels}
    target = (50.0, 12.5) if labels is None else (0.0, 1.0)
    return SavedHead(
        "0123456789abcdef", config, network, tensors, Scaling(config.scale, shift, factor), target, labels, provenance
    )


def written(head, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "head.py").write_text(torch_source(head))
    document = {"network": network_document(head), "labels": head.labels}
    (folder / "config.json").write_text(json.dumps(document))
    save_file(state_of(head), folder / "head.safetensors")
    return runpy.run_path(str(folder / "head.py"))["load"]()


def rows_of(head, rows=40, spread=2.0):
    return np.random.default_rng(1).normal(size=(rows, head.network.inputs), scale=spread).astype(np.float32)


def test_every_basis_has_a_module():
    assert set(modules.MODULES) == set(BASES)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("grid", [Grid(), Grid(-1.0, 2.5, 4, 2, 5, 0.5), Grid(-0.3, 0.2, 1, 1, 2, 2.0)])
def test_modules_are_the_bases(basis, grid):
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)) * 2
    module = modules.make(modules.MODULES[basis].description(grid))
    expected = EXPANSIONS[basis](x, grid)
    assert module.width == BASES[basis].width(grid) == expected.shape[-1]
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
    assert not list(module.parameters())


CASES = [
    *[(name, {}) for name in PACKABLE],
    ("mlp", {"hidden": (6, 4), "scale": "tanh"}), ("linear", {"scale": "none"}),
    ("effi_kan", {"spline_scaler": True, "grid": 3, "order": 5, "grid_range": (-1, 2)}),
    ("effi_kan", {"hidden": (4, 3)}),
    ("fast_kan", {"centres": 3}), ("faster_kan", {"sharpness": 0.5, "scale": "none"}),
    ("ensemble_kan", {"hidden": (4, 3), "spline_scaler": True}), ("effi_kan", {"base": "identity", "layer_norm": True}),
    *[("mlp", {"activation": name}) for name in ACTIVATIONS],
    ("bspline_mlp", {"activation": "silu", "layer_norm": True}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "options"), CASES, ids=lambda value: value if isinstance(value, str) else None)
@pytest.mark.parametrize("labels", [LABELS, None], ids=["classes", "value"])
def test_one_file_has_the_heads_outputs_and_parameters(tmp_path, family, options, labels):
    head = made(family, labels=labels, **options)
    module = written(head, tmp_path)
    x = rows_of(head)
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    expected = head.predict(x)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)
    assert sum(p.numel() for p in module.parameters()) == parameters(head.network)
    assert not module.training


@pytest.mark.parametrize("family", PACKABLE)
def test_costs_over_a_grid_of_shapes(tmp_path, family):
    for inputs, hidden, grid, order, centres in ((3, (2,), 1, 1, 2), (8, (5, 4), 7, 4, 6), (1, (1,), 2, 5, 9)):
        options = {"hidden": hidden, "grid": grid, "order": order, "centres": centres}
        head = made(family, inputs=inputs, **options)
        module = written(head, tmp_path / f"{inputs}")
        count = sum(p.numel() for p in module.parameters())
        assert count == parameters(head.network) == sum(tensor.numel() for tensor in head.tensors.values())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.zeros(4, inputs))
        assert counter.get_total_flops() == 4 * product_flops(head.network)


@pytest.mark.parametrize("family", PACKABLE)
def test_the_file_imports_torch_and_the_standard_library_alone(family):
    tree = ast.parse(torch_source(made(family)))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= {"json", "math", "pathlib", "torch", "torch.nn"}
    assert max(map(len, torch_source(made(family)).splitlines())) <= 200


def test_nothing_of_a_head_stands_in_the_source(tmp_path):
    """Whatever a head's names say, the file is the same, and they reach it as data."""
    head = made("linear", labels=('"""\nimport os\n"""', "'\\"))
    strange = replace(head, id='"""\nboom()', provenance=head.provenance | {"task": "\\"})
    assert torch_source(strange) == torch_source(made("linear", labels=None, inputs=9))
    written(strange, tmp_path)
    assert runpy.run_path(str(tmp_path / "head.py"))["LABELS"] == head.labels


def test_a_basis_without_a_module_is_named(monkeypatch):
    monkeypatch.delitem(modules.MODULES, "radial")
    monkeypatch.setattr(torch_file, "MODULES", modules.MODULES)
    with pytest.raises(ConfigError, match="found 'radial'"):
        torch_source(made("fast_kan"))


def test_onnx_has_the_outputs_for_any_number_of_rows(tmp_path):
    """One network with every basis, a norm, a scaler and units, two stacks deep enough to hold them all."""
    import onnxruntime

    grid = Grid(-2, 2, 4, 3, 5, 0.7)
    layers = (
        LayerSpec(
            6, 5, tuple(Branch(name, normed=place % 2 == 1) for place, name in enumerate(BASES)), grid, bias=True
        ),
        LayerSpec(5, 3, (Branch("b_spline"), Branch("silu")), grid, scaler=True),
        LayerSpec(6, 5, (Branch("b_spline"), Branch("relu")), grid, bias=True, units=6),
        LayerSpec(5, 3, (Branch("polynomial2"),), grid, bias=True, units=1),
    )
    head = made("effi_kan", inputs=6, network=NetworkSpec(layers, 2), scale="tanh")
    write_onnx(head, tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "head.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["rows", 6]
    for rows in (1, 2, 33):
        x = rows_of(head, rows, 0.7)
        (found,) = session.run(None, {"features": x})
        with torch.no_grad():
            expected = written(head, tmp_path / "torch")(torch.from_numpy(x)).numpy()
        assert expected.std() > 0.1
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["head.onnx"]


def kan_head(labels=LABELS):
    """A `kan` head with random weights, knots of its own for every input, two of them equal, and a pruned edge."""
    config = resolve("kan", seed=0, features="pooled", options={"hidden": (), "grid": 4, "order": 2})
    network = build_network(config, 5, len(labels))
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in network.shapes().items()}
    for name in tensors:
        if name.endswith("grid"):
            tensors[name] = tensors[name].mul(2).sort(1).values
            tensors[name][0, 3] = tensors[name][0, 2]
        elif name.endswith("mask"):
            tensors[name] = (tensors[name] > -1).float()
    rest = made("linear", inputs=5, labels=labels)
    return replace(rest, config=config, network=network, tensors=tensors)


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_pykans_family_too(tmp_path, form):
    head = kan_head()
    x = rows_of(head)
    expected = head.predict(x)
    if form == "torch":
        module = written(head, tmp_path)
        assert sum(p.numel() for p in module.parameters()) == parameters(head.network)
        with torch.no_grad():
            found = module(torch.from_numpy(x)).numpy()
    else:
        import onnxruntime

        write_onnx(head, tmp_path)
        found = onnxruntime.InferenceSession(str(tmp_path / "head.onnx")).run(None, {"features": x})[0]
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.fixture(scope="module")
def efficient_kan():
    """efficient-kan as kan-gpt carries it, from its file alone."""
    package = importlib.util.find_spec("kan_gpt")
    assert package is not None, "kan-gpt is not installed: pip install --no-deps kan-gpt==1.2.0 (make setup does it)"
    file = Path(package.submodule_search_locations[0]) / "efficient_kan" / "model.py"
    spec = importlib.util.spec_from_file_location("efficient_kan_model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Layers(torch.nn.Module):
    """A package's layers under the name that its networks give them."""

    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class FastLayer(torch.nn.Module):
    """fast-kan's layer, from its formula and the names of its weights."""

    def __init__(self, inputs, outputs, low, high, count):
        super().__init__()
        self.layernorm = torch.nn.LayerNorm(inputs)
        self.rbf = torch.nn.Module()
        self.rbf.grid = torch.nn.Parameter(torch.linspace(low, high, count), requires_grad=False)
        self.width = (high - low) / (count - 1)
        self.spline_linear = torch.nn.Linear(inputs * count, outputs, bias=False)
        self.base_linear = torch.nn.Linear(inputs, outputs)

    def forward(self, x):
        phi = torch.exp(-(((self.layernorm(x)[..., None] - self.rbf.grid) / self.width) ** 2))
        return self.spline_linear(phi.reshape(len(x), -1)) + self.base_linear(torch.nn.functional.silu(x))


class FasterLayer(torch.nn.Module):
    """faster-kan's layer: its published forward."""

    def __init__(self, inputs, outputs, low, high, count):
        super().__init__()
        self.layernorm = torch.nn.LayerNorm(inputs)
        self.rbf = torch.nn.Module()
        self.rbf.grid = torch.nn.Parameter(torch.linspace(low, high, count), requires_grad=False)
        self.rbf.inv_denominator = torch.nn.Parameter(torch.tensor(0.5), requires_grad=False)
        self.spline_linear = torch.nn.Linear(inputs * count, outputs, bias=False)

    def forward(self, x):
        phi = 1 - torch.tanh(self.layernorm(x)[..., None] - self.rbf.grid) ** 2
        return self.spline_linear(phi.reshape(len(x), -1))


def peer(efficient_kan, family, config, widths):
    low, high = config.grid_range
    pairs = list(itertools.pairwise(widths))
    if family == "effi_kan":
        make = efficient_kan.KANLinear
        return Layers(make(i, o, config.grid, config.order, grid_range=[low, high]) for i, o in pairs)
    kind = FastLayer if family == "fast_kan" else FasterLayer
    return Layers(kind(i, o, low, high, config.centres) for i, o in pairs)


ROUND = [
    ("effi_kan", {}), ("effi_kan", {"spline_scaler": True}),
    ("effi_kan", {"spline_scaler": True, "grid": 9, "order": 2, "grid_range": (-1, 1), "hidden": (6, 4)}),
    ("effi_kan", {"grid": 1, "order": 1, "hidden": ()}), ("fast_kan", {}),
    ("fast_kan", {"centres": 5, "hidden": (4, 4, 4)}), ("faster_kan", {}), ("faster_kan", {"centres": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "options"), ROUND)
def test_into_the_original_package_and_back(efficient_kan, family, options):
    head = made(family, inputs=9, scale="none", **options)
    state = to_package(family, head.network, head.tensors)
    widths = (9, *head.config.hidden, 3)
    theirs = peer(efficient_kan, family, head.config, widths)
    theirs.load_state_dict(state)  # strict: every key, every shape
    x = rows_of(head)
    with torch.no_grad():
        found = theirs(torch.from_numpy(x)).numpy()
    expected = head.predict(x)
    assert expected.std() > 0.02
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    back = from_package(family, {name: tensor.clone() for name, tensor in theirs.state_dict().items()}, "peer")
    assert back.widths == widths
    # A head without a scaler comes back from the package with one of ones.
    options = {"hidden": widths[1:-1], "scale": "none"} | back.options
    again = made(family, inputs=9, **options)
    again = replace(again, tensors=back.tensors)
    assert {name: tuple(t.shape) for name, t in back.tensors.items()} == again.network.shapes()
    np.testing.assert_allclose(again.predict(x), expected, rtol=1e-5, atol=1e-5)


def test_efficient_kans_own_network_takes_the_file(efficient_kan, tmp_path):
    """kan-gpt's KAN takes its grid's size for the order too, so both are three here."""
    head = made("effi_kan", inputs=6, grid=3, order=3, grid_range=(-1, 1), scale="none", spline_scaler=True)
    save_file(to_package("effi_kan", head.network, head.tensors), tmp_path / "kan.safetensors")
    theirs = efficient_kan.KAN([6, 5, 3], grid=3, k=3)
    theirs.load_state_dict(load_file(tmp_path / "kan.safetensors"))
    x = rows_of(head)
    with torch.no_grad():
        found = theirs(torch.from_numpy(x)[:, None])[:, 0].numpy()
    assert np.abs(found - head.predict(x)).max() <= 1e-5


@pytest.mark.parametrize("options", [{"base": "zero"}, {"layer_norm": True}, {"base": "identity"}])
def test_what_a_package_has_no_weights_for_is_refused(options):
    head = made("effi_kan", **options)
    with pytest.raises(ConfigError, match="efficient-kan, found other options"):
        to_package("effi_kan", head.network, head.tensors)


# --- folders -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a cache and a trained head of every packable family: {family: id}, three seeds of effi_kan."""
    root = tmp_path_factory.mktemp("export")
    write_cache(root / "cache", width=6)
    pipeline.sweep(
        task=["rte"], head=list(FAMILIES), encoder=["tiny"], cache=root / "cache", results=root / "r.sqlite", hidden=4,
        epochs=2, device="cpu", seeds="0:3",
    )  # fmt: skip
    from pipeline.sweep.results import Results

    with Results(root / "r.sqlite") as store:
        return root, {head["head"]: head["id"] for head in store.heads({"seed": 1})}


def run(place, *arguments):
    root = place[0]
    return CliRunner().invoke(
        fit_heads.main, [*arguments, "--results", str(root / "r.sqlite"), "--cache", str(root / "cache")]
    )


@pytest.mark.parametrize("form", ["torch", "safetensors"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_folder_loads_back_as_the_same_head(trained, tmp_path, family, form):
    root, ids = trained
    done = run(trained, "export", ids[family], "--format", form, "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["id"], document["head"], document["format"]) == (ids[family], family, form)
    assert set(document["files"]) >= {"README.md", "config.json"}
    known = load_weights(tmp_path / "out", results=root / "r.sqlite")
    assert (known.id, known.parameters) == (ids[family], document["parameters"])
    # Elsewhere nothing proves that the weights were trained: they are named by what they are.
    back = load_weights(tmp_path / "out", results=tmp_path / "r.sqlite")
    assert back.id != ids[family]
    assert load_weights(tmp_path / "out", results=tmp_path / "r.sqlite").id == back.id
    first, second = load_head(root / "heads" / ids[family]), load_head(Path(back.folder))
    assert (first.config, first.labels) == (second.config, second.labels)
    assert second.provenance == first.provenance | {"loaded_from": "out"}
    x = arrays_of(root / "cache/tiny/rte.h5", "validation")[0]
    np.testing.assert_array_equal(first.predict(x), second.predict(x))
    card = (tmp_path / "out/README.md").read_text()
    for words in (f"# {family} head for rte on tiny", "| validation (80) | accuracy |", "Over the 3 replicates",
                  "## How it was trained", "## How to use it", "## Limits"):  # fmt: skip
        assert words in card


def test_the_cards_intervals(trained, tmp_path):
    """Of accuracy over n rows, the percentile interval is close to the binomial one."""
    from statsmodels.stats.proportion import proportion_confint

    run(trained, "export", trained[1]["mlp"], "--out", str(tmp_path / "out"))
    line = next(line for line in (tmp_path / "out/README.md").read_text().splitlines() if "(80) | accuracy" in line)
    _, _, _, value, interval, _ = (part.strip() for part in line.split("|"))
    low, high = map(float, interval.split(" to "))
    expected = proportion_confint(round(float(value) * 80), 80, method="beta")
    assert (low, high) == pytest.approx(expected, abs=0.04)


def test_changed_weights_are_another_head(trained, tmp_path, efficient_kan):
    """Trained on in efficient-kan, the scaler too: the same outputs, under another name, said in its card."""
    root, ids = trained
    out = tmp_path / "out"
    run(trained, "export", ids["effi_kan"], "--format", "safetensors", "--out", str(out))
    state = load_file(out / "model.safetensors")
    for name in state:
        if not name.endswith("grid"):
            state[name] = state[name] + 0.1 * torch.randn(state[name].shape)
    save_file(state, out / "model.safetensors")
    back = load_weights(out, results=tmp_path / "r.sqlite")
    assert back.id != ids["effi_kan"]
    head = load_head(Path(back.folder))
    theirs = Layers(efficient_kan.KANLinear(i, o, grid_range=[-3, 3]) for i, o in ((6, 4), (4, 2)))
    theirs.load_state_dict(state)
    x = arrays_of(root / "cache/tiny/rte.h5", "validation")[0]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(head.scaling.apply(x))).numpy()
    np.testing.assert_allclose(head.predict(x), expected, rtol=1e-5, atol=1e-5)
    pipeline.export(back.folder, out=tmp_path / "again", results=tmp_path / "r.sqlite")
    assert "weights were loaded from `out`" in (tmp_path / "again/README.md").read_text()


@pytest.mark.parametrize("family", PACKAGES)
def test_a_state_dict_of_ones_own(trained, tmp_path, family):
    head = made(family, inputs=6, labels=("entailment", "not_entailment"), scale="none", grid_range=(-1, 1.5))
    save_file(to_package(family, head.network, head.tensors), tmp_path / "mine.safetensors")
    done = run(
        trained,
        "load",
        str(tmp_path / "mine.safetensors"),
        "--head",
        family,
        "--task",
        "rte",
        "--encoder",
        "tiny",
        "--json",
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    x, y = arrays_of(trained[0] / "cache/tiny/rte.h5", "validation")
    back = pipeline.load_head(document["id"], results=trained[0] / "r.sqlite")
    np.testing.assert_allclose(back.predict(x), head.predict(x), rtol=1e-5, atol=1e-5)
    expected = float((head.predict(x).argmax(1) == y).mean())
    assert document["metrics"]["validation"]["accuracy"] == pytest.approx(expected)
    assert back.config.grid_range == (-1.0, 1.5)


def without(state, part):
    return {name: tensor for name, tensor in state.items() if part not in name}


def first_twice(state):
    first = without(state, "layers.1")
    return first | {name.replace("layers.0", "layers.1"): tensor for name, tensor in first.items()}


#: Changes of a sound state dict, and what the error must say.
BROKEN = {
    "unknown key": (lambda s: s | {"layers.0.extra": torch.zeros(2)}, "found 'layers.0.extra'"),
    "foreign key": (lambda _: {"encoder.weight": torch.zeros(2)}, "found 'encoder.weight'"),
    "missing key": (lambda s: without(s, "layers.1.base"), "expected the key layers.1.base_weight"),
    "missing layer": (lambda s: without(s, "layers.0"), "expected layers.0 to layers.N"),
    "empty": (lambda _: {}, "found no layers"),
    "wrong shape": (
        lambda s: s | {"layers.0.base_weight": torch.zeros(5, 7)}, "expected the shape [5, 6], found [5, 7]",
    ),
    "wrong axes": (
        lambda s: s | {"layers.0.spline_weight": torch.zeros(5, 6)}, "expected the shape [outputs, inputs, G + k]",
    ),
    "wrong knots": (lambda s: s | {"layers.0.grid": torch.zeros(6, 30)}, "found 30 knots"),
    "falling knots": (
        lambda s: s | {"layers.0.grid": s["layers.0.grid"].flip(1)}, "expected knots that rise along every row",
    ),
    "one knot": (lambda s: s | {"layers.1.grid": s["layers.1.grid"] * 0}, "expected knots that rise along every row"),
    "other chain": (first_twice, "expected 5 inputs, as the layer before gives, found 6"),
    "not finite": (lambda s: s | {"layers.0.base_weight": torch.full((5, 6), float("nan"))}, "not finite"),
    "integers": (lambda s: s | {"layers.0.base_weight": torch.ones(5, 6, dtype=torch.int64)}, "found int64"),
    "other width": (None, "expected 6 inputs and 2 outputs for 'pooled'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_state_dict_is_one_line(trained, tmp_path, name):
    change, words = BROKEN[name]
    head = made("effi_kan", inputs=6 if change else 8, labels=("a", "b"), scale="none", hidden=(5,))
    state = to_package("effi_kan", head.network, head.tensors)
    state = change(state) if change else state
    save_file({key: tensor.clone() for key, tensor in state.items()}, tmp_path / "x.safetensors")
    done = run(
        trained, "load", str(tmp_path / "x.safetensors"), "--head", "effi_kan", "--task", "rte", "--encoder", "tiny"
    )
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "x.safetensors" in done.stderr
    assert words in done.stderr, done.stderr
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "nope"), "head 'nope': expected a folder or an id"),
        (("export", ""), "head: expected a plain name"),
        (("export", ".."), "head: expected a plain name"),
        (("export", "../heads/ID"), "head: expected a plain name"),
        (("export", "ID", "--out", "FILE/below"), "expected to write an export"),
        (("load", "none"), "none: expected an exported folder or a safetensors file, found nothing"),
        (("export", "ID", "--format", "pickle"), "unknown format 'pickle': expected one of torch, safetensors, onnx"),
        (("export", "ID", "--out", "FAMILIES"), "expected a new folder, found other things there"),
        (("export", "ID", "--out", "FAMILIES", "--force"), "expected a new folder, found other things there"),
        (("export", "ID", "--out", "FILE"), "expected a new folder, found a file there"),
        (("load", "none.safetensors", "--head", "effi_kan", "--task", "rte"), "found nothing"),
        (("load", "FILE", "--head", "effi_kan", "--task", "rte"), "expected a whole safetensors file"),
        (("load", "PICKLE", "--head", "effi_kan", "--task", "rte"), "pickled weights are never loaded"),
        (("load", "FILE"), "expected --head FAMILY and --task TASK beside a state dict"),
        (("load", "FILE", "--head", "mlp", "--task", "rte"), "expected one of effi_kan, fast_kan, faster_kan"),
        (("load", "FAMILIES"), "expected an exported head's, found no format in it"),
        (("load", "EMPTY"), "config.json: expected a file, found nothing"),
        (("load", "EMPTY", "--head", "mlp"), "expected no --head and --task beside an exported folder"),
    ],
)
def test_mistakes_are_one_line(trained, tmp_path, arguments, words):
    root, ids = trained
    head = root / "heads" / ids["mlp"]
    (tmp_path / "file").write_text("x" * 50)
    torch.save({"a": torch.zeros(2)}, tmp_path / "p.pt")
    (tmp_path / "empty").mkdir()
    places = {"ID": ids["mlp"], "FAMILIES": str(head), "FILE": str(tmp_path / "file"), "PICKLE": str(tmp_path / "p.pt"),
              "EMPTY": str(tmp_path / "empty")}  # fmt: skip
    done = run(trained, *(places.get(one, one.replace("FILE/", str(tmp_path / "file") + "/")) for one in arguments))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert "unexpected" not in done.stderr
    assert (head / "head.safetensors").is_file()


@pytest.mark.parametrize("damage", ["cut", "gone", "other shape", "one more", "scaling gone", "config"])
def test_a_damaged_export(trained, tmp_path, damage):
    form = "torch" if damage in ("other shape", "one more") else "safetensors"
    out = tmp_path / "out"
    run(trained, "export", trained[1]["effi_kan"], "--format", form, "--out", str(out))
    file = out / ("head.safetensors" if form == "torch" else "model.safetensors")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "gone":
        file.unlink()
    elif damage == "scaling gone":
        (out / "scaling.safetensors").unlink()
    elif damage == "config":
        config = json.loads((out / "config.json").read_text())
        config["config"]["grid"] = 6
        (out / "config.json").write_text(json.dumps(config))
    else:
        state = load_file(file)
        name = "layers.0.weight" if damage == "other shape" else "layers.9.weight"
        extra = {name: torch.zeros(3, 3)}
        save_file(state | extra, file)
    with pytest.raises(ResultsError) as caught:
        load_weights(out, results=tmp_path / "r.sqlite")
    assert "\n" not in str(caught.value)
    assert str(out) in str(caught.value)


def test_an_export_is_replaced_only_by_force(trained, tmp_path):
    out = tmp_path / "out"
    assert run(trained, "export", trained[1]["mlp"], "--out", str(out)).exit_code == 0
    done = run(trained, "export", trained[1]["linear"], "--out", str(out), "--format", "safetensors")
    assert done.exit_code == 1
    assert "--force replaces it" in done.stderr
    done = run(trained, "export", trained[1]["linear"], "--out", str(out), "--format", "safetensors", "--force")
    assert done.exit_code == 0, done.output
    assert not (out / "head.py").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_its_packages_onnx_is_one_line(trained, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else find(name, *a))
    done = run(trained, "export", trained[1]["mlp"], "--format", "onnx", "--out", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert "expected the package onnxscript, found it not installed; run `pip install 'kanglue[onnx]'`" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_onnx_export_is_a_folder_too(trained, tmp_path):
    out = tmp_path / "out"
    done = run(trained, "export", trained[1]["linear"], "--format", "onnx", "--out", str(out))
    assert done.exit_code == 0, done.output
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out / "head.onnx"), providers=["CPUExecutionProvider"])
    x = arrays_of(trained[0] / "cache/tiny/rte.h5", "validation")[0]
    head = load_head(trained[0] / "heads" / trained[1]["linear"])
    np.testing.assert_allclose(session.run(None, {"features": x})[0], head.predict(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ResultsError, match="found ONNX, which keeps no weights by name"):
        load_weights(out, results=tmp_path / "r.sqlite")
    shutil.rmtree(out)
