"""The last step of a file: the index behind the data, the superblock before it."""

from collections.abc import Mapping
from typing import Any

from pipeline.store.hdf5 import ChunkedDataset, Group, encode, superblock
from pipeline.store.inspect import own_attributes
from pipeline.store.schema import encode_attributes
from pipeline.store.stream import DataFile, Stream

__all__ = ["write_index"]


def write_index(
    file: DataFile, attributes: Mapping[str, Any], splits: Mapping[str, tuple[int, Mapping[str, Stream]]]
) -> None:
    """Write groups, headers and chunk addresses behind the data; `splits` maps names to rows and finished streams."""
    stored = encode_attributes(attributes)
    stored["attributes_sha256"] = own_attributes(stored)
    members = {split: _split(rows, streams) for split, (rows, streams) in splits.items()}
    index, root = encode(Group(members, stored), file.end)
    file.append([index])
    file.write_at(0, superblock(root, file.end))
    file.sync()
    file.committed = file.end


def _split(rows: int, streams: Mapping[str, Stream]) -> Group:
    members: dict[str, ChunkedDataset | dict[str, ChunkedDataset]] = {}
    for path, stream in streams.items():
        spec = stream.spec
        dataset = ChunkedDataset(
            (stream.done, *spec.row), spec.dtype, spec.chunk, stream.chunks, {"sha256": stream.digest}
        )
        name, _, inner = path.partition("/")
        if inner:
            members.setdefault(name, {})[inner] = dataset
        else:
            members[name] = dataset
    nested = {name: Group(item, {}) if isinstance(item, dict) else item for name, item in members.items()}
    return Group(nested, {"rows": rows, "complete": True})
