"""Encoder and head trained together on the rows of a cache, and the encoder saved as a folder."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.encode.encoders import Encoder
from pipeline.encode.files import TOKENIZER_FILES
from pipeline.encode.load import load_model
from pipeline.encode.padded import takes_types
from pipeline.encode.tokens import Tokeniser, Tokens, load_tokeniser
from pipeline.errors import DeviceError, EncoderError
from pipeline.finetune.data import Collator, EpochOrder, TokenRows
from pipeline.finetune.model import EncoderWithHead, Head, merge_lora, wrap_lora
from pipeline.finetune.training import FinetuneTrainer, Recipe, arguments, resume_point, selection_score
from pipeline.fit.data import FitData, targets_of
from pipeline.fit.split import replicate
from pipeline.heads.families import build_network
from pipeline.heads.initialization import start
from pipeline.progress import say
from pipeline.sources import Row

__all__ = ["FinetunedModel", "build", "encoder_flops", "metrics", "outputs", "save_encoder", "tokenise", "train"]


@dataclass(frozen=True)
class FinetunedModel:
    """What training gave.

    model : the encoder (LoRA merged) and head as of the best epoch, in evaluation mode.
    outputs : logits (or standardised values) [rows, outputs] of every labelled split.
    curve : by epoch, mean training loss, selection loss, main metric on the selection rows.
    diverged_at : the step at whose epoch's end the loss was not finite, else `None`.
    """

    model: EncoderWithHead
    epoch: int
    outputs: Mapping[str, np.ndarray]
    curve: list[tuple[float, float, float]]
    seconds: float
    diverged_at: int | None


def build(recipe: Recipe, encoder: Encoder, data: FitData) -> EncoderWithHead:
    """Encoder and head with the initial weights that the recipe's seed fixes.

    Raises `EncoderError` where the encoder's width is not the head's.
    """
    from transformers import set_seed

    set_seed(recipe.config.seed)
    network = build_network(recipe.config, data.inputs, data.outputs)
    model = load_model(encoder).train().requires_grad_(True)
    width = model.config.hidden_size
    if width != data.inputs:
        raise EncoderError(
            f"encoder {encoder.name!r}: expected hidden states {data.inputs} wide, as the head reads, found {width}; "
            "use the encoder of the cache"
        )
    if recipe.config.features != "pooled" and getattr(model, "pooler", None) is not None:
        model.pooler.requires_grad_(False)
    if recipe.encoder.lora:
        model = wrap_lora(model, recipe.encoder.lora)
    head = Head(network, start(recipe.config, network), data.scaling)
    return EncoderWithHead(model, recipe.config.features, head, recipe.encoder.dropout)


def train(
    recipe: Recipe, encoder: Encoder, data: FitData, tokens: Mapping[str, Tokens], tokeniser: Tokeniser,
    max_length: int, folder: Path, device: torch.device,
    on_epoch: Callable[[Mapping[str, float]], None] = lambda _: None,
) -> FinetunedModel:  # fmt: skip
    """Train encoder and head on a cache's rows; an interrupted run goes on from its last whole checkpoint.

    `tokens` are those of every labelled split's rows; `folder` is the run's own, for checkpoints. Raises
    `DeviceError` where a minibatch does not fit into memory.
    """
    split = replicate(data, recipe.config.seed, recipe.config.protocol)
    selected_on = data.reported[0] if split.selection is None else "train"
    rows = np.arange(len(data.labels[selected_on])) if split.selection is None else split.selection
    targets = {name: targets_of(data, labels) for name, labels in data.labels.items()}
    model = build(recipe, encoder, data)
    collator = Collator(
        model.encoder.config.pad_token_id or 0, takes_types(model.encoder) and tokeniser.types,
        max_length if recipe.encoder.pad == "max_length" else None,
    )  # fmt: skip
    trainer = FinetuneTrainer(
        recipe,
        model,
        EpochOrder(split),
        on_epoch,
        args=arguments(recipe, folder, device),
        data_collator=collator,
        train_dataset=TokenRows(tokens["train"], targets["train"]),
        eval_dataset=TokenRows(tokens[selected_on], targets[selected_on], by_length(tokens[selected_on], rows)),
        compute_metrics=selection_score(lambda found, labels: metrics(data, found, labels), data.task.main_metric),
    )
    begin = time.perf_counter()
    point = resume_point(folder, recipe.id)
    if point:
        say(f"resuming from {Path(point).name}")
    try:
        trainer.train(resume_from_checkpoint=point)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"batch_size: expected {recipe.config.batch_size // recipe.encoder.accumulation} rows at once to fit into "
            f"the memory of {device}, found too little; give accumulation {2 * recipe.encoder.accumulation} or more"
        ) from error
    seconds = time.perf_counter() - begin
    curve, best = _curve(trainer.state.log_history, data.task.main_metric)
    diverged = bool(curve) and not np.isfinite(curve[-1][0])
    model = trainer.model.eval()
    if recipe.encoder.lora:
        model.encoder = merge_lora(model.encoder)
    every = {name: outputs(model, split_tokens, collator, device) for name, split_tokens in tokens.items()}
    return FinetunedModel(model, best, every, curve, seconds, trainer.state.global_step if diverged else None)


def by_length(tokens: Tokens, rows: np.ndarray | None = None) -> np.ndarray:
    """Rows in order of their length, so that little of a minibatch is padding."""
    rows = np.arange(len(tokens.offsets) - 1) if rows is None else rows
    return rows[np.argsort(tokens.lengths[rows], kind="stable")]


@torch.inference_mode()
def outputs(model: EncoderWithHead, tokens: Tokens, collator: Collator, device: torch.device) -> np.ndarray:
    """Logits [rows, outputs] of a split in its own order, in float32."""
    order = by_length(tokens)
    rows, found = TokenRows(tokens, None, order), []
    padded = Collator(collator.pad_id, collator.takes_types)
    for begin in range(0, len(rows), 64):
        batch = padded([rows[at] for at in range(begin, min(begin + 64, len(rows)))])
        found.append(model(**{name: tensor.to(device) for name, tensor in batch.items()})["logits"].cpu())
    values = torch.cat(found).numpy()
    back = np.empty_like(values)
    back[order] = values
    return back


def metrics(data: FitData, values: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Every metric of the task's kind for outputs [rows, outputs] against training targets [rows]."""
    from pipeline.fit.predict import split_metrics

    mean, spread = data.target_scale
    labels = targets if data.task.labels is not None else targets * spread + mean
    measured = split_metrics(torch.from_numpy(values)[None], labels, data)
    return {name: float(value[0]) for name, value in measured.items()}


def _curve(history: list[dict[str, float]], main: str) -> tuple[list[tuple[float, float, float]], int]:
    """The curve by epoch and the epoch of the best score, from 1 (0 without any)."""
    losses = {round(entry["epoch"]): entry["loss"] for entry in history if "loss" in entry}
    scored = {round(entry["epoch"]): entry for entry in history if "eval_score" in entry}
    curve = [
        (losses.get(epoch, float("nan")), entry["eval_loss"], entry[f"eval_{main}"]) for epoch, entry in scored.items()
    ]
    best = max(scored, key=lambda epoch: (scored[epoch]["eval_score"], -epoch), default=0)
    return curve, best


def save_encoder(model: EncoderWithHead, encoder: Encoder, folder: Path) -> None:
    """Write the encoder so that `embed.py run --encoder FOLDER` takes it: weights in safetensors, its tokenizer.

    A pooler that the head does not read was never trained, and is left out.
    """
    own = {key: tensor.contiguous() for key, tensor in model.encoder.state_dict().items()}
    if model.pooling != "pooled" and "pooled" not in encoder.features:
        own = {key: tensor for key, tensor in own.items() if "pooler" not in key.split(".")}
    model.encoder.save_pretrained(folder, state_dict=own)
    for name in (*TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json"):
        if (encoder.folder / name).is_file():
            shutil.copyfile(encoder.folder / name, folder / name)
    if model.pooling in ("cls", "mean"):
        (folder / "1_Pooling").mkdir()
        declared = {
            "pooling_mode_cls_token": model.pooling == "cls",
            "pooling_mode_mean_tokens": model.pooling == "mean",
        }
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(declared), encoding="utf-8")


def encoder_flops(model: Any, length: float) -> int:
    """FLOPs of the encoder's forward pass for a row of `length` tokens: two a weight and token, and attention.

    Attention's two products take `4 * length**2 * width` a layer (Kaplan et al., arXiv 2001.08361).
    """
    config = model.config
    embeddings = {id(parameter) for module in model.modules() if isinstance(module, torch.nn.Embedding)
                  for parameter in module.parameters()}  # fmt: skip
    weights = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in embeddings)
    layers = getattr(config, "num_hidden_layers", 0) or 0
    return round(2 * weights * length + layers * 4 * length**2 * config.hidden_size)


def tokenise(encoder: Encoder, rows: Mapping[str, list[Row]], max_length: int) -> tuple[Tokeniser, dict[str, Tokens]]:
    """The encoder's tokenizer and every split's tokens."""
    tokeniser = load_tokeniser(encoder.folder, encoder.name, max_length)
    return tokeniser, {split: tokeniser(texts) for split, texts in rows.items()}
