"""Malformed and hostile cache files, made from a good one: by HDF5's own library, and by changing its structures.

`hostile(folder)` yields (name, path). Structures that are changed get their checksums right again, so that it is the
reader's checks that must refuse them and not a checksum.
"""

import random
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from pipeline.store.checksum import lookup3
from pipeline.store.hdf5 import Group, encode, superblock
from pipeline.store.inspect import own_attributes
from pipeline.store.parse import Bytes, check_encoding, parse
from tests.helpers import store_kit as kit

STRANGE_SIZES = (0, 1, 2, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 10**12, 2**63 - 1, 2**63, 2**64 - 1)


def with_library() -> Iterator[tuple[str, "object"]]:
    """Changes by h5py to an open copy of a good file."""

    def change(name):
        def decorate(work):
            changes.append((name, work))
            return work

        return decorate

    changes: list = []

    @change("external link for a split")
    def _(file):
        file["validation2"] = h5py.ExternalLink("secret.h5", "/train")

    @change("external link for a dataset")
    def _(file):
        del file["train/pooled"]
        file["train/pooled"] = h5py.ExternalLink("secret.h5", "/train/pooled")

    @change("soft link")
    def _(file):
        file["train/cls2"] = h5py.SoftLink("/train/cls")

    @change("soft link to itself")
    def _(file):
        file["train/loop"] = h5py.SoftLink("/train/loop")

    @change("hard link to the root: groups without end")
    def _(file):
        file["train/last_hidden/again"] = file["/"]

    @change("hard link to another dataset")
    def _(file):
        del file["train/cls"]
        file["train/cls"] = file["train/pooled"]

    @change("external storage")
    def _(file):
        del file["train/pooled"]
        file["train"].create_dataset("pooled", (1000, 12), "f4", external=[("secret.bin", 0, 48_000)])

    @change("virtual dataset")
    def _(file):
        layout = h5py.VirtualLayout((1000, 12), "f4")
        layout[:] = h5py.VirtualSource("secret.h5", "train/pooled", (1000, 12))
        del file["train/pooled"]
        file["train"].create_virtual_dataset("pooled", layout)

    @change("object reference")
    def _(file):
        file["train"].create_dataset("ref", data=np.array([file["train"].ref], h5py.ref_dtype))

    @change("object reference as attribute")
    def _(file):
        file.attrs.create("more", file["train"].ref, dtype=h5py.ref_dtype)

    @change("compound")
    def _(file):
        file["train"].create_dataset("compound", data=np.zeros(3, [("a", "i4"), ("b", "f4")]))

    @change("variable-length numbers")
    def _(file):
        file["train"].create_dataset("ragged", (3,), h5py.vlen_dtype(np.float32))

    @change("unknown dataset")
    def _(file):
        file["train/unknown"] = np.arange(3.0)

    @change("unknown group")
    def _(file):
        file.create_group("train/more")

    @change("dataset for a split")
    def _(file):
        file["more"] = np.arange(3.0)

    for name, dtype in (("pooled", "f8"), ("pooled", ">f4"), ("label", "i4"), ("length", "f4"), ("idx", "u8")):

        @change(f"{name} of dtype {dtype}")
        def _(file, name=name, dtype=dtype):
            data = file[f"train/{name}"][:]
            del file[f"train/{name}"]
            file["train"].create_dataset(name, data=data.astype(dtype))

    for shape in ((10**12, 12), (1000, 10**9), (2**40,), (0, 12), (999, 12), (1000, 13), (10, 10, 10)):

        @change(f"pooled of shape {shape}")
        def _(file, shape=shape):
            del file["train/pooled"]
            chunks = tuple(min(extent, 100) for extent in shape) if all(shape) else None
            file["train"].create_dataset("pooled", shape, "f4", chunks=chunks)

    for filters in ({"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True}, {"scaleoffset": 4}):

        @change(f"filter {filters}")
        def _(file, filters=filters):
            data = file["train/pooled"][:]
            del file["train/pooled"]
            file["train"].create_dataset("pooled", data=data, chunks=(100, 12), **filters)

    for attribute, value in (
        ("schema", 99), ("schema", "1"), ("schema", -1), ("task", 5), ("fingerprint", "0" * 64), ("layers", "{"),
        ("labels", "[" * 5000), ("attributes_sha256", ""), ("task", np.arange(9)), ("encoder_sha256", "f" * 64),
    ):  # fmt: skip

        @change(f"attribute {attribute} is {str(value)[:20]!r}")
        def _(file, attribute=attribute, value=value):
            file.attrs[attribute] = value

    for attribute in ("schema", "fingerprint", "versions", "attributes_sha256", "source_sha256"):

        @change(f"attribute {attribute} missing")
        def _(file, attribute=attribute):
            del file.attrs[attribute]

    for attribute, value in (("rows", 10**12), ("rows", -1), ("rows", 999), ("complete", False), ("rows", "many")):

        @change(f"split attribute {attribute} is {value}")
        def _(file, attribute=attribute, value=value):
            file["train"].attrs[attribute] = value

    @change("one of the two ragged datasets")
    def _(file):
        del file["train/last_hidden/offsets"]

    @change("a dataset without its checksum")
    def _(file):
        del file["train/pooled"].attrs["sha256"]

    yield from changes


def headers(data: bytes) -> list[tuple[int, int]]:
    """Where object headers begin and end, checksum left out."""
    out, place = [], data.find(b"OHDR")
    while place >= 0:
        size = struct.unpack_from("<I", data, place + 6)[0]
        end = place + 10 + size
        if end + 4 <= len(data) and lookup3(data[place:end]) == struct.unpack_from("<I", data, end)[0]:
            out.append((place, end))
        place = data.find(b"OHDR", place + 1)
    return out


def sealed(data: bytearray, start: int, end: int) -> bytes:
    """`data` with the checksum of the structure [start, end) made right."""
    struct.pack_into("<I", data, end, lookup3(bytes(data[start:end])))
    return bytes(data)


def by_bytes(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Changes of the structures themselves."""
    yield "empty", b""
    yield "signature alone", good[:8]
    yield "superblock alone", good[:48]
    yield "text", b"idx,label\n1,0\n" * 100
    yield "zeros", bytes(5000)
    yield "appended to", good + b"more"
    yield "twice", good + good
    yield "signature after 512 bytes", bytes(512) + good
    index = min(start for start, _ in headers(good))
    for value in STRANGE_SIZES:
        for place in (20, 28, 36):  # extension, end of file, root header
            data = bytearray(good)
            struct.pack_into("<Q", data, place, value)
            if data[:44] == good[:44]:
                continue
            yield f"superblock {place} is {value}", sealed(data, 0, 44)
    chance = random.Random(5)
    found = headers(good)
    for number in range(70):
        start, end = chance.choice(found)
        data = bytearray(good)
        for _ in range(chance.choice((1, 1, 2, 5))):
            place = chance.randrange(start + 10, end)
            data[place] = chance.choice((0, 1, 255, data[place] ^ 1 << chance.randrange(8), chance.randrange(256)))
        if bytes(data) != good:
            yield f"header noise {number}", sealed(data, start, end)
    for number, value in enumerate(STRANGE_SIZES):
        start, end = found[number % len(found)]
        data = bytearray(good)
        place = bytes(data).find(b"\x02\x02\x00\x01", start, end)  # a data space of two axes
        if place > 0:
            struct.pack_into("<Q", data, place + 4, value)
            yield f"rows {value}", sealed(data, start, end)
    for number in range(20):
        place = good.find(b"FADB", index - 4000 + 200 * number)
        if place < 0:
            break
        data = bytearray(good)
        struct.pack_into("<Q", data, place + 14, STRANGE_SIZES[number % len(STRANGE_SIZES)])
        yield f"chunk address {number}", bytes(data)
    place = good.find(b"GCOL")
    for value in STRANGE_SIZES:
        data = bytearray(good)
        struct.pack_into("<Q", data, place + 8, value)
        yield f"heap of {value} bytes", bytes(data)
        data = bytearray(good)
        struct.pack_into("<Q", data, place + 24, value)
        yield f"text of {value} bytes", bytes(data)


def by_encoding(path: Path) -> Iterator[tuple[str, bytes]]:
    """Files that are encoded as the program encodes, attributes' checksum and all, and say something wrong."""
    good = path.read_bytes()
    file = Bytes(path)
    tree = parse(file)
    start = check_encoding(file, tree)
    file.close()

    def file_of(attributes=None, train=None, rows=None, members=None, **datasets) -> bytes:
        stored = dict(tree.attributes) | (attributes or {})
        stored.pop("attributes_sha256")
        stored["attributes_sha256"] = own_attributes(stored)
        old = tree.members["train"]
        inside = {k: v for k, v in (dict(old.members) | datasets).items() if v is not None}
        group = Group(inside, dict(old.attributes) | ({} if rows is None else {"rows": rows}))
        index, root = encode(Group(dict(tree.members) | {"train": train or group} | (members or {}), stored), start)
        return superblock(root, start + len(index)) + good[48:start] + index

    pooled, ragged = tree.members["train"].members["pooled"], tree.members["train"].members["last_hidden"]
    assert file_of() == good
    yield "json without end", file_of({"labels": "[" * 100_000})
    yield "json that is none", file_of({"layers": "nonsense"})
    yield "schema 2", file_of({"schema": 2})
    yield "task is a number", file_of({"task": 3})
    yield "a fingerprint of its own", file_of({"fingerprint": "0" * 64})
    yield "a part", file_of({"part": '{"train":[0,1000,2000]}'})
    yield "rows", file_of(rows=10**12)
    yield "no rows", file_of(rows=-1)
    yield "rows are a text", file_of(rows="1000")
    yield "a dataset as a split", file_of(train=pooled)
    yield "an unknown dataset", file_of(surprise=pooled)
    yield "a group as a dataset", file_of(pooled=Group({}, {}))
    yield "values without offsets", file_of(last_hidden=Group({"values": ragged.members["values"]}, {}))
    yield "a deep tree", file_of(deep=Group({"a": Group({"b": Group({"c": Group({}, {})}, {})}, {})}, {}))
    for dtype in ("float64", "float16", "int32", "string"):
        yield f"pooled is {dtype}", file_of(pooled=replace(pooled, dtype=dtype))
    for shape in ((10**12, 12), (1000, 2**40), (1000,), (1001, 12), (1000, 13)):
        yield f"pooled of {shape}", file_of(pooled=replace(pooled, shape=shape))
    chunks = list(pooled.chunks)
    for name, changed in (
        ("the first twice", [chunks[0], chunks[0], *chunks[2:]]), ("behind the end", [*chunks[:-1], 2**63]),
        ("in the superblock", [0, *chunks[1:]]), ("one too few", chunks[:-1]),
        ("one too many", [*chunks, 48]), ("none", []),
        ("in the index", [*chunks[:-1], start - 10]), ("undefined", [2**64 - 1, *chunks[1:]]),
    ):  # fmt: skip
        yield f"chunks: {name}", file_of(pooled=replace(pooled, chunks=changed))
    yield "an empty sha256", file_of(pooled=replace(pooled, attributes={"sha256": ""}))
    yield "many attributes", file_of({f"x{i}": "y" * 100 for i in range(5000)} | {"schema": 3})
    yield "many groups", file_of(members={f"g{i}": Group({}, {}) for i in range(5000)})


def hostile(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file, one after another, in `folder`; the good one is `good.h5` there, what none may read is `secret.*`."""
    good, path = folder / "good.h5", folder / "hostile.h5"
    kit.write(good)
    shutil.copy(good, folder / "secret.h5")
    (folder / "secret.bin").write_bytes(bytes(100_000))
    for name, work in with_library():
        shutil.copy(good, path)
        with h5py.File(path, "r+") as file:
            work(file)
        yield name, path
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
    yield "another HDF5 file", path
    for name, data in by_encoding(good):
        path.write_bytes(data)
        yield name, path
    for name, data in by_bytes(good.read_bytes()):
        path.write_bytes(data)
        yield name, path
