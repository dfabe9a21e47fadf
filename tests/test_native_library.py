"""The compiled library: whole, of this user's, and nobody else's, or not loaded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import native

needs_compiler = pytest.mark.skipif(
    os.environ.get("KANGLUE_NATIVE") == "0" or not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="no C compiler",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder, and a compiler of one small file."""
    source = tmp_path / "source.c"
    source.write_text("int answer(void) { return 42; }\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "SOURCES", (str(source),))
    monkeypatch.setattr(native, "HEADERS", ())
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    return tmp_path / "cache" / "kanglue"


def loaded():
    """What the library answers in a process of its own, which has never loaded it before."""
    code = (
        f"from pipeline import native; native.SOURCES, native.HEADERS = {native.SOURCES!r}, (); "
        "print(native.library().answer())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@needs_compiler
def test_compiled_once_and_nothing_left(folder):
    assert loaded() == 42
    (path,) = folder.iterdir()
    assert path.stem.endswith(native.hash_file(path))
    assert folder.stat().st_mode & 0o077 == 0
    made = path.stat()
    assert loaded() == 42
    assert path.stat().st_mtime_ns == made.st_mtime_ns


@needs_compiler
@pytest.mark.parametrize("damage", ["truncated", "zeroed", "empty", "planted", "link"])
def test_a_damaged_or_planted_library_is_never_loaded(folder, damage):
    loaded()
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    if damage == "link":
        path.rename(folder / "elsewhere")
        path.symlink_to(folder / "elsewhere")
    else:
        path.write_bytes(
            {"truncated": whole[:1000], "zeroed": bytes(len(whole)), "empty": b""}.get(damage, whole + b"x")
        )
    assert loaded() == 42
    assert path.read_bytes() == whole
    assert not path.is_symlink()


@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o720, 0o1777])
def test_a_folder_that_others_write_to_is_refused(folder, capsys, mode):
    loaded()
    folder.chmod(mode)
    assert native.library() is None
    assert "expected a folder that only its owner writes to" in capsys.readouterr().err


@needs_compiler
def test_a_folder_of_another_user_is_refused(folder, capsys, monkeypatch):
    loaded()
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert native.library() is None
    assert "found another's" in capsys.readouterr().err


@needs_compiler
def test_a_compiler_that_fails_leaves_nothing(folder, capsys, monkeypatch):
    monkeypatch.setattr(native, "FLAGS", ("-nonsense",))
    assert native.library() is None
    assert "the C code cannot be used" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
