"""An encoder's files without torch: which hold the weights, which tensors those name, and their hashes."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import EncoderError
from pipeline.hashing import hash_file, hash_json

__all__ = ["TOKENIZER_FILES", "read_json", "tensor_names", "tokenizer_sha256", "weight_files"]

#: A folder with none of these has no tokenizer.
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model",
)  # fmt: skip
#: Keys of `tokenizer_config.json` that change tokens and that a loader applies on top of `tokenizer.json`.
TOKENIZER_KEYS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")


def read_json(path: Path, who: str, what: str) -> dict[str, Any]:
    """A JSON object; `who` and `what` name it in the `EncoderError` where it is missing or is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EncoderError(f"{who}: expected {what}, found no {path.name} in {path.parent}") from None
    except (OSError, ValueError) as error:
        raise EncoderError(f"{who}: expected JSON in {path}, found {error}") from error
    if not isinstance(value, dict):
        raise EncoderError(f"{who}: expected a JSON object in {path}, found {type(value).__name__}")
    return value


def weight_files(folder: Path, asked: str) -> list[Path]:
    """The safetensors files of an encoder in canonical (sorted) order; `EncoderError` where there are none."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = read_json(index, f"encoder {asked!r}", "an index of shards").get("weight_map", {})
        if not isinstance(shards, dict):
            raise EncoderError(f"encoder {asked!r}: expected an object as weight_map of {index.name}; get it again")
        paths = [folder / shard for shard in sorted(set(shards.values()))]
        missing = [path.name for path in paths if not path.is_file()]
        if paths and not missing:
            return paths
        raise EncoderError(
            f"encoder {asked!r}: expected the shards of {index.name}, missing {', '.join(missing)}; get them"
        )
    found = [file for file in PICKLES if (folder / file).is_file()]
    raise EncoderError(
        f"encoder {asked!r}: expected weights as model.safetensors, found {', '.join(found) or 'none'}; "
        + ("save the model as safetensors, pickled weights are never loaded" if found else "the folder is incomplete")
    )


def tensor_names(path: Path, asked: str) -> list[str]:
    """The names in a safetensors file's header: 8 bytes little-endian length, then JSON."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= path.stat().st_size - 8:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
            tensors = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            rest, expected = path.stat().st_size - 8 - length, max(tensors, default=0)
            if rest != expected:
                raise ValueError(f"{rest} bytes of tensors where its header says {expected}")
        return [name for name in header if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(
            f"encoder {asked!r}: expected a safetensors file in {path.name}, found {error}; get it again"
        ) from error


def tokenizer_sha256(folder: Path, asked: str) -> str:
    """Hash of what decides tokens: `tokenizer.json` without its truncation and padding state, and the few options.

    A tokenizer without `tokenizer.json` is hashed by the bytes of the files that it is converted from.
    """
    options: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").is_file():
        declared = read_json(folder / "tokenizer_config.json", f"encoder {asked!r}", "tokenizer_config.json")
        options = {key: declared[key] for key in TOKENIZER_KEYS if declared.get(key) is not None}
        if declared.get("truncation_side", "right") != "right":
            options["truncation_side"] = declared["truncation_side"]
    if (folder / "tokenizer.json").is_file():
        state = read_json(folder / "tokenizer.json", f"encoder {asked!r}", "tokenizer.json")
        state.pop("truncation", None)
        state.pop("padding", None)
        return hash_json({"tokenizer": state, "options": options})
    files = {name: hash_file(folder / name) for name in (*TOKENIZER_FILES, "merges.txt") if (folder / name).is_file()}
    return hash_json({"files": files, "options": options})
