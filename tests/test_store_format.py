"""What the store writes is HDF5: the library agrees on every checksum, shape and byte."""

import hashlib
import random

import h5py
import numpy as np
import pytest

from pipeline.store import DATASETS, hdf5, open_cache, verify
from pipeline.store.checksum import checked_fletcher32, fletcher32, hash_texts, is_finite, lookup3
from pipeline.store.hdf5 import ChunkedDataset, Group, encode, superblock
from pipeline.store.texts import Texts
from tests.helpers import store_kit as kit


def library_fletcher(data: bytes) -> int:
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        values = np.frombuffer(data, np.uint8)
        dataset = file.create_dataset("x", data=values, chunks=(len(data),), fletcher32=True)
        file.flush()
        return int.from_bytes(dataset.id.read_direct_chunk((0,))[1][-4:], "little")


@pytest.fixture(params=["native", "numpy"])
def either(request, monkeypatch):
    """With the C code, and as on a machine without a compiler."""
    if request.param == "numpy":
        monkeypatch.setattr("pipeline.store.checksum.library", lambda: None)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 255, 718, 719, 720, 721, 1000, 131071, 262144, 262146, 300001])
def test_fletcher32_is_the_library_s(size):
    noise = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    for data in (noise, bytes(size), b"\xff" * size, b"\xff\xff" + bytes(size), bytes(size) + b"\1"):
        assert fletcher32(data) == library_fletcher(data)


def test_lookup3_is_the_library_s(tmp_path):
    # Jenkins' own examples, and a superblock that the library wrote.
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551
    with h5py.File(tmp_path / "x.h5", "w", libver="v110"):
        pass
    head = (tmp_path / "x.h5").read_bytes()[:48]
    assert lookup3(head[:44]) == int.from_bytes(head[44:], "little")


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_is_finite(dtype):
    values = np.random.default_rng(0).standard_normal(200_000).astype(dtype).reshape(-1, 2)
    values[5], values[6] = np.finfo(dtype).max, np.finfo(dtype).min
    assert is_finite(values)
    assert checked_fletcher32(values) == fletcher32(values)
    assert is_finite(values[:0])
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        for place in (0, 99_999):
            spoilt = values.copy()
            spoilt[place, 1] = bad
            assert not is_finite(spoilt)
            assert checked_fletcher32(spoilt) is None


def test_h5py_reads_every_dataset(tmp_path):
    path = tmp_path / "toy.h5"
    kit.write(path)
    with h5py.File(path) as file, open_cache(path) as cache:
        assert set(file) == set(kit.SPLITS)
        assert {name: file.attrs[name] for name in ("task", "schema", "max_length")} == {
            "task": "toy", "schema": 1, "max_length": 128,
        }  # fmt: skip
        for split, rows in kit.SPLITS.items():
            group, view = file[split], cache[split]
            assert group.attrs["rows"] == rows
            assert group.attrs["complete"]
            expected = kit.rows_of(split, 0, rows)
            for name in kit.ALL:
                if name == "last_hidden":
                    values, offsets = view[name][:]
                    assert np.array_equal(group["last_hidden/values"][:], expected[name])
                    assert np.array_equal(group["last_hidden/offsets"][:], np.cumsum([0, *expected["length"]]))
                    assert np.array_equal(values, expected[name])
                    assert np.array_equal(np.diff(offsets), expected["length"])
                elif "text" in name:
                    assert group[name].asstr()[:].tolist() == expected[name] == view[name]
                    assert group[name].attrs["sha256"] == hash_texts(text.encode() for text in expected[name])
                else:
                    assert group[name].dtype == DATASETS[name].dtype
                    assert np.array_equal(group[name][:], expected[name])
                    assert np.array_equal(view[name], expected[name])
                    assert group[name].attrs["sha256"] == hashlib.sha256(group[name][:].tobytes()).hexdigest()
                    assert group[name].fletcher32 or not rows


def test_thousands_of_chunks_and_wide_rows(tmp_path):
    chunk = np.arange(6, dtype=np.float32)
    stored = chunk.tobytes() + fletcher32(chunk).to_bytes(4, "little")
    for count in (1, 1023, 1024, 1025, 5000):
        addresses = [48 + i * len(stored) for i in range(count)]
        start = 48 + count * len(stored)
        tree = Group({"x": ChunkedDataset((2 * count, 3), "float32", 2, addresses, {})}, {"a": 1.5, "b": "text"})
        index, root = encode(tree, start)
        path = tmp_path / f"{count}.h5"
        path.write_bytes(superblock(root, start + len(index)) + stored * count + index)
        with h5py.File(path) as file:
            assert np.array_equal(file["x"][:].reshape(-1, 6), np.tile(chunk, (count, 1)))
            assert file.attrs["a"] == 1.5
            assert file.attrs["b"] == "text"


def test_opened_for_writing_by_the_library_and_closed_is_still_good(tmp_path):
    path = tmp_path / "toy.h5"
    kit.write(path)
    with h5py.File(path, "r+"):
        pass
    assert verify(path).good


def test_every_byte_is_accounted_for(tmp_path):
    path = tmp_path / "toy.h5"
    kit.write(path)
    report = verify(path)
    assert report.good, report.fault
    assert (report.unused, report.bytes, report.rows) == (0, path.stat().st_size, 1130)
    assert report.splits == ["train", "validation", "test"]


def test_heaps_of_texts_are_the_same_with_and_without_a_compiler(monkeypatch):
    if hdf5.library() is None:
        pytest.skip("no C compiler here")
    draw = random.Random(0)
    cases = [[], [b""], [b"a"] * 61_000, [b"x" * 65_499, b"y"], [b"x" * 65_505, b"", b"z"]]
    cases += [[b"x" * n] for n in range(4056, 4072)]
    cases += [[b"t" * draw.randrange(draw.choice((3, 300, 9000))) for _ in range(200)] for _ in range(30)]
    for texts in map(Texts.of_bytes, cases):
        bytes_, references = hdf5.heap_collections(texts, 4048)
        with monkeypatch.context() as without:
            without.setattr(hdf5, "library", lambda: None)
            plain, others = hdf5.heap_collections(texts, 4048)
        assert bytes_ == plain
        assert np.array_equal(references, others)
