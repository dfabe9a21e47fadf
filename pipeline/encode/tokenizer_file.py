"""A tokenizer read from `tokenizer.json` without transformers, where that gives the tokens that transformers gives.

Transformers takes the file as it is for a tokenizer of its generic class. For BERT's and RoBERTa's classes it makes the
tokenizer anew from the file's vocabulary and the options beside it, so a file of theirs counts only if it says what
would be made. For everything else, faulty files included, the answer is `None` and transformers decides.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["read_tokenizer"]

#: Classes by the model type that has them where a folder names none.
CLASSES = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer", "roberta": "RobertaTokenizer"}
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
#: Options that change a tokenizer in ways which are left to transformers.
UNUSUAL = frozenset(
    {
        "add_prefix_space", "auto_map", "fast_tokenizer_files", "gguf_file", "init_inputs", "merges", "post_processor",
        "split_special_tokens", "tokenizer_object", "tokenizer_padding", "tokenizer_truncation", "vocab",
    }
)  # fmt: skip
#: Transformers patches larger ones of certain families.
MOST_TOKENS = 100_000


def read_tokenizer(folder: Path) -> "tuple[Tokenizer, bool] | None":
    """The tokenizer, and whether it gives token types; `None` where transformers has to make it."""
    if not (folder / "tokenizer.json").is_file() or (folder / "added_tokens.json").is_file():
        return None
    try:
        config, options = _read(folder / "config.json"), _read(folder / "tokenizer_config.json")
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        state = json.loads(text)
        if "added_tokens_decoder" not in options:
            options = options | _read(folder / "special_tokens_map.json")
        usual = options.get("truncation_side", "right") == "right" and not any(options.get(key) for key in UNUSUAL)
        if not usual or state["post_processor"] is None:
            return None
        kind = options.get("tokenizer_class") or config.get("tokenizer_class") or CLASSES.get(config.get("model_type"))
        rule = _KINDS.get(kind) or _KINDS.get(str(kind).removesuffix("Fast"))
        if rule is None or not rule.allows(state, options) or not _tokens_are_all_there(state, options, rule):
            return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        # Whatever is wrong with the files, transformers, which is asked next, says it.
        return None
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_str(text)
    except Exception as error:
        # The library raises bare exceptions for a state that it cannot read, and nothing of a class of its own.
        if type(error) is not Exception:
            raise
        return None
    names = options.get("model_input_names")
    types = rule.types if names is None else "token_type_ids" in names
    return None if types is None or backend.get_vocab_size() > MOST_TOKENS else (backend, types)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _content(token: Any) -> str | None:
    """The text of a token as options have it: a string, or its properties."""
    return token["content"] if isinstance(token, dict) else token


def _tokens_are_all_there(state: Mapping[str, Any], options: Mapping[str, Any], rule: "_Rule") -> bool:
    """Whether every special and added token of the options is in the file, with the same properties and number."""
    added = {token["content"]: token for token in state["added_tokens"]}
    if any(options.get(key, "") is None for key in rule.tokens):
        return False
    for key, token in {**rule.tokens, **options}.items():
        content = _content(token) if key.endswith("_token") else None
        if isinstance(content, str) and not added.get(content, {}).get("special"):
            return False
        # Where options give properties, they may be others than the file's.
        if isinstance(token, dict) and key in NAMED and _differs(token, added[content]):
            return False
    extra = [*(options.get("extra_special_tokens") or ()), *(options.get("additional_special_tokens") or ())]
    if isinstance(options.get("extra_special_tokens"), dict) or any(_content(token) not in added for token in extra):
        return False
    decoder = options.get("added_tokens_decoder")
    if decoder is not None:
        declared = {token["content"]: token | {"id": int(number)} for number, token in decoder.items()}
        if declared.keys() != added.keys() or any(_differs(declared[name], added[name]) for name in added):
            return False
    return rule is _AS_IS or _numbers_are_those_of_the_model(state)


def _differs(token: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    return any(token[key] != known[key] for key in token.keys() & known.keys())


def _numbers_are_those_of_the_model(state: Mapping[str, Any]) -> bool:
    """Whether added tokens have their number in the vocabulary, or follow on its last in order."""
    vocabulary = state["model"]["vocab"]
    following = len(vocabulary)
    for token in sorted(state["added_tokens"], key=lambda token: token["id"]):
        number = vocabulary.get(token["content"])
        if number is None:
            number, following = following, following + 1
        if token["id"] != number:
            return False
    return True


@dataclass(frozen=True)
class _Rule:
    """When a file of some class (its state, the options) is what transformers makes, and special tokens that it adds.

    `types` says whether it gives token types, `None` where releases of transformers differ in what they do unasked.
    """

    allows: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
    tokens: Mapping[str, str]
    types: bool | None


def _has_no_prefix_space(state: Mapping[str, Any], options: Mapping[str, Any]) -> bool:  # noqa: ARG001
    # Releases before 5 set it by the options, whose default is false.
    return '"add_prefix_space": true' not in json.dumps(state["pre_tokenizer"])


def _is_bert(state: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    tokens = _BERT_TOKENS | {key: _content(options[key]) for key in NAMED if options.get(key)}
    vocabulary = state["model"]["vocab"]
    model = {"type": "WordPiece"} | {key: value for key, value in state["model"].items() if key != "vocab"}
    cls, sep = tokens["cls_token"], tokens["sep_token"]
    single = [_special(cls, 0), _sequence("A", 0), _special(sep, 0)]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, _sequence("B", 1), _special(sep, 1)],
        "special_tokens": {token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]} for token in (cls, sep)},
    }
    return (
        model
        == {
            "type": "WordPiece",
            "unk_token": tokens["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        }
        and state["normalizer"]
        == {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": options.get("tokenize_chinese_chars", True),
            "strip_accents": options.get("strip_accents"),
            "lowercase": options.get("do_lower_case", True),
        }
        and state["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and state["post_processor"] == template
    )


def _is_roberta(state: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    tokens = _ROBERTA_TOKENS | {key: _content(options[key]) for key in NAMED if options.get(key)}
    vocabulary, model, before = state["model"]["vocab"], state["model"], state["pre_tokenizer"]
    ends = {key: [tokens[f"{key}_token"], vocabulary[tokens[f"{key}_token"]]] for key in ("sep", "cls")}
    return (
        model["type"] == "BPE"
        and not any(model.get(key) for key in set(model) - {"type", "vocab", "merges"})
        and state["normalizer"] is None
        and before["type"] == "ByteLevel"
        and not before["add_prefix_space"]
        and before.get("use_regex", True)
        and state["post_processor"]["type"] == "RobertaProcessing"
        and {key: state["post_processor"][key] for key in ends} == ends
    )


def _special(token: str, kind: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": kind}}


def _sequence(name: str, kind: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": kind}}


_BERT_TOKENS = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
_ROBERTA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>"} | {
    f"{name}_token": f"<{name}>" for name in ("unk", "pad", "mask")
}
_AS_IS = _Rule(_has_no_prefix_space, {}, None)
_KINDS = dict.fromkeys(("PreTrainedTokenizerFast", "TokenizersBackend"), _AS_IS) | {
    "BertTokenizer": _Rule(_is_bert, _BERT_TOKENS, True),
    "DistilBertTokenizer": _Rule(_is_bert, _BERT_TOKENS, False),
    "RobertaTokenizer": _Rule(_is_roberta, _ROBERTA_TOKENS, False),
}
