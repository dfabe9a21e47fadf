"""A source read once by worker processes: what is hashed lies in a file, cut into pieces that others tokenise.

The process that computes then never touches a row until it comes back with its tokens, and what is encoded is what was
hashed. The file is temporary and holds the texts alone.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from pipeline.encode.arrays import Columns, columns_of
from pipeline.encode.request import Scanned, estimated_tokens
from pipeline.encode.tokens import Tokens, encode, inputs_of
from pipeline.encode.workers import Workers, backend_of
from pipeline.sources import Row, Source

__all__ = ["PIECE_ROWS", "Piece", "Reading", "tokenise_piece"]

#: Rows that one call of a worker tokenises.
PIECE_ROWS = 2048


@dataclass(frozen=True)
class Piece:
    """Up to `PIECE_ROWS` rows of a split: where they lie in a file."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True)
class _Split:
    """What a worker found in one split."""

    rows: int
    tokens: int
    notes: tuple[str, ...]
    pieces: list[Piece]


class Reading:
    """All splits of a source, being read by workers into files below `folder`."""

    def __init__(self, workers: Workers, source: Source, max_length: int, folder: Path) -> None:
        folder.mkdir()
        self._paths = {split: folder / f"{number}" for number, split in enumerate(source.splits)}
        self._splits: Mapping[str, Future[_Split]] = {
            split: workers.submit(spool_split, source, split, max_length, str(path))
            for split, path in self._paths.items()
        }

    def done(self) -> bool:
        """Whether `scanned` and `pieces` need no waiting."""
        return all(future.done() for future in self._splits.values())

    def scanned(self) -> Scanned:
        """What `scan_task` finds in the same source, its hash included."""
        digest, found = hashlib.sha256(), {split: future.result() for split, future in self._splits.items()}
        for split, path in self._paths.items():
            digest.update(f"split {split}\n".encode())
            with path.with_suffix(".hashed").open("rb") as file:
                while data := file.read(1 << 22):
                    digest.update(data)
        return Scanned(
            rows={split: one.rows for split, one in found.items()},
            sha256=digest.hexdigest(),
            tokens=sum(one.tokens for one in found.values()),
            notes=tuple(dict.fromkeys(note for one in found.values() for note in one.notes)),
        )

    def pieces(self, split: str) -> list[Piece]:
        """The pieces of a split, in order."""
        return self._splits[split].result().pieces


def spool_split(source: Source, split: str, max_length: int, path: str) -> _Split:
    """In a worker: write a split's rows to `path`, piece by piece, and what `scan` hashes of them beside it."""
    rows, count, tokens, pieces = source.rows(split), 0, 0, []
    with open(path, "wb") as spool, Path(path).with_suffix(".hashed").open("wb") as hashed:
        while piece := list(itertools.islice(rows, PIECE_ROWS)):
            fields = ((text, "" if pair is None else pair, repr(label)) for text, pair, label in piece)
            parts = "".join(f"{len(part)} {part}" for row in fields for part in row)
            hashed.write(parts.encode("utf-8", "surrogatepass"))
            tokens += sum(estimated_tokens(row, max_length) for row in piece)
            data = json.dumps(list(zip(*piece, strict=True))).encode()
            pieces.append(Piece(path, spool.tell(), len(data)))
            spool.write(data)
            count += len(piece)
    return _Split(count, tokens, tuple(source.notes), pieces)


def tokenise_piece(piece: Piece, state: str, types: bool) -> tuple[Columns, Tokens]:
    """In a worker: a piece's columns, as they are stored, and its tokens."""
    with open(piece.path, "rb") as file:
        file.seek(piece.offset)
        rows = list(map(Row, *json.loads(file.read(piece.size))))
    return columns_of(rows), encode(backend_of(state), inputs_of(rows), types=types)
