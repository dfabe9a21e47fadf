"""Tiny random encoders as folders, the way checkpoints lie on a disk, and plain transformers to compare with."""

import string

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

HIDDEN = 24

#: Texts with everything that is awkward: empty, right to left, emoji, control characters, lone surrogates, long.
TEXTS = [
    "a plain sentence.",
    "",
    "אבג right to left דהו",
    "emoji \U0001f600 and é accents",
    "control \x00\x07\x1b characters",
    "half a pair \ud83d here",
    "w" * 300,
    "many words " * 12,
    "tab\tand newline\n inside",
    "the end",
]
PAIRS = [
    ("a first", "and a second"),
    ("", ""),
    ("", "only the second"),
    ("x" * 250, "short"),
    ("long " * 30, "y " * 30),
]


def tokenizer(kind):
    """A word-piece tokenizer over letters, with BERT's or RoBERTa's special tokens."""
    roberta = kind in ("roberta", "mpnet")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if roberta else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = dict(
        zip(
            ("cls", "pad", "sep", "unk", "mask") if roberta else ("pad", "unk", "cls", "sep", "mask"),
            special,
            strict=True,
        )
    )
    letters = string.ascii_lowercase + string.digits + ".,"
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters), "the", "and", "word"]
    backend = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token=names["unk"]))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = names["cls"], names["sep"]
    second = f"{sep} $B {sep}" if roberta else f"$B:1 {sep}:1"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} {second}",
        special_tokens=[(cls, vocabulary.index(cls)), (sep, vocabulary.index(sep))],
    )
    types = kind in ("bert", "albert", "electra")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=64,
        model_input_names=["input_ids", *(["token_type_ids"] if types else []), "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    )


def config(kind, vocabulary, **changes):
    """A small configuration of some model type."""
    from transformers import AlbertConfig, BertConfig, DistilBertConfig, ElectraConfig, MPNetConfig, RobertaConfig

    common = {
        "vocab_size": vocabulary, "hidden_size": HIDDEN, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 40, "max_position_embeddings": 64, "initializer_range": 0.4,
    }  # fmt: skip
    roberta = {"max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    classes = {
        "bert": (BertConfig, common),
        "roberta": (RobertaConfig, common | roberta | {"type_vocab_size": 1}),
        "mpnet": (MPNetConfig, common | roberta),
        "electra": (ElectraConfig, common | {"embedding_size": HIDDEN}),
        "albert": (AlbertConfig, common | {"embedding_size": 8}),
        "distilbert": (
            DistilBertConfig,
            {
                "vocab_size": vocabulary, "dim": HIDDEN, "n_layers": 3, "n_heads": 4, "hidden_dim": 40,
                "max_position_embeddings": 64, "initializer_range": 0.4,
            },
        ),
    }  # fmt: skip
    made, values = classes[kind]
    return made(**(values | changes))


def save(folder, kind, *, pooler=True, seed=1, with_tokenizer=True, **changes):
    """Write an encoder's folder and return it."""
    torch.manual_seed(seed)
    tokens = tokenizer(kind)
    made = config(kind, len(tokens), **changes)
    options = {} if pooler or kind in ("distilbert", "electra") else {"add_pooling_layer": False}
    model = AutoModel.from_config(made, **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    if with_tokenizer:
        tokens.save_pretrained(folder)
    return folder


def plain(folder, rows, max_length, layers=None):
    """The poolings from plain transformers in float32, one row at a time: {name: [N, D]}."""
    tokens, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    out = {}
    with torch.no_grad():
        for text, pair in rows:
            text, pair = (None if t is None else t.encode("utf-8", "replace").decode() for t in (text, pair))
            # In lists: with two plain strings transformers takes an empty second text for none at all.
            second = None if pair is None else [pair]
            inputs = tokens([text], second, return_tensors="pt", truncation="longest_first", max_length=max_length)
            found = model(**inputs, output_hidden_states=True)
            last = found.last_hidden_state[0]
            if layers:
                last = torch.stack([found.hidden_states[layer][0] for layer in layers]).mean(0)
            row = {"cls": last[0], "mean": last.mean(0), "max": last.amax(0), "last": last[-1], "last_hidden": last}
            row["weight"] = model.get_input_embeddings()(inputs["input_ids"])[0].sum(0)
            if getattr(found, "pooler_output", None) is not None:
                row["pooled"] = found.pooler_output[0]
            for name, value in row.items():
                out.setdefault(name, []).append(value)
    return {name: values if name == "last_hidden" else torch.stack(values).numpy() for name, values in out.items()}
