"""The last step of a file: the index behind the data, the superblock before it."""

import hashlib
from collections.abc import Mapping
from typing import Any

from pipeline.store.hdf5 import ChunkedDataset, IndexBuilder, superblock
from pipeline.store.inspect import own_attributes
from pipeline.store.schema import encode_attributes
from pipeline.store.stream import DataFile, Stream

__all__ = ["write_index"]


def write_index(
    file: DataFile, attributes: Mapping[str, Any], splits: Mapping[str, tuple[int, Mapping[str, Stream]]]
) -> None:
    """Write groups, headers and chunk addresses behind the data; `splits` maps names to rows and finished streams."""
    end_of_data = file.end
    index = IndexBuilder(end_of_data)
    members = {}
    for split, (rows, streams) in splits.items():
        paths = {path: index.dataset(_dataset(stream)) for path, stream in streams.items()}
        inner: dict[str, dict[str, int]] = {}
        for path in [path for path in paths if "/" in path]:
            group, _, name = path.partition("/")
            inner.setdefault(group, {})[name] = paths.pop(path)
        paths |= {name: index.group(datasets, {}) for name, datasets in inner.items()}
        members[split] = index.group(paths, {"rows": rows, "complete": True})
    stored = encode_attributes(attributes)
    stored["index_sha256"] = hashlib.sha256(index.bytes).hexdigest()
    stored["attributes_sha256"] = own_attributes(stored)
    root = index.group(members, stored)
    file.append([index.bytes])
    file.write_at(0, superblock(root, index.end))
    file.sync()


def _dataset(stream: Stream) -> ChunkedDataset:
    spec = stream.spec
    shape = (stream.done, *spec.row)
    # A chunk may not be longer than the dataset; a ragged dataset's length is known only now.
    return ChunkedDataset(shape, spec.dtype, spec.chunk, stream.chunks, {"sha256": stream.digest})
