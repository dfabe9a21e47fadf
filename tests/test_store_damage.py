"""Damaged and hostile files: an error in one line, or exactly the original numbers; never anything else."""

import os
import random
import subprocess
import sys
import time

import pytest

from pipeline.errors import CacheError
from pipeline.store import open_cache, verify
from tests.helpers import store_hostile
from tests.helpers import store_kit as kit

FLIPS, CUTS = 200, 50


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.h5"
    kit.write(path, splits={"train": 120, "test": 60})
    return path, path.read_bytes(), kit.contents(path)


def numbers_or_error(path, original) -> bool:
    """Whether reading raises; anything that is read must be the original."""
    faults = []
    try:
        with open_cache(path) as cache:
            for split in cache:
                for name in cache[split].names:
                    try:
                        found = cache[split][name]
                        found = tuple(part.tobytes() for part in found[:]) if name == "last_hidden" else found
                    except CacheError as error:
                        faults.append(str(error))
                        continue
                    found = found if isinstance(found, list | tuple) else (found.tobytes(), found.shape)
                    assert found == original[split, name], f"{split}/{name} reads as something else"
    except CacheError as error:
        faults.append(str(error))
    assert all("\n" not in fault for fault in faults)
    return bool(faults)


def test_every_flipped_byte_is_caught(tmp_path, good):
    _, data, original = good
    path, chance = tmp_path / "x.h5", random.Random(3)
    index = data.find(b"FAHD")
    places = [chance.randrange(len(data)) for _ in range(FLIPS)]
    places += [chance.randrange(index, len(data)) for _ in range(FLIPS // 4)] + list(range(0, 48, 5))
    silent = 0
    for place in places:
        spoilt = bytearray(data)
        spoilt[place] ^= chance.randrange(1, 256)
        path.write_bytes(spoilt)
        report = verify(path)
        assert report.fault is not None, f"byte {place} was changed and nobody noticed"
        assert str(path) in report.fault
        silent += not numbers_or_error(path, original)
    assert silent < FLIPS // 10, "only the corners of heaps can change without changing what is read"


def test_every_cut_is_caught(tmp_path, good):
    _, data, original = good
    path, chance = tmp_path / "x.h5", random.Random(4)
    for size in [chance.randrange(len(data)) for _ in range(CUTS)] + [0, 1, 47, 48, 49, len(data) - 1]:
        path.write_bytes(data[:size])
        assert verify(path).fault is not None
        assert numbers_or_error(path, original)


@pytest.mark.parametrize("name", ["pooled", "text", "label", "last_hidden"])
def test_the_fault_is_named(tmp_path, good, name):
    _, data, _ = good
    path = tmp_path / "x.h5"
    rows = kit.rows_of("test", 0, 60)[name]
    needle = rows[40].encode() if name == "text" else rows[40 : 50 if name == "label" else 42].tobytes()
    place = data.rfind(needle, 0, data.find(b"FAHD"))
    path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
    assert f"x.h5: test/{name}" in verify(path).fault
    with open_cache(path) as cache, pytest.raises(CacheError, match=f"x.h5: test/{name}.*--force"):
        list(cache["test"][name][:])


def reading_fault(path) -> str:
    """What reading everything raises, in words."""
    try:
        with open_cache(path) as cache:
            for split in cache:
                for dataset in cache[split].names:
                    list(cache[split][dataset][:])
    except CacheError as error:
        return str(error)
    return ""


def test_hostile_files_get_a_clean_error(tmp_path):
    names = []
    secret = [tmp_path / "secret.h5", tmp_path / "secret.bin"]
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" and watching else None)
    watching = False
    for name, path in store_hostile.hostile(tmp_path):
        names.append(name)
        watching = True
        begun = time.perf_counter()
        fault = reading_fault(path)
        assert fault or "heap" in name or "text" in name, f"{name} was read as if nothing were wrong"
        assert "\n" not in fault, name
        assert len(fault) < 1000, name
        assert verify(path).fault is not None or name == "a part", name
        seconds = time.perf_counter() - begun
        watching = False
        assert seconds < 5, f"{name} took {seconds:.1f} s"
    assert len(names) >= 200
    assert not [place for place in opened if place in map(str, secret)], "something outside the file was opened"


def test_other_things_than_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    for name, match in (("none.h5", "no such file"), ("folder.h5", "not a file"), ("pipe.h5", "not a file")):
        with pytest.raises(CacheError, match=match):
            open_cache(tmp_path / name)
        assert verify(tmp_path / name).fault is not None


def test_reading_needs_neither_torch_nor_the_hdf5_library(good):
    code = (
        "import sys; from pipeline.store import open_cache; cache = open_cache(sys.argv[1]); cache['train']['pooled'];"
        "print(*{'torch', 'h5py', 'transformers', 'click', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(good[0])], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
