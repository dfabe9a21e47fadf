"""A head's `config.json`, saved or exported: read in one place, and checked before anything is made of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import KanglueError, ResultsError
from pipeline.hashing import hash_json
from pipeline.heads.config import HeadConfig
from pipeline.heads.families import build_network
from pipeline.heads.network import NetworkSpec
from pipeline.heads.pykan import PykanNetwork
from pipeline.heads.resolve import read_config
from pipeline.paths import check_name, child
from pipeline.store.schema import check_attributes

__all__ = [
    "HeadDocument", "arrays_sha256", "content_sha256", "fault", "head_folder", "heads_folder", "read_document",
    "regular_file", "why_diverged",
]  # fmt: skip

#: Bytes of a `config.json`; a head's has some thousands.
LARGEST = 4 << 20


@dataclass(frozen=True)
class HeadDocument:
    """Everything about a head but its tensors, checked.

    `id` is what the file says; whether it is the head's own is for the reader to find out. `sha256` covers the head's
    tensors and this document (`pipeline.models.saved`), in an export's file it is `None`; `format` is an export's.
    """

    id: str
    config: HeadConfig
    network: NetworkSpec | PykanNetwork
    target_scale: tuple[float, float]
    labels: tuple[str, ...] | None
    provenance: Mapping[str, Any]
    diverged_at: int | None
    sha256: str | None
    format: str | None


def heads_folder(results: Path) -> Path:
    """The folder of a results database's saved heads: `heads/` beside it."""
    return results.parent / "heads"


def head_folder(results: Path, head: str) -> Path:
    """The folder of one head, whose id must be a plain name. Raises `ResultsError`."""
    return child(heads_folder(results), head, "head", ResultsError)


def why_diverged(step: int) -> str:
    """What a head that diverged at a step (from 0) suffered from, and what to do."""
    if step == 0:
        return (
            "diverged at step 0: its loss was not finite before anything was trained, so its features or targets are "
            "too large for float32; scale them (scale standard)"
        )
    return f"diverged at step {step}: its loss grew beyond float32 while it trained; train it with a smaller lr"


def regular_file(file: Path) -> Path:
    """The file, if it is one: a pipe or a device would be waited for. Raises `ResultsError`."""
    if not file.is_file():
        found = "something else" if file.exists() else "nothing"
        raise ResultsError(f"{file}: expected a file, found {found}; restore it or write the head again")
    return file


def read_document(folder: Path) -> HeadDocument:
    """The `config.json` of a head's folder or of an export. Raises `ResultsError` for anything but a sound one."""
    file = regular_file(folder / "config.json")
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"found more than {LARGEST:,} bytes")
        read = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise TypeError(f"found {type(read).__name__} where an object belongs")
        return _checked(read)
    except (KanglueError, OSError, ValueError, TypeError, RecursionError) as error:
        what = f"{error}" if str(error) else type(error).__name__
        raise ResultsError(
            f"{file}: expected a saved or exported head's ({what}); restore it, or train it again"
        ) from error


def _checked(read: Mapping[str, Any]) -> HeadDocument:
    needed = ("id", "config", "inputs", "outputs", "target_scale", "labels", "provenance")
    if missing := [name for name in needed if name not in read]:
        raise ValueError(f"found no {', '.join(missing)} in it")
    labels, scale, diverged_at = read["labels"], read["target_scale"], read.get("diverged_at")
    _need(labels is None or (_texts(labels) and len(set(labels)) == len(labels) >= 2), "labels", labels)
    for name in ("inputs", "outputs"):
        _need(_whole(read[name]) and 1 <= read[name] < 1 << 31, name, read[name])
    _need(read["outputs"] == (1 if labels is None else len(labels)), "outputs", read["outputs"])
    _need(
        isinstance(scale, list) and len(scale) == 2 and all(map(_finite, scale)) and scale[1] > 0, "target_scale", scale
    )
    _need(diverged_at is None or (_whole(diverged_at) and diverged_at >= 0), "diverged_at", diverged_at)
    for name in ("sha256", "format"):
        _need(read.get(name) is None or isinstance(read[name], str), name, read.get(name))
    config = read_config(read["config"])
    provenance = check_attributes(read["provenance"])
    _need(provenance["labels"] is None or list(provenance["labels"]) == labels, "provenance.labels", labels)
    network = build_network(config, read["inputs"], read["outputs"])
    return HeadDocument(
        check_name(read["id"], "id"), config, network, (float(scale[0]), float(scale[1])),
        None if labels is None else tuple(labels), provenance, diverged_at, read.get("sha256"), read.get("format"),
    )  # fmt: skip


def _need(holds: bool, name: str, found: object) -> None:
    if not holds:
        raise ValueError(f"found {found!r:.80} as {name}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: object) -> bool:
    # Outputs are float32.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 3e38


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays: names, shapes and float32 numbers."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(np.ascontiguousarray(values, "<f4").data)
    return digest.hexdigest()


def content_sha256(document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a whole head: its document but for `sha256`, and its arrays."""
    about = {name: value for name, value in document.items() if name != "sha256"}
    return hash_json(about | {"tensors": arrays_sha256(arrays)})


def fault(folder: Path, sha256: str) -> str | None:
    """What is wrong with a stored head's folder, in words, compared with the hash that its row holds; `None`: nothing.

    Needs no PyTorch.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not folder.is_dir():
        return "missing"
    try:
        document = json.loads(regular_file(folder / "config.json").read_text(encoding="utf-8"))
        found = content_sha256(document, load_file(regular_file(folder / "head.safetensors")))
    except (KanglueError, OSError, SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"damaged ({' '.join(str(error).split())[:200]})"
    return None if found == sha256 == document.get("sha256") else "not the head that was stored (sha256)"
