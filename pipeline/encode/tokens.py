"""From texts to token ids: whole blocks of rows through the fast tokenizer, nothing padded."""

import contextlib
import itertools
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import EncoderError
from pipeline.hashing import hash_file, hash_json
from pipeline.publish import cache_folder
from pipeline.sources.base import Row
from pipeline.versions import version

__all__ = ["Tokeniser", "Tokens", "encode", "inputs_of", "joined", "load_tokeniser"]

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
SPACE = re.compile("[ \t\n\r]")
#: Where tokenizers of a kind split besides, whatever comes behind: a word ends or begins at punctuation.
EDGE = re.compile(r"\s|(?<=\w)[^\w\s]|(?<=[^\w\s])\w")
MARK = re.compile(r"\s|[^\w\s]")
MARK_OR_HAN = re.compile(r"\s|[^\w\s]|[\u3400-\u4dbf\u4e00-\u9fff]")
#: Characters from which on a text is not given to the tokenizer whole: it takes a hundred bytes a character.
LONG_TEXT = 1 << 16
#: Parts of tokenizers that see nothing across white space, and those that split there.
LOCAL = frozenset(
    {"BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation", "Whitespace", "WhitespaceSplit"}
)
SPLITTING = LOCAL - {"Digits", "Punctuation"}


@dataclass(frozen=True)
class Tokens:
    """The tokens of some rows, end to end.

    `ids` and `types` are int32 [T]; `offsets` is int64 [N + 1], row i being `offsets[i]:offsets[i + 1]`;
    `truncated` is how many rows were longer than the limit.
    """

    ids: np.ndarray
    types: np.ndarray
    offsets: np.ndarray
    truncated: int

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, special ones included, int64 [N]."""
        return np.diff(self.offsets)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Positions in `ids` of the tokens of some rows in the given order, int64."""
        lengths = self.lengths[rows]
        starts = np.cumsum(lengths) - lengths
        return np.arange(lengths.sum()) + np.repeat(self.offsets[:-1][rows] - starts, lengths)

    def take(self, rows: np.ndarray) -> "Tokens":
        """The tokens of some rows in the given order."""
        places = self.places(rows)
        return Tokens(self.ids[places], self.types[places], np.concatenate([[0], np.cumsum(self.lengths[rows])]), 0)


class Tokeniser:
    """A fast tokenizer with the encoder's own special tokens, truncating longest-first at `max_length` tokens."""

    def __init__(self, backend: Any, max_length: int, *, types: bool, side: str = "right") -> None:
        """`backend` is a `tokenizers.Tokenizer`; `types` says whether the encoder takes token types.

        `side` is where truncation takes tokens away.
        """
        self._backend = backend
        self._backend.no_padding()
        self._backend.enable_truncation(max_length, strategy="longest_first", direction=side)
        self.types = types
        #: One more than the largest token id.
        self.vocabulary = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def __call__(self, rows: Sequence[Row]) -> Tokens:
        """Tokenise rows; pairs go in as pairs. Releases the interpreter while the tokenizer works."""
        return encode(self._backend, inputs_of(rows), types=self.types)

    @cached_property
    def state(self) -> str:
        """The tokenizer with its truncation as JSON, from which another process can make it again."""
        return self._backend.to_str()


def inputs_of(rows: Sequence[Row]) -> list[str | tuple[str, str]]:
    """Rows as a tokenizer takes them."""
    return [row.text if row.text_pair is None else (row.text, row.text_pair) for row in rows]


def encode(backend: Any, inputs: list[str | tuple[str, str]], *, types: bool) -> Tokens:
    """Tokenise texts and pairs with a `tokenizers.Tokenizer`; without `types` all token types are 0."""
    inputs = [_shortened(backend, text) for text in inputs]
    try:
        encoded = backend.encode_batch_fast(inputs)
    except (TypeError, UnicodeEncodeError):
        # The tokenizer takes UTF-8; a lone surrogate has none, and U+FFFD is what stands for such a character.
        encoded = backend.encode_batch_fast([_clean(text) for text in inputs])
    lengths = np.fromiter((len(row) for row in encoded), np.int64, len(encoded))
    if len(lengths) and not lengths.all():
        text = inputs[int(lengths.argmin())]
        raise EncoderError(
            f"expected a token of every row at least, found none of {text!r:.60}: this tokenizer adds no special "
            "tokens; leave empty texts out"
        )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.fromiter(itertools.chain.from_iterable(row.ids for row in encoded), np.int32, offsets[-1])
    if types and any(isinstance(text, tuple) for text in inputs):
        kinds = np.fromiter(itertools.chain.from_iterable(row.type_ids for row in encoded), np.int32, offsets[-1])
    elif types and len(encoded):
        # Single texts: the template gives all of them the types of the first.
        kinds = np.full_like(ids, encoded[0].type_ids[0] if len(encoded[0]) else 0)
    else:
        kinds = np.zeros_like(ids)
    return Tokens(ids, kinds, offsets, sum(bool(row.overflowing) for row in encoded))


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Tokens of consecutive rows as one."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.types for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]),
        sum(part.truncated for part in parts),
    )


def load_tokeniser(folder: Path, name: str, max_length: int) -> Tokeniser:
    """The tokenizer in an encoder's folder, as transformers makes it.

    Importing transformers takes seconds, so what it makes is kept in the user's cache folder, under a hash of all files
    that it may depend on and of the versions of its makers. Raises `EncoderError` where there is no fast tokenizer.
    """
    kept = cache_folder() / "tokenizers" / f"{_key(folder)}.json"
    made = None
    with contextlib.suppress(OSError, ValueError):
        made = json.loads(kept.read_text(encoding="utf-8"))
    if made is None:
        made = _make(folder, name)
        with contextlib.suppress(OSError):
            cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            kept.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False, encoding="utf-8") as file:
                json.dump(made, file)
            os.replace(file.name, kept)
    from tokenizers import Tokenizer

    return Tokeniser(Tokenizer.from_str(made["state"]), max_length, types=made["types"], side=made["side"])


def _key(folder: Path) -> str:
    """A hash of what decides the tokenizer."""
    files = {
        path.name: hash_file(path)
        for path in folder.iterdir()
        if path.suffix in (".json", ".txt", ".model") and not path.name.endswith(".index.json") and path.is_file()
    }
    return hash_json({"files": files, "versions": {name: version(name) for name in ("tokenizers", "transformers")}})


def _make(folder: Path, name: str) -> dict[str, Any]:
    """With transformers: the tokenizer's state, whether it gives token types, and where it truncates."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # The loaders raise anything from OSError to AttributeError on a folder that is not a tokenizer's.
        cause = " ".join(str(error).split())[:200]
        raise EncoderError(f"encoder {name!r}: expected a tokenizer ({cause}); save the tokenizer again") from error
    if not getattr(tokenizer, "is_fast", False):
        raise EncoderError(
            f"encoder {name!r}: expected a tokenizer with a fast form (tokenizer.json), found a slow one"
        )
    return {
        "state": tokenizer.backend_tokenizer.to_str(),
        "types": "token_type_ids" in tokenizer.model_input_names,
        "side": tokenizer.truncation_side,
    }


def _shortened(backend: Any, text: str | tuple[str, str]) -> str | tuple[str, str]:
    """A text, or each of a pair, without words that come so late that truncation leaves nothing of them.

    Memory would otherwise grow with the longest row. Of two texts that are both cut the one with more tokens left
    counts as the longer one. A text that is one word is given whole.
    """
    if isinstance(text, tuple):
        return (_shortened(backend, text[0]), _shortened(backend, text[1]))
    if len(text) < LONG_TEXT or (edge := _edges(backend)) is None:
        return text
    size = LONG_TEXT // 2
    while size < len(text):
        front = LONE_SURROGATE.sub("\ufffd", text[:size])
        found = backend.encode(front)
        # The word that the cut goes through may have other tokens: it has to lie behind all that are left.
        if found.overflowing and edge.search(front, max(end for _, end in found.offsets)):
            return front
        size *= 2
    return text


def _edges(backend: Any) -> re.Pattern | None:
    """Where the tokens of what comes before are the same whatever comes behind; `None` where one cannot say."""
    truncation = backend.truncation
    if truncation is None or truncation["direction"] != "right" or backend.pre_tokenizer is None:
        return None
    state = json.loads(backend.pre_tokenizer.__getstate__())
    parts = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    kinds = {part["type"] for part in parts if part.get("use_regex", True) and part.get("split", True)}
    if len(kinds) < len({part["type"] for part in parts}) or not kinds <= LOCAL or not kinds & SPLITTING:
        return None
    if "BertPreTokenizer" in kinds:
        normal = json.loads(backend.normalizer.__getstate__()) if backend.normalizer is not None else {}
        return MARK_OR_HAN if normal.get("handle_chinese_chars") else MARK
    return EDGE if kinds & {"ByteLevel", "Whitespace"} else SPACE


def _clean(text: str | tuple[str, str]) -> str | tuple[str, str]:
    if isinstance(text, tuple):
        return LONE_SURROGATE.sub("\ufffd", text[0]), LONE_SURROGATE.sub("\ufffd", text[1])
    return LONE_SURROGATE.sub("\ufffd", text)
