"""`finetune`: one head and its encoder from a cache's rows to the results database."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encode.encoders import Encoder, resolve
from pipeline.encode.rows import Asked, encoder_of
from pipeline.errors import CacheError, ConfigError, UnknownNameError
from pipeline.finetune.options import HEAD_DEFAULTS, EncoderTraining, encoder_training
from pipeline.hashing import hash_json
from pipeline.heads.config import HeadConfig
from pipeline.heads.cost import forward_flops, parameters
from pipeline.heads.families import PACKABLE
from pipeline.heads.resolve import resolve as resolve_head
from pipeline.models.caches import CacheRef, find_cache, load_data
from pipeline.models.saved import RESULTS, SavedHead, finetuned_folder, heads_folder, stage
from pipeline.optional import require
from pipeline.progress import say
from pipeline.publish import publish
from pipeline.sources import Row
from pipeline.store import open_cache
from pipeline.store.schema import fingerprint
from pipeline.sweep.results import SELECTION, TRAINING, Results

__all__ = ["FinetuneResult", "family_named", "finetune", "rows_of"]

POOLINGS = ("pooled", "cls", "mean")
#: What the published experiments called a linear layer on the pooler's output.
PUBLISHED_NAMES = {"classifier": "linear"}


@dataclass(frozen=True)
class FinetuneResult:
    """One fine-tuned head (document of `fit_heads.py finetune --json`).

    As `pipeline.fit`'s result; `parameters`, `flops` and `fit_seconds` count encoder and head together, `encoder` is
    the one that training began with, `folder` holds the trained one. `degenerate` is whether the head gives all rows
    of some reported split one class.
    """

    id: str
    task: str
    encoder: str
    head: str
    seed: int
    config: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    selection: dict[str, float]
    epoch: int
    parameters: int
    flops: int
    fit_seconds: float
    status: str
    diverged_at: int | None
    folder: str
    degenerate: bool
    trained: bool


def family_named(name: str) -> str:
    """The family that a name means; `trans_effi_kan` and `trans_classifier` are published names."""
    short = name.removeprefix("trans_")
    family = PUBLISHED_NAMES.get(short, short)
    if family not in PACKABLE:
        raise UnknownNameError("head", name, tuple(PACKABLE))
    return family


def finetune(
    task: str,
    *,
    head: str,
    encoder: str | None = None,
    features: str | None = None,
    protocol: str = "clean",
    seed: int = 0,
    cache: str | Path = "cache",
    results: str | Path = RESULTS,
    device: str = "auto",
    training: Mapping[str, Any] | None = None,
    **options: Any,
) -> FinetuneResult:
    """Train a head together with its encoder on the rows of a cache, or look it up where it is stored.

    `training` are options of `EncoderTraining`, `options` those of the head. Rows, splits, selection rows and the order
    of minibatches are those of a head on the frozen cache. Raises `KanglueError`.
    """
    results = Path(results)
    ref = find_cache(Path(cache), task, encoder)
    config, added = _configuration(ref, family_named(head), features, protocol, seed, options, training or {})
    name = hash_json({"fingerprint": ref.fingerprint, "config": _document(config, added)})[:16]
    with Results(results, create=True) as store:
        new = not store.known([name])
        if new:
            require("accelerate", *(["peft"] if added.lora else []))
            start = encoder_of(ref.attributes, Asked(encoder), f"finetune {task}")
            _train_and_store(store, results, ref, start, config, added, name, device)
        (document,) = store.heads({"id": [name]})
        degenerate = any(
            len(np.unique(store.outputs(name, split).argmax(1))) == 1
            for split in document["metrics"] if split != TRAINING
        ) if document["status"] == "trained" and ref.task.labels is not None else False  # fmt: skip
    shown = {key: document[key] for key in FinetuneResult.__dataclass_fields__ if key in document}
    shown |= {"folder": str(finetuned_folder(results) / name), "degenerate": degenerate, "trained": new}
    return FinetuneResult(**shown)


def _configuration(
    ref: CacheRef, family: str, features: str | None, protocol: str, seed: int, options: Mapping[str, Any],
    training: Mapping[str, Any],
) -> tuple[HeadConfig, EncoderTraining]:  # fmt: skip
    if ref.attributes["pairs"] != "joint":
        raise ConfigError(f"pairs: expected joint for fine-tuning, found the cache {ref.path.name}; name the joint one")
    if ref.attributes["layers"] is not None:
        raise ConfigError(f"layers: expected the last layer for fine-tuning, found the cache {ref.path.name}")
    wanted = features or (ref.default_feature if ref.default_feature in POOLINGS else "mean")
    if wanted not in POOLINGS:
        raise UnknownNameError("feature of a fine-tuned head", wanted, POOLINGS)
    if protocol not in HEAD_DEFAULTS:
        raise UnknownNameError("protocol", protocol, tuple(HEAD_DEFAULTS))
    given = {key: value for key, value in options.items() if value is not None}
    config = resolve_head(
        family, seed=seed, features=ref.feature(wanted), protocol=protocol, options=HEAD_DEFAULTS[protocol] | given
    )
    if config.extras:
        extra = ", ".join(config.extras)
        raise ConfigError(f"{extra}: expected to be left out for fine-tuning; use {family} on the frozen cache for it")
    return config, encoder_training(protocol, training)


def _document(config: HeadConfig, added: EncoderTraining) -> dict[str, Any]:
    """The configuration of both, as it is hashed and stored."""
    return config.to_json() | {"encoder_training": added.to_json()}


def _train_and_store(
    store: Results, results: Path, ref: CacheRef, start: Encoder, config: HeadConfig, added: EncoderTraining, name: str,
    device_name: str,
) -> None:  # fmt: skip
    import torch

    from pipeline.device import resolve_device
    from pipeline.finetune.train import encoder_flops, metrics, save_encoder, tokenise, train
    from pipeline.finetune.training import Recipe, processes
    from pipeline.fit.data import targets_of
    from pipeline.fit.split import replicate
    from pipeline.sweep.executor import run_versions
    from pipeline.sweep.runner import store_cache

    device = resolve_device(device_name)
    precision = added.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    data = load_data(ref, config.features, config.scale)
    store_cache(store, ref)
    tokeniser, tokens = tokenise(start, rows_of(ref)[0], ref.attributes["max_length"])
    folder = finetuned_folder(results) / name
    work = finetuned_folder(results) / f".{name}.checkpoints"
    recipe = Recipe(name, config, added, precision)
    model = train(recipe, start, data, tokens, tokeniser, ref.attributes["max_length"], work, device)
    if os.environ.get("RANK", "0") != "0":
        torch.distributed.barrier()  # the first process stores
        return
    network = model.model.head.network
    tensors = {key: tensor.detach().cpu() for key, tensor in model.model.head.tensors().items()}
    with publish(folder, "an encoder", own=None) as encoder_files:
        save_encoder(model.model, start, encoder_files)
    tuned = resolve(str(folder))
    provenance = dict(ref.attributes) | {
        "encoder": tuned.name, "encoder_sha256": tuned.weights_sha256, "config_sha256": tuned.config_sha256,
        "tokenizer_sha256": tuned.tokenizer_sha256, "precision": "float32", "default_feature": config.features,
        "finetuned_from": ref.encoder, "finetuned_fingerprint": ref.fingerprint, "encoder_training": added.to_json(),
    }  # fmt: skip
    provenance["fingerprint"] = fingerprint(provenance)
    saved = SavedHead(
        name, config, network, tensors, data.scaling, data.target_scale, ref.task.labels, provenance, model.diverged_at,
    )  # fmt: skip
    length = float(np.mean(tokens["train"].lengths))
    scores = {split: metrics(data, model.outputs[split], targets_of(data, labels).numpy())
              for split, labels in data.labels.items()}  # fmt: skip
    scores[TRAINING] = scores.pop("train")
    split = replicate(data, config.seed, config.protocol)
    if split.selection is None:
        scores[SELECTION] = scores[data.reported[0]]
    else:
        rows = split.selection
        held = targets_of(data, data.labels["train"][rows]).numpy()
        scores[SELECTION] = metrics(data, model.outputs["train"][rows], held)
    mean, spread = data.target_scale
    failed = model.diverged_at is not None
    record = {
        "id": name, "task": ref.task.name, "cache": ref.name, "source": ref.attributes["source"],
        "encoder": ref.encoder, "pairs": "joint", "row_limit": ref.attributes["limit"], "fingerprint": ref.fingerprint,
        "head": config.head, "main_metric": ref.task.main_metric, "features": config.features, "inputs": data.inputs,
        "protocol": config.protocol, "seed": config.seed, "config": _document(config, added),
        "trained": "encoder+head", "status": "diverged" if failed else "trained", "diverged_at": model.diverged_at,
        "epoch": model.epoch, "still_improving": model.epoch == config.epochs, "coverage": None,
        "parameters": parameters(network) + sum(p.numel() for p in model.model.encoder.parameters()),
        "flops": forward_flops(network) + encoder_flops(model.model.encoder, length), "fit_seconds": model.seconds,
        "train_rows": len(data.labels["train"]), "folds": 1, "device": str(device), "versions": run_versions(device),
        "metrics": {} if failed else scores, "curve": model.curve,
        "outputs": {} if failed else {split: model.outputs[split] * spread + mean for split in data.reported},
    }  # fmt: skip
    with stage(heads_folder(results)) as files:
        record["sha256"] = files.write(saved)
        files.sync()
        store.add([record], publish=files.move, replace=[name])
    shutil.rmtree(work, ignore_errors=True)
    if processes() > 1:
        torch.distributed.barrier()
    say(f"encoder in {folder}: embed.py run {ref.task.name} --encoder {folder} caches it")


def rows_of(ref: CacheRef) -> tuple[dict[str, list[Row]], dict[str, np.ndarray]]:
    """The labelled rows' texts, and their labels, of every split in the cache's order.

    Raises `CacheError` where the cache has no texts.
    """
    rows: dict[str, list[Row]] = {}
    kept: dict[str, np.ndarray] = {}
    with open_cache(ref.path) as cache:
        for split in cache.splits:
            view = cache[split]
            if "text" not in view.names:
                raise CacheError(f"{ref.path}: expected texts to fine-tune on, found none; embed again with texts")
            labels = np.asarray(view["label"])
            labelled = ~np.isnan(labels) if ref.task.labels is None else labels >= 0
            if labelled.any():
                pairs = view["text_pair"] if "text_pair" in view.names else [None] * len(labels)
                texts = zip(view["text"], pairs, labelled, strict=True)
                rows[split] = [Row(text, pair, -1) for text, pair, wanted in texts if wanted]
                kept[split] = labels[labelled]
    return rows, kept
