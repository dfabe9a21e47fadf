"""Reading an index without trusting it.

Files come from elsewhere, and HDF5's own library was not made for hostile input. So this module reads the few
structures that `hdf5.py` writes, with every address and size checked against the file, builds the tree that they
describe, encodes that tree again and compares: what is not byte for byte what this program writes is refused. No link,
reference, filter, type or storage that the format has besides can get through.
"""

import math
import os
import struct
import weakref
from typing import Any

import numpy as np

from pipeline.errors import CacheError
from pipeline.store.hdf5 import (
    BOOLEAN,
    REFERENCE,
    SUPERBLOCK_BYTES,
    TYPES,
    UNDEFINED,
    ChunkedDataset,
    Group,
    chunk_entry,
    encode,
    superblock,
)

__all__ = ["Bytes", "check_encoding", "heap_texts", "parse"]

_HEADER_LIMIT = 1 << 24
_DEPTH_LIMIT = 4
_TYPE_NAMES = {encoded: name for name, encoded in TYPES.items()}
_CLASSES = (
    "a fixed-point number", "a floating-point number", "a time", "a string of fixed length", "a bit field",
    "opaque data",
    "a compound", "an object or region reference", "an enumeration", "data of variable length",
)  # fmt: skip
_FOREIGN = {
    0x07: "external storage", 0x0D: "a comment", 0x0E: "a time", 0x0F: "a shared message table",
    0x11: "a symbol table", 0x12: "a time", 0x16: "a reference count",
}  # fmt: skip


class Bytes:
    """A file's bytes, read by position; a read beyond the end is an error before anything is read."""

    def __init__(self, path: os.PathLike[str]) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self.descriptor)
        self.size = os.fstat(self.descriptor).st_size
        self.lowest = self.size  # the lowest address of a structure of the index so far
        self.budget = 2 * self.size + 4096  # structures that overlap would take more; a hostile file must not hang
        self.heaps: dict[int, tuple[bytes, list[tuple[int, int]]]] = {}

    def close(self) -> None:
        """Close the file."""
        self._close()

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes at `address`."""
        if address < 0 or size < 0 or address + size > self.size:
            raise CacheError(f"found {size} bytes at {address} referred to in a file of {self.size}")
        data = os.pread(self.descriptor, size, address)
        if len(data) != size:
            raise CacheError(f"found {len(data)} bytes at {address} instead of {size}")
        return data

    def structure(self, address: int, size: int, signature: bytes) -> bytes:
        """Bytes of a structure of the index that begins with `signature`."""
        self.budget -= size
        if self.budget < 0:
            raise CacheError("found structures that lie on one another")
        data = self.read(address, size)
        if not data.startswith(signature):
            raise CacheError(f"found no {signature.decode()} at byte {address}")
        self.lowest = min(self.lowest, address)
        return data


def parse(file: Bytes) -> Group:
    """The tree that a file's index describes; raises `CacheError` (without the path) for what it does not know."""
    head = file.read(0, min(file.size, SUPERBLOCK_BYTES))
    if head[:8] != b"\x89HDF\r\n\x1a\n":
        raise CacheError("found a file that is not HDF5")
    if len(head) < SUPERBLOCK_BYTES or head[8:12] != b"\3\x08\x08\0":
        raise CacheError("found an HDF5 file that another program wrote")
    end, root = struct.unpack_from("<QQ", head, 28)
    if end != file.size:
        raise CacheError(f"found {file.size} bytes of {end}")
    tree = _object(file, root, 0)
    if not isinstance(tree, Group):
        raise CacheError("found no root group")
    return tree


def check_encoding(file: Bytes, tree: Group) -> int:
    """Compare the index with the encoding of its content, byte for byte; returns where it begins (the data's end)."""
    start = file.lowest
    index, root = encode(tree, start)
    found = file.read(start, file.size - start)
    if index != found or superblock(root, file.size) != file.read(0, SUPERBLOCK_BYTES):
        raise CacheError("found an index that is damaged, or that another program changed")
    return start


def _object(file: Bytes, address: int, depth: int) -> "Group | ChunkedDataset":
    if depth > _DEPTH_LIMIT:
        raise CacheError("found groups inside groups without end")
    messages = _messages(file, address)
    attributes = dict(_attribute(file, data) for kind, data in messages if kind == 0x0C)
    by_kind = {kind: data for kind, data in messages if kind != 0x0C}
    if 0x08 in by_kind:
        return _dataset(file, by_kind, attributes)
    if 0x02 not in by_kind:
        raise CacheError(f"found neither a group nor a dataset at byte {address}")
    members: dict[str, Group | ChunkedDataset] = {}
    for kind, data in messages:
        if kind == 0x06:
            name, target = _link(data)
            members[name] = _object(file, target, depth + 1)
    return Group(members, attributes)


def _messages(file: Bytes, address: int) -> list[tuple[int, bytes]]:
    """Header messages (type, data) of an object; parts that the library adds later are followed."""
    version, flags, size = struct.unpack_from("<BBI", file.read(address, 10), 4)
    if version != 2 or flags != 2 or size > _HEADER_LIMIT:
        raise CacheError(f"found an object header of another kind at byte {address}")
    parts = [file.structure(address, size + 10, b"OHDR")[10:]]
    out: list[tuple[int, bytes]] = []
    for part in parts:
        position = 0
        while position + 4 <= len(part):
            kind, length = struct.unpack_from("<BH", part, position)
            data = part[position + 4 : position + 4 + length]
            position += 4 + length
            if kind == 0x10 and len(data) == 16 and len(parts) < 64:
                start, extent = struct.unpack("<QQ", data)
                parts.append(file.structure(start, min(extent, _HEADER_LIMIT), b"OCHK")[4:-4])
            elif kind:
                out.append((kind, data))
            if position > len(part) or kind in _FOREIGN:
                raise CacheError(f"found {_FOREIGN.get(kind, 'a header message that is cut off')} at byte {address}")
    return out


def _link(data: bytes) -> tuple[str, int]:
    if data[:1] != b"\1" or len(data) < 4:
        raise CacheError("found a link of another kind")
    if data[1] & 8:
        kind = {1: "a soft link", 64: "an external link"}.get(data[2], "a link of another kind")
        raise CacheError(f"found {kind}")
    if data[1] != 0x10 or len(data) != 12 + data[3]:
        raise CacheError("found a link of another kind")
    return data[4:-8].decode(), struct.unpack("<Q", data[-8:])[0]


def _dataset(file: Bytes, messages: dict[int, bytes], attributes: dict[str, Any]) -> ChunkedDataset:
    space, kind, layout = messages.get(0x01, b""), messages.get(0x03, b""), messages[0x08]
    if kind not in _TYPE_NAMES:
        found = _CLASSES[kind[0] & 15] if kind and kind[0] & 15 < len(_CLASSES) else "nothing"
        raise CacheError(f"found {found} as a dataset's type")
    dtype = _TYPE_NAMES[kind]
    if space[:1] != b"\2" or len(space) != 4 + 8 * space[1] or not 1 <= space[1] <= 2:
        raise CacheError("found a data space of another kind")
    shape = struct.unpack_from(f"<{space[1]}Q", space, 4)
    if layout == struct.pack("<BBQQ", 4, 1, UNDEFINED, 0):
        return ChunkedDataset(shape, dtype, 1, (), attributes)
    if layout[:2] != b"\4\2":
        found = {0: "compact", 1: "contiguous", 3: "virtual"}.get(layout[1] if len(layout) > 1 else 9, "another")
        raise CacheError(f"found {found} storage")
    width, rank = layout[4], layout[3]
    extents = [int.from_bytes(layout[5 + width * i : 5 + width * (i + 1)], "little") for i in range(rank)]
    dataset = ChunkedDataset(shape, dtype, extents[0] if extents else 0, (), attributes)
    if len(layout) != 5 + width * rank + 10 or rank != len(shape) + 1 or dataset.chunk_rows < 1 or 0 in shape:
        raise CacheError("found a chunk layout of another kind")
    count = -(-shape[0] // dataset.chunk_rows)
    if math.prod(shape[1:]) * shape[0] > file.size or count * dataset.chunk_bytes > file.size:
        raise CacheError(f"found the shape {shape} in a file of {file.size} bytes")
    address = struct.unpack_from("<Q", layout, len(layout) - 8)[0]
    entry = chunk_entry(dataset.chunk_bytes, dataset.checked)
    file.structure(address, 28, b"FAHD")
    block = file.structure(address + 28, 14 + count * entry.itemsize, b"FADB")
    chunks = np.frombuffer(block, entry, offset=14)["address"].copy()
    return ChunkedDataset(shape, dtype, dataset.chunk_rows, chunks, attributes)


def _attribute(file: Bytes, data: bytes) -> tuple[str, Any]:
    version, flags, name, kind, space, _ = struct.unpack_from("<BBHHHB", data)
    encoded = data[9 + name : 9 + name + kind]
    value = data[9 + name + kind + space :]
    label = data[9 : 9 + name - 1].decode()
    if version != 3 or flags or data[9 + name + kind : 9 + name + kind + space] != b"\2\0\0\0":
        raise CacheError(f"found an attribute {label!r} of another kind")
    if encoded == TYPES["string"] and len(value) == 16:
        reference = np.frombuffer(value, REFERENCE)
        return label, heap_texts(file, reference, index=True)[0].decode()
    if encoded == TYPES["int64"] and len(value) == 8:
        return label, struct.unpack("<q", value)[0]
    if encoded == BOOLEAN and len(value) == 1:
        return label, value == b"\1"
    if encoded == TYPES["float64"] and len(value) == 8:
        return label, struct.unpack("<d", value)[0]
    raise CacheError(f"found an attribute {label!r} that is neither a text nor a number")


def heap_texts(file: Bytes, references: np.ndarray, *, index: bool = False) -> list[bytes]:
    """The texts that `references` [n] (see `hdf5.REFERENCE`) point to; `index` says that the heap is the index's own.

    A dataset's heaps follow one another in the file, so each is read once, however many texts point to it.
    """
    out: list[bytes] = []
    base, end, heap, objects = -1, 0, b"", [(0, 0)]
    for length, address, number in references.tolist():
        if not length:
            out.append(b"")
            continue
        if address != base:
            if address < end:
                raise CacheError(f"found heaps of texts out of order at byte {address}")
            heap, objects = _heap(file, address, index)
            base, end = address, address + len(heap)
        if not 0 < number < len(objects) or objects[number][1] != length:
            raise CacheError(f"found a text that lies nowhere (heap at byte {address})")
        out.append(heap[objects[number][0] : objects[number][0] + length])
    return out


def _heap(file: Bytes, address: int, index: bool) -> tuple[bytes, list[tuple[int, int]]]:
    """A heap collection's bytes, and where its objects begin and how long they are; those of the index are kept."""
    if address in file.heaps:
        return file.heaps[address]
    magic, version, size = struct.unpack("<4sIQ", file.read(address, 16))
    if magic != b"GCOL" or version != 1 or not 16 <= size <= file.size:
        raise CacheError(f"found no heap of texts at byte {address}")
    heap = file.structure(address, size, b"GCOL") if index else file.read(address, size)
    found = heap, _heap_objects(heap)
    if index:
        file.heaps[address] = found
    return found


def _heap_objects(heap: bytes) -> list[tuple[int, int]]:
    """Where each object of a heap collection begins, and its length; number 0 is a stand-in."""
    offsets, position = [(0, 0)], 16
    while position + 16 <= len(heap):
        number, _, _, length = struct.unpack_from("<HHIQ", heap, position)
        if number != len(offsets) or position + 16 + length > len(heap):
            break
        offsets.append((position + 16, length))
        position += 16 + length + -length % 8
    return offsets
