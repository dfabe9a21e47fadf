"""transformers' Trainer with this project's order of rows, selection, rates by layer, and whole checkpoints."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pipeline.errors import DeviceError, ResultsError
from pipeline.finetune.data import EpochOrder
from pipeline.finetune.model import EncoderWithHead
from pipeline.finetune.options import EncoderTraining
from pipeline.hashing import hash_file
from pipeline.heads.config import HeadConfig

__all__ = ["FinetuneTrainer", "Recipe", "arguments", "processes", "rate_groups", "resume_point"]

MARKER = "complete.json"
#: Weight of the loss among scores that tie; far below one row's share of any metric.
TIE = 1e-9
_MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
_LAYER = re.compile(r"\.(?:layer|layers|h|block|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Recipe:
    """One run: the head's configuration, what is added for the encoder, the precision that `auto` came to, its id."""

    id: str
    config: HeadConfig
    encoder: EncoderTraining
    precision: str


def processes() -> int:
    """Processes that PyTorch's launcher started for this run, one a GPU; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def arguments(recipe: Recipe, folder: Path, device: torch.device) -> TrainingArguments:
    """Trainer's arguments for a recipe; the rows of a step do not depend on the number of processes.

    Raises `DeviceError` where accumulation and processes do not divide the batch.
    """
    config, encoder = recipe.config, recipe.encoder
    share = encoder.accumulation * processes()
    if config.batch_size % share:
        raise DeviceError(
            f"batch_size: expected a multiple of accumulation times GPUs ({share}), found {config.batch_size}"
        )
    with _mixed_precision(recipe.precision):
        made = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=config.batch_size // share,
            per_device_eval_batch_size=64,
            gradient_accumulation_steps=encoder.accumulation,
            learning_rate=encoder.lr,
            num_train_epochs=config.epochs,
            lr_scheduler_type="linear",
            warmup_steps=0,
            max_grad_norm=0.0 if np.isinf(config.clip) else config.clip,
            bf16=recipe.precision == "bfloat16",
            fp16=recipe.precision == "float16",
            use_cpu=device.type == "cpu",
            ddp_backend="gloo" if device.type == "cpu" and processes() > 1 else None,
            seed=config.seed,
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=True,
            logging_nan_inf_filter=False,  # a loss that is not a number would be logged as 0
            remove_unused_columns=False,
            label_names=["labels"],
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=device.type == "cuda",
        )
    # Several GPUs in one process would mean DataParallel, and another batch size.
    made._n_gpu = min(made.n_gpu, 1)
    return made


class FinetuneTrainer(Trainer):
    """Trainer over an `EncoderWithHead`."""

    model: EncoderWithHead
    optimizer: torch.optim.Optimizer | None  # set by `create_optimizer`

    def __init__(
        self, recipe: Recipe, model: EncoderWithHead, order: EpochOrder,
        on_epoch: Callable[[Mapping[str, float]], None] = lambda _: None, **given: Any,
    ) -> None:  # fmt: skip
        """`on_epoch` gets what was logged of an epoch once its checkpoint is written; `given` are Trainer's arguments.

        Raises `DeviceError` where accelerate took another precision.
        """
        self.recipe, self.order = recipe, order
        with _mixed_precision(recipe.precision):
            super().__init__(model=model, **given)
        if (mixed := str(self.accelerator.mixed_precision)) != _MIXED[recipe.precision]:
            raise DeviceError(f"precision: expected {_MIXED[recipe.precision]}, found accelerate set to {mixed}")
        self.remove_callback(PrinterCallback)
        self.add_callback(_Epochs(on_epoch))
        if recipe.encoder.patience is not None:
            self.add_callback(EarlyStoppingCallback(recipe.encoder.patience))

    def _get_train_sampler(self, *_: Any) -> EpochOrder:
        return self.order

    def create_optimizer(self, model: EncoderWithHead | None = None) -> torch.optim.Optimizer:
        """AdamW with a rate for every layer."""
        if self.optimizer is None:
            groups = rate_groups(self.model if model is None else model, self.recipe.config, self.recipe.encoder)
            self.optimizer = torch.optim.AdamW(groups, eps=self.recipe.encoder.adam_epsilon)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear decay to zero after a linear rise."""
        self.args.warmup_steps = round(self.recipe.encoder.warmup * num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer writes a checkpoint file by file, in place: a marker with every file's hash says that it is whole."""
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            _mark(folder, self.recipe.id)


class _Epochs(TrainerCallback):
    """Tells of every epoch that is over and saved, and ends training at the first whose loss is not finite."""

    def __init__(self, on_epoch: Callable[[Mapping[str, float]], None]) -> None:
        self._on_epoch = on_epoch

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._on_epoch({name: value for entry in state.log_history[-2:] for name, value in entry.items()})

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:  # noqa: ARG002
        if logs and not np.isfinite(logs.get("loss", 0.0)):
            control.should_training_stop = True


def rate_groups(model: EncoderWithHead, config: HeadConfig, encoder: EncoderTraining) -> list[dict[str, Any]]:
    """Parameter groups: the head at its own rate, the encoder's layers at rates that decay from the top.

    Biases and norms of the encoder are not decayed; the head's tensors all are, as in stage two.
    """
    layers = getattr(model.encoder.config, "num_hidden_layers", 0) or 0
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("head."):
            rate, decay = config.lr, config.weight_decay
        else:
            match = _LAYER.search(name)
            below_top = layers - 1 - int(match[1]) if match else layers if "embeddings" in name else 0
            rate = encoder.lr * encoder.layer_decay**below_top
            decay = config.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": those, "lr": rate, "weight_decay": decay} for (rate, decay), those in groups.items()]


def selection_score(metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]], main: str) -> Callable[[Any], dict]:
    """What Trainer calls after each epoch: the metrics of the selection rows, and the score that selects.

    Ties go to the lower loss; Trainer itself keeps the earlier epoch.
    """

    def compute(prediction: Any) -> dict[str, float]:
        values = metrics(prediction.predictions, prediction.label_ids)
        loss = prediction.losses.mean() if getattr(prediction, "losses", None) is not None else 0.0
        return values | {"score": values[main] - TIE * float(loss)}

    return compute


def _mark(folder: Path, run: str) -> None:
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
    work = folder / f".{MARKER}"
    with work.open("w", encoding="utf-8") as file:
        json.dump({"run": run, "files": files}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(work, folder / MARKER)


def resume_point(folder: Path, run: str) -> str | None:
    """The newest whole checkpoint of a run in its folder, `None` without one; checkpoints that are not whole go.

    Optimiser states are pickles: raises `ResultsError` for a folder that another user owns or that holds another run.
    """
    if not folder.is_dir():
        return None
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ResultsError(f"{folder}: expected a folder of your own to resume from, found another's; remove it")
    whole = []
    for path in folder.glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if step.isdecimal() and _whole(path, run):
            whole.append((int(step), path))
        else:
            shutil.rmtree(path, ignore_errors=True)  # another process of the run may be removing it too
    return str(max(whole)[1]) if whole else None


def _whole(folder: Path, run: str) -> bool:
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sound = all(hash_file(folder / name) == digest for name, digest in marker["files"].items())
    except (OSError, ValueError, KeyError):
        return False
    if marker["run"] != run:
        raise ResultsError(f"{folder}: expected a checkpoint of run {run}, found one of {marker['run']}; remove it")
    return sound


@contextlib.contextmanager
def _mixed_precision(precision: str) -> Iterator[None]:
    """accelerate's own default configuration could switch mixed precision on unseen."""
    before = os.environ.get("ACCELERATE_MIXED_PRECISION")
    os.environ["ACCELERATE_MIXED_PRECISION"] = _MIXED[precision]
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
        else:
            os.environ["ACCELERATE_MIXED_PRECISION"] = before
