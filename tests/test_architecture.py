"""The house stands: rooms import downwards, nothing in a circle, click in one room; the map names what exists."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parents[1]
#: Rooms and modules of `pipeline`, bottom to top; those of one line do not import each other.
LAYERS = (
    ("errors", "hashing", "text", "metrics", "versions"),
    ("device", "optional", "paths", "poolings", "progress", "publish", "tasks"),
    ("heads", "native", "sources"),
    ("store",),
    ("encode", "fit"),
    ("models",),
    ("sweep",),
    ("finetune", "log", "report"),
    ("api", "estimators", "export", "serve"),
    ("explain",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
#: Circles that are left: the first imports the second within a function.
LATE = (("pipeline.fit.train", "pipeline.fit.kan_train"), ("pipeline.store.read", "pipeline.store.arrow"))
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "pipeline").rglob("*.py"))
}


def imports(node: ast.AST):
    """Modules that a tree imports when it runs, wherever in it; not those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            yield from (found for other in child.orelse for found in imports(other))
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield inner if inner in PATHS else child.module
        else:
            yield from imports(child)


IMPORTS = {name: set(imports(ast.parse(path.read_text()))) for name, path in PATHS.items()}


def test_every_room_has_a_place():
    assert {name.split(".")[1] for name in PATHS if "." in name} == set(LEVEL)


@pytest.mark.parametrize("name", [name for name in PATHS if "." in name])
def test_a_module_imports_its_own_room_and_those_below(name):
    room = name.split(".")[1]
    others = {other.split(".")[1] for other in IMPORTS[name] if other.startswith("pipeline.")} - {room}
    assert not {other for other in others if LEVEL[other] >= LEVEL[room]}


def test_no_modules_import_each_other_in_a_circle():
    ours = {name: others & set(PATHS) - {name, "pipeline"} for name, others in IMPORTS.items() if name != "pipeline"}
    for name, other in LATE:
        ours[name].discard(other)
    graphlib.TopologicalSorter(ours).prepare()


def test_only_the_command_line_imports_click():
    assert {name.split(".")[1] for name in PATHS if "click" in IMPORTS[name]} == {"cli"}


@pytest.mark.parametrize("page", ["architecture.md", "glossary.md"])
def test_what_a_page_names_exists(page):
    text = (ROOT / "docs" / page).read_text()
    paths = re.findall(r"`((?:pipeline|tests|docs|benchmarks)/[\w./*-]*)`", text)
    assert not [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]
    names = re.findall(r"`(pipeline/[\w/]+\.py)`:\s`(\w+)`", text)
    assert not [(path, name) for path, name in names if name not in (ROOT / path).read_text()]
