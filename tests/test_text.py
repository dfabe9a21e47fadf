"""Text from elsewhere as it is shown, and names from elsewhere as paths."""

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.table import Table

import fit_heads
import pipeline
from pipeline.errors import CacheError, ConfigError, ResultsError
from pipeline.paths import LONGEST, check_name, child
from pipeline.store.schema import check_attributes
from pipeline.text import csv_cell, json_text, printable, terminal
from tests.helpers.synthetic_caches import write_cache

ESCAPES = "\x1b]0;owned\x07\x1b[31mred\x9b31m\u202egnp\x7f\r\b\ud800"


def acts(text):
    return any(
        (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u202a\u202e\u2066\ud800" for c in text
    )


def test_nothing_that_a_terminal_acts_on_is_printed():
    assert acts(ESCAPES)
    assert not acts(printable(ESCAPES))
    assert printable("plain ü 漢 \U0001f600\n\ttab") == "plain ü 漢 \U0001f600\n\ttab"
    out = io.StringIO()
    shown = Table(title=ESCAPES)
    shown.add_column(ESCAPES)
    shown.add_row(f"{ESCAPES}[red]as it stands[/red]")
    terminal(file=out, width=200).print(shown)
    assert not acts(out.getvalue())
    assert "[red]as it stands[/red]" in out.getvalue()


def test_a_terminals_own_colours_stay():
    out = io.StringIO()
    terminal(file=out, force_terminal=True, color_system="standard", width=40).print("x", style="red")
    assert "\x1b[31mx" in out.getvalue()


def test_json_is_strict_and_harmless():
    document = {"a": [math.nan, -math.inf, 1.5], "b": {"c": (math.inf, True)}, "text": ESCAPES}
    written = json_text(document, indent=2)
    assert not acts(written)

    def refuse(name):
        raise AssertionError(name)

    read = json.loads(written, parse_constant=refuse)
    assert read == {"a": [None, None, 1.5], "b": {"c": [None, True]}, "text": ESCAPES}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_cells_are_no_formulas(text):
    assert not str(csv_cell(text)).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert csv_cell(-1.5) == -1.5
    assert csv_cell("mrpc") == "mrpc"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a\x00", "a\nb", "\x1b[31m", "a" * (LONGEST + 1), "\ud800", 3, None],
)
def test_names_that_lead_elsewhere_are_refused(name):
    for error in (ConfigError, ResultsError):
        with pytest.raises(error, match="expected a plain name") as caught:
            child(Path("heads"), name, "head", error)
        assert not acts(str(caught.value))


@pytest.mark.parametrize(
    "name", ["0123456789abcdef", "mrpc.len128", "bert-base-cased", "ü 漢", ".hidden", "a" * LONGEST]
)
def test_plain_names_are_paths(name):
    assert child(Path("heads"), name, "head") == Path("heads") / name
    assert check_name(name, "head") == name


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A cache and a head whose class names are escapes and formulas."""
    root = tmp_path_factory.mktemp("hostile")
    write_cache(root / "cache", task="own", kind="sum", width=4, labels=("=cmd()", "\x1b]0;owned\x07"))
    done = pipeline.sweep(task=["own"], head=["linear"], encoder=["tiny"], cache=root / "cache",
                          results=root / "r.sqlite", epochs=1, device="cpu")  # fmt: skip
    return root, done.ids[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("table",),
        ("table", "--json"),
        ("table", "--csv"),
        ("table", "--sql", "SELECT class_names FROM caches"),
        ("table", "--sql", "SELECT char(27) || '[31m' AS \"=x\"", "--csv"),
        ("export", "ID", "--json"),
        ("report", "--json"),
        ("predict", "\x1b[31m", "x"),
        ("run", "\x1b[31m", "--head", "mlp"),
    ],
)
def test_no_command_prints_what_acts(hostile, tmp_path, arguments):
    root, name = hostile
    given = [name if one == "ID" else one for one in arguments]
    out = {"export": ["--out", str(tmp_path / "out")], "report": ["--out", str(tmp_path / "r.html")]}.get(given[0], [])
    done = CliRunner().invoke(
        fit_heads.main, [*given, *out, "--results", str(root / "r.sqlite"), "--cache", str(root / "cache")]
    )
    assert "unexpected" not in done.output
    assert not acts(done.output)
    if "--csv" in given:
        for row in csv.reader(io.StringIO(done.stdout)):
            assert not [cell for cell in row if cell.startswith(("=", "@", "+"))]


def test_cache_attributes_are_checked(hostile):
    root, _ = hostile
    with pipeline.open_cache(next((root / "cache").rglob("*.h5"))) as cache:
        whole = cache.attributes
    assert check_attributes(whole) == whole
    for change in (
        {"encoder": "../../elsewhere"}, {"encoder": ".."}, {"task": "a/b"}, {"labels": [1, 2]}, {"layers": ["x"]},
        {"max_length": "128"}, {"limit": True}, {"fingerprint": "0" * 64}, {"versions": None},
    ):  # fmt: skip
        with pytest.raises(CacheError):
            check_attributes(whole | change)
    with pytest.raises(CacheError):
        check_attributes([])


def test_modules_of_text_and_paths_need_nothing_heavy():
    code = "import sys, pipeline.text, pipeline.paths; print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["r.sqlite", "notes.txt"])
def test_a_report_replaces_pages_alone(hostile, tmp_path, name):
    root, _ = hostile
    (tmp_path / "notes.txt").write_text("mine")
    out = root / name if name == "r.sqlite" else tmp_path / name
    before = out.read_bytes()
    given = ["report", "--out", str(out), "--results", str(root / "r.sqlite"), "--cache", str(root / "cache")]
    done = CliRunner().invoke(fit_heads.main, given)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert out.read_bytes() == before
