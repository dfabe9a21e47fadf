"""The commands of docs/inside.md run as they stand there, with few steps."""

import json
import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

import embed
import fit_heads
import pipeline

PAGE = Path(__file__).parents[1] / "docs/inside.md"
COMMANDS = [
    line.split(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
]
#: Fewer rows and steps, for the tests' sake.
QUICK = {
    "toy": [], "explain": ["--steps", "2", "--seconds", "0.2", "--hidden", "2", "--inputs", "2", "--library", "x,x^2"],
    "continual": ["--epochs", "1"], "run": ["--epochs", "1"], "refine": ["--steps", "1"],
}  # fmt: skip


def test_the_page_has_a_command_for_each_step():
    assert {shlex.split(command)[2] for command in COMMANDS} == {"toy", "explain", "continual", "run", "refine"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    from tests.helpers.synthetic_caches import write_cache

    write_cache(root / "cache/sample", encoder="minilm", features=("mean",), width=8)
    assert CliRunner().invoke(embed.main, ["toy", "wine", "--cache", str(root / "cache")]).exit_code == 0
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("pipeline.explain.command.fit", partial(pipeline.fit, epochs=2))
    _, program, *arguments = shlex.split(command)
    quick = [*arguments, *QUICK[arguments[0]]]
    if "ID" in quick:  # the id that a reader has from the command before
        head = ["run", "wine", "--head", "effi_kan", "--epochs", "1", "--json"]
        quick[quick.index("ID")] = json.loads(CliRunner().invoke(fit_heads.main, head).stdout)["id"]
    if arguments[0] == "toy" and arguments[1] != "wine":
        quick += ["--rows", "60"]
    done = CliRunner().invoke({"embed.py": embed, "fit_heads.py": fit_heads}[program].main, quick)
    assert done.exit_code == 0, done.output


def test_pictures_of_the_page_are_there():
    shown = re.findall(r"!\[[^]]+\]\((inside/[^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(f"inside/{path.name}" for path in (PAGE.parent / "inside").iterdir())
    assert len(shown) >= 5
