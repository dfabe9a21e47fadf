"""The HDF5 file format, as much of it as a finished cache needs, encoded by hand.

A cache is written in one pass: chunks of data one after another, and the index (groups, headers, chunk addresses)
last, so nothing that has been written is ever written again. Libraries keep the index up to date as they go, which is
what makes a killed writer's file unreadable. Everything here is HDF5 1.10's format (superblock 3, object headers 2,
layout 4, fixed-array chunk index), where every structure has a checksum. All numbers are little-endian.

One content has one encoding: `encode` of the same tree at the same address gives the same bytes. A reader compares.
"""

import ctypes
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.native import library
from pipeline.store.checksum import lookup3
from pipeline.store.texts import Texts

__all__ = [
    "BOOLEAN",
    "REFERENCE",
    "SUPERBLOCK_BYTES",
    "TYPES",
    "UNDEFINED",
    "ChunkedDataset",
    "Group",
    "chunk_entry",
    "encode",
    "heap_collections",
    "superblock",
]

SUPERBLOCK_BYTES = 48
UNDEFINED = 0xFFFFFFFFFFFFFFFF
#: A string as a row of a dataset holds it: length in bytes, address of its heap collection, number in the collection.
REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
_HEAP_BYTES = 1 << 16
#: The library's smallest collection.
_HEAP_LEAST = 4096
_HEAP_OBJECTS = 60_000

_INT64 = bytes.fromhex("10080000 08000000 0000 4000")
_STRING = bytes.fromhex("19010100 10000000 10000000 01000000 0000 0800")
BOOLEAN = bytes.fromhex("38020000 01000000 10080000 01000000 0000 0800") + b"FALSE\0TRUE\0\0\1"
_SCALAR = bytes.fromhex("02000000")
TYPES = {
    "int32": bytes.fromhex("10080000 04000000 0000 2000"),
    "int64": _INT64,
    "float16": bytes.fromhex("11200f00 02000000 0000 1000 0a05000a 0f000000"),
    "float32": bytes.fromhex("11201f00 04000000 0000 2000 17080017 7f000000"),
    "float64": bytes.fromhex("11203f00 08000000 0000 4000 340b0034 ff030000"),
    "string": _STRING,
}


@dataclass(frozen=True)
class ChunkedDataset:
    """A dataset whose chunks lie in the file already.

    `dtype` is a numpy name or `string`; `chunks` are byte addresses in row order, each chunk `chunk_rows` whole rows
    (the last one padded), followed by its Fletcher-32 unless the dtype is `string`.
    """

    shape: tuple[int, ...]
    dtype: str
    chunk_rows: int
    chunks: Sequence[int]
    attributes: Mapping[str, Any]

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk's rows, without the checksum behind them."""
        item = struct.unpack_from("<I", TYPES[self.dtype], 4)[0]
        return self.chunk_rows * math.prod(self.shape[1:]) * item

    @property
    def checked(self) -> bool:
        """Whether a Fletcher-32 stands behind each chunk; the format has no filters for strings."""
        return self.dtype != "string"


@dataclass(frozen=True)
class Group:
    """Named groups and datasets, in order, and attributes (texts, whole numbers, truth values, floats)."""

    members: "Mapping[str, Group | ChunkedDataset]"
    attributes: Mapping[str, Any]


def superblock(root: int, end: int) -> bytes:
    """The first 48 bytes of a file whose root group's header lies at `root` and which is `end` bytes long."""
    body = b"\x89HDF\r\n\x1a\n" + struct.pack("<4B4Q", 3, 8, 8, 0, 0, UNDEFINED, end, root)
    return body + struct.pack("<I", lookup3(body))


def heap_collections(texts: Texts, address: int) -> tuple[bytes, np.ndarray]:
    """Heap collections that hold `texts`, the first of them at `address`, and the references [n] to put in rows."""
    references = np.zeros(len(texts), REFERENCE)
    if (native := library()) is not None:
        return _native_heaps(native, texts, address, references), references
    return _plain_heaps(texts, address, references), references


def _native_heaps(native: ctypes.CDLL, texts: Texts, address: int, references: np.ndarray) -> bytes:
    objects = len(texts.data) + 24 * len(texts)  # at most: a head of 16, and 8 to fill up
    out = np.empty(objects + 16 * (objects // _HEAP_BYTES + 1) + _HEAP_LEAST, np.uint8)
    lengths = np.ascontiguousarray(texts.lengths, np.int64)
    function = native.pack_heaps
    function.restype = ctypes.c_int64
    size = function(
        texts.data, ctypes.c_void_p(lengths.ctypes.data), ctypes.c_int64(len(texts)), ctypes.c_uint64(address),
        ctypes.c_void_p(out.ctypes.data), ctypes.c_void_p(references.ctypes.data),
    )  # fmt: skip
    return out[:size].tobytes()


def _plain_heaps(texts: Texts, address: int, references: np.ndarray) -> bytes:
    """The same in numpy, where there is no C compiler."""
    filled = np.flatnonzero(texts.lengths)
    lengths = texts.lengths[filled]
    # An object is its number, a count of references that stays 0, and its length (16 bytes), then the text.
    bounds = np.concatenate([[0], np.cumsum(16 + (lengths + 7) // 8 * 8)])
    heaps: list[tuple[int, int, int]] = []  # first object, where the collection begins, its size
    first = position = 0
    while first < len(filled):
        # An object goes into a collection while that is small; the one that makes it large is its last.
        stop = int(np.searchsorted(bounds, bounds[first] + _HEAP_BYTES - 16))
        stop = min(stop, first + _HEAP_OBJECTS, len(filled))
        heaps.append((first, position, 16 + int(bounds[stop] - bounds[first])))
        first, position = stop, position + max(heaps[-1][2], _HEAP_LEAST)
    out = np.zeros(position // 8, "<u8")
    if not heaps:
        return b""
    firsts, starts, sizes = (np.array(column, np.int64) for column in zip(*heaps, strict=True))
    heap = np.repeat(np.arange(len(heaps)), np.diff(firsts, append=len(filled)))
    numbers = np.arange(len(filled)) - firsts[heap] + 1
    places = starts[heap] + 16 + bounds[:-1] - bounds[firsts[heap]]
    out[starts // 8] = np.frombuffer(b"GCOL" + struct.pack("<I", 1), "<u8")
    out[starts // 8 + 1] = np.maximum(sizes, _HEAP_LEAST)
    # What is left of the smallest collection is one free object, or too little to be one.
    room = _HEAP_LEAST - sizes
    free = room >= 16
    out[(starts + sizes)[free] // 8 + 1] = room[free]
    out[places // 8], out[places // 8 + 1] = numbers, lengths
    octets = np.frombuffer(texts.data, np.uint8)
    octets = octets[octets != 0]
    before = np.cumsum(lengths) - lengths
    out.view(np.uint8)[np.arange(len(octets)) + np.repeat(places + 16 - before, lengths)] = octets
    references["length"][filled], references["heap"][filled] = lengths, address + starts[heap]
    references["number"][filled] = numbers
    return out.tobytes()


def encode(root: Group, address: int) -> tuple[bytes, int]:
    """The index of a file whose data end at `address`: its bytes, to be put there, and the root header's address."""
    index = _Index(address)
    header = index.group(root)
    return bytes(index.parts), header


class _Index:
    """Collects the structures of an index, members before the groups that name them."""

    def __init__(self, address: int) -> None:
        self._address, self.parts = address, bytearray()

    def _put(self, data: bytes) -> int:
        address = self._address + len(self.parts)
        self.parts += data
        return address

    def group(self, group: Group) -> int:
        """Add a group's members and its header; returns the header's address."""
        messages = [(0x02, b"\0\0" + b"\xff" * 16, 0), (0x0A, b"\0\0", 1)]
        for name, member in group.members.items():
            address = self.group(member) if isinstance(member, Group) else self.dataset(member)
            encoded = name.encode()
            link = struct.pack("<BBBB", 1, 0x10, 1, len(encoded)) + encoded + struct.pack("<Q", address)
            messages.append((0x06, link, 0))
        return self._header(messages, group.attributes)

    def dataset(self, dataset: ChunkedDataset) -> int:
        """Add a dataset's chunk index and header; returns the header's address."""
        kind = TYPES[dataset.dtype]
        rank = len(dataset.shape)
        space = struct.pack(f"<4B{rank}Q", 2, rank, 0, 1, *dataset.shape)
        messages = [(0x01, space, 0), (0x03, kind, 1)]
        if not len(dataset.chunks):
            messages += [(0x05, b"\3\x0a", 1), (0x08, struct.pack("<BBQQ", 4, 1, UNDEFINED, 0), 0)]
        else:
            item = struct.unpack_from("<I", kind, 4)[0]
            chunk = (dataset.chunk_rows, *dataset.shape[1:], item)
            index, page_bits = self._fixed_array(dataset)
            width = (max(chunk).bit_length() + 7) // 8  # the library wants exactly the width that the largest needs
            layout = struct.pack("<5B", 4, 2, 0, rank + 1, width)
            layout += b"".join(extent.to_bytes(width, "little") for extent in chunk)
            layout += struct.pack("<BBQ", 3, page_bits, index)
            messages += [(0x05, b"\3\x0b" if dataset.checked else b"\3\3", 1), (0x08, layout, 0)]
            if dataset.checked:  # Fletcher-32 is filter 3
                messages.append((0x0B, struct.pack("<BBHHH", 2, 1, 3, 0, 0), 1))
        return self._header(messages, dataset.attributes)

    def _fixed_array(self, dataset: ChunkedDataset) -> tuple[int, int]:
        """A fixed-array chunk index in one page; returns its address and the page's size in bits."""
        count, checked = len(dataset.chunks), dataset.checked
        page_bits = max(10, count.bit_length())
        table = np.zeros(count, chunk_entry(dataset.chunk_bytes, checked))
        table["address"] = dataset.chunks
        if checked:
            stored = (dataset.chunk_bytes + 4).to_bytes(table.dtype["size"].itemsize, "little")
            table["size"] = np.frombuffer(stored, np.uint8)
        address = self._address + len(self.parts)
        header = struct.pack("<4s4BQQ", b"FAHD", 0, checked, table.dtype.itemsize, page_bits, count, address + 28)
        block = struct.pack("<4sBBQ", b"FADB", 0, checked, address) + table.tobytes()
        self._put(header + struct.pack("<I", lookup3(header)))
        self._put(block + struct.pack("<I", lookup3(block)))
        return address, page_bits

    def _header(self, messages: list[tuple[int, bytes, int]], attributes: Mapping[str, Any]) -> int:
        encoded = self._attributes(attributes)
        if encoded:
            messages = [*messages, (0x15, b"\0\0" + b"\xff" * 16, 4), *encoded]
        body = b"".join(struct.pack("<BHB", kind, len(data), flags) + data for kind, data, flags in messages)
        header = b"OHDR" + struct.pack("<BBI", 2, 2, len(body)) + body
        return self._put(header + struct.pack("<I", lookup3(header)))

    def _attributes(self, attributes: Mapping[str, Any]) -> list[tuple[int, bytes, int]]:
        """Attribute messages; the texts among them go to heap collections of the index."""
        texts = {name: value.encode() for name, value in attributes.items() if isinstance(value, str)}
        heap, references = heap_collections(Texts.of_bytes(list(texts.values())), self._address + len(self.parts))
        self._put(heap)
        by_name = dict(zip(texts, references, strict=True))
        messages = []
        for name, value in attributes.items():
            if name in by_name:
                kind, data = _STRING, by_name[name].tobytes()
            elif isinstance(value, bool):
                kind, data = BOOLEAN, bytes([value])
            elif isinstance(value, int):
                kind, data = _INT64, struct.pack("<q", value)
            else:
                kind, data = TYPES["float64"], struct.pack("<d", value)
            label = name.encode() + b"\0"
            sizes = struct.pack("<BBHHHB", 3, 0, len(label), len(kind), len(_SCALAR), 1)
            messages.append((0x0C, sizes + label + kind + _SCALAR + data, 0))
        return messages


def chunk_entry(chunk_bytes: int, checked: bool) -> np.dtype:
    """One entry of a chunk index: an address, and for checked chunks the stored size and a mask of skipped filters."""
    if not checked:
        return np.dtype([("address", "<u8")])
    width = min(8, 1 + (chunk_bytes.bit_length() + 7) // 8)  # as the library derives it from the unfiltered size
    return np.dtype([("address", "<u8"), ("size", "u1", width), ("mask", "<u4")])
