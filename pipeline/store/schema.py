"""What a cache file holds, as data: its datasets, its root attributes and its fingerprint."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import CacheError, UnknownNameError
from pipeline.hashing import canonical_json, hash_json
from pipeline.paths import check_name
from pipeline.poolings import POOLINGS

__all__ = [
    "ATTRIBUTES",
    "DATASETS",
    "FINGERPRINT",
    "LAST_HIDDEN",
    "SCHEMA",
    "Dataset",
    "check_attributes",
    "check_datasets",
    "decode_attributes",
    "difference",
    "encode_attributes",
    "fingerprint",
    "streams_of",
]

SCHEMA = 1
LAST_HIDDEN = "last_hidden"

#: N rows of the split, T real tokens of the split, N+1 offsets; `D`, `S` and `m` are widths that a writer is given.
Axis = Literal["N", "T", "N+1"]


@dataclass(frozen=True)
class Dataset:
    """One dataset of a split group.

    `shape` is its axes: the first one of `N`, `T`, `N+1`, the others names of widths. `dtype` is numpy's name, or
    `string` for UTF-8; `regression_dtype` replaces it where the task's labels are numbers. `embedding` says that the
    values come out of an encoder and are finite.
    """

    name: str
    shape: tuple[str, ...]
    dtype: str
    doc: str
    regression_dtype: str | None = None
    embedding: bool = False

    def stored_dtype(self, regression: bool) -> str:
        """The dtype in a file of a regression task, or of a classification task."""
        return self.regression_dtype if regression and self.regression_dtype else self.dtype


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset("idx", ("N",), "int64", "row's position in its split, from 0"),
        Dataset("text", ("N",), "string", "the row's text"),
        Dataset("text_pair", ("N",), "string", "the row's second text"),
        Dataset("label", ("N",), "int64", "class or number; -1 or NaN where unlabelled", regression_dtype="float32"),
        Dataset("group", ("N",), "int64", "rows of one number are held out together; -1: never held out"),
        Dataset("length", ("N",), "int32", "real tokens, special ones included"),
        *(Dataset(one.name, ("N", one.width), "float32", one.doc, embedding=True) for one in POOLINGS.values()),
        Dataset("reduced", ("N", "m"), "float32", "the encoder's default feature folded to m sums", embedding=True),
        Dataset("u", ("N", "D"), "float32", "siamese pairs: a feature of the first sentence alone", embedding=True),
        Dataset("v", ("N", "D"), "float32", "siamese pairs: the same feature of the second sentence", embedding=True),
        Dataset("last_hidden/values", ("T", "D"), "float16", "every real token's last hidden state", embedding=True),
        Dataset("last_hidden/offsets", ("N+1",), "int64", "row i is values[offsets[i]:offsets[i+1]]"),
    )
}

#: Root attributes and how they are stored: a text, a number, or JSON in a text.
ATTRIBUTES: dict[str, Literal["text", "number", "json"]] = {
    "schema": "number",
    "task": "text",
    "labels": "json",  # class names in the labels' order; null for regression
    "encoder": "text",
    "encoder_sha256": "text",
    "config_sha256": "text",
    "tokenizer_sha256": "text",
    "max_length": "number",
    "precision": "text",
    "pairs": "text",
    "layers": "json",
    "limit": "json",
    "source": "text",
    "source_sha256": "text",
    "default_feature": "text",
    "created": "text",
    "versions": "json",
    "fingerprint": "text",
}

#: What a fingerprint covers: what decides the numbers in the file, and nothing that does not.
FINGERPRINT = (
    "schema", "task", "source_sha256", "encoder_sha256", "config_sha256", "tokenizer_sha256",
    "max_length", "precision", "pairs", "layers", "limit",
)  # fmt: skip


def fingerprint(attributes: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of the attributes that decide what a cache holds (those named in `FINGERPRINT`)."""
    missing = [name for name in FINGERPRINT if name not in attributes]
    if missing:
        raise CacheError(f"expected the attributes {', '.join(FINGERPRINT)}; {', '.join(missing)} missing")
    return hash_json({name: attributes[name] for name in FINGERPRINT})


def check_attributes(attributes: object) -> dict[str, Any]:
    """Decoded root attributes, if each has its type, names can be file names, and the fingerprint is theirs.

    Raises `CacheError`. Extra attributes pass as they are.
    """
    if not isinstance(attributes, dict):
        raise CacheError("found no attributes")
    if missing := [name for name in ATTRIBUTES if name not in attributes]:
        raise CacheError(f"found no root attribute {', '.join(missing)}")
    for name, kind in ATTRIBUTES.items():
        value = attributes[name]
        if not (_JSON[name](value) if kind == "json" else isinstance(value, str) if kind == "text" else _whole(value)):
            raise CacheError(f"found {value!r:.80} as attribute {name}")
    for name in ("task", "encoder"):
        check_name(attributes[name], f"attribute {name}", CacheError)
    if attributes["fingerprint"] != fingerprint(attributes):
        raise CacheError("found a fingerprint that is not that of the attributes")
    return dict(attributes)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _several(value: object, holds: Callable[[object], bool]) -> bool:
    return value is None or (isinstance(value, list) and all(map(holds, value)))


_JSON: dict[str, Callable[[object], bool]] = {
    "labels": lambda value: _several(value, lambda one: isinstance(one, str)),
    "layers": lambda value: _several(value, _whole),
    "limit": lambda value: value is None or _whole(value),
    "versions": lambda value: isinstance(value, dict),
}


def difference(expected: Mapping[str, Any], found: Mapping[str, Any], names: Iterable[str] = FINGERPRINT) -> str:
    """The attributes that differ, in words: `max_length: expected 128, found 256; ...` (at most three)."""
    absent = "nothing"
    parts = [
        f"{name}: expected {expected.get(name, absent)!r}, found {found.get(name, absent)!r}"
        for name in names
        if expected.get(name, absent) != found.get(name, absent)
    ]
    return "; ".join(parts[:3])


def check_datasets(names: Iterable[str]) -> tuple[str, ...]:
    """Names of datasets as a writer takes them (`last_hidden` is one), in the table's order; refuses unknown ones."""
    valid = tuple(dict.fromkeys(name.split("/")[0] for name in DATASETS))
    asked = set(names)
    for name in sorted(asked - set(valid)):
        raise UnknownNameError("dataset", name, valid)
    return tuple(name for name in valid if name in asked)


def streams_of(name: str) -> tuple[str, ...]:
    """The HDF5 datasets behind a name: itself, or values and offsets for `last_hidden`."""
    return tuple(path for path in DATASETS if path == name or path.startswith(f"{name}/"))


def encode_attributes(attributes: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Root attributes as HDF5 holds them: texts and numbers as they are, everything else as canonical JSON."""
    out: dict[str, str | int | float | bool] = {}
    for name, value in attributes.items():
        plain = isinstance(value, str | int | float | bool)
        if ATTRIBUTES.get(name) == "json" or not plain:
            out[name] = canonical_json(value)
        else:
            out[name] = value
    return out


def decode_attributes(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `encode_attributes` for the attributes of the table; extras stay as they are stored."""
    out: dict[str, Any] = {}
    for name, value in stored.items():
        if ATTRIBUTES.get(name) == "json" or name == "part":
            try:
                out[name] = json.loads(value)
            except (TypeError, ValueError) as error:
                raise CacheError(f"attribute {name!r}: expected JSON, found {str(value)[:60]!r}") from error
        else:
            out[name] = value
    return out
