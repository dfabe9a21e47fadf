"""`pip install .` without extras: both commands run from another folder, and an extra that is missing is one line."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parents[1]


def needs(name: str, found: dict[str, importlib.metadata.Distribution]) -> dict[str, importlib.metadata.Distribution]:
    """A distribution and all that it needs, without extras, out of those installed here."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key not in found:
        try:
            found[key] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another platform or Python
            return found
        for requirement in found[key].requires or ():
            if "extra ==" not in requirement:
                needs(re.match(r"[\w.-]+", requirement)[0], found)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of a new environment with kanglue and what it needs, and none of its extras."""
    root = tmp_path_factory.mktemp("install")
    source = root / "source"
    shutil.copytree(ROOT / "pipeline", source / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    venv.create(root / "venv", with_pip=False, symlinks=True)
    python = root / "venv/bin/python"
    packages = next((root / "venv/lib").glob("python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(root), str(source)]
    subprocess.run([*pip, *wheel], check=True, timeout=300)
    (built,) = map(str, root.glob("*.whl"))
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", built], check=True, timeout=300)
    assert {path.name for path in packages.iterdir()} == {"pipeline", f"kanglue-{pipeline.__version__}.dist-info"}
    # What pip would fetch for it is linked from this environment.
    own = importlib.metadata.distributions(path=[str(packages)])
    requirements = [one for dist in own for one in dist.requires if "extra ==" not in one]
    found = {}
    for requirement in requirements:
        needs(re.match(r"[\w.-]+", requirement)[0], found)
    for dist in found.values():
        for top in {file.parts[0] for file in dist.files} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(dist.locate_file(top))
    return root / "venv"


def run(installed: Path, folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [installed / "bin" / command, *arguments],
        cwd=folder, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["kanglue-embed", "kanglue-heads"])
def test_the_commands_say_their_version(installed, tmp_path, command):
    done = run(installed, tmp_path, command, "--version")
    assert (done.returncode, done.stdout) == (0, f"kanglue {pipeline.__version__}\n"), done.stderr


def test_a_default_run_needs_no_extra(installed, tmp_path, tiny):
    encoder = str(tiny("bert"))
    done = run(installed, tmp_path, "kanglue-embed", "run", "mrpc", "--data", "sample", "--encoder", encoder)
    assert done.returncode == 0, done.stderr
    sweep = ("sweep", "--task", "mrpc", "--head", "linear,effi_kan", "--seeds", "0:2", "--epochs", "2")
    done = run(installed, tmp_path, "kanglue-heads", *sweep, "--encoder", encoder, "--cache", "cache/sample")
    assert done.returncode == 0, done.stderr
    done = run(installed, tmp_path, "kanglue-heads", "table")
    assert done.returncode == 0, done.stderr
    assert "effi_kan" in done.stdout
    search = ("--encoder", encoder, "--cache", "cache/sample", "--search", "random", "--trials", "2")
    done = run(installed, tmp_path, "kanglue-heads", *sweep[:5], "--lr", "1e-4:1e-2:log", *search)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "pip install 'kanglue[search]'" in done.stderr


def test_without_its_package_minilm_is_one_line(installed, tmp_path):
    done = run(installed, tmp_path, "kanglue-embed", "run", "mrpc", "--data", "sample", "--encoder", "minilm")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install 'kanglue[minilm]'" in done.stderr


def test_measurements_need_a_checkout(installed, tmp_path):
    done = run(installed, tmp_path, "kanglue-heads", "bench", "--quick")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "expected the folder benchmarks/ of a checkout" in done.stderr
