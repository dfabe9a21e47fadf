"""Fine-tuning's speed and memory beside a plain loop in the published style, in one run.

    python benchmarks/finetune.py --cache DIR --encoder E [--task mrpc] [--steps 60]
        [--shape bert-base|own] [--device cuda]

Encoder and head train on the texts of a cache. The plain loop is what the published experiments ran: batch 4, every row
padded to 512 tokens, float32, torch.optim.AdamW. `--shape bert-base` gives the encoder bert-base's shape with random
weights, which decides the speed; `own` keeps its weights. Examples a second exclude the first quarter of the steps.
"""

import argparse
import importlib.metadata
import json
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, BertConfig, BertModel

from pipeline.encode.encoders import resolve
from pipeline.finetune.data import Collator, TokenRows
from pipeline.finetune.model import EncoderWithHead, Head
from pipeline.finetune.run import rows_of
from pipeline.finetune.train import tokenise
from pipeline.fit.data import fit_scaling
from pipeline.heads.families import build_network
from pipeline.heads.initialization import start
from pipeline.heads.resolve import resolve as resolve_head
from pipeline.models.caches import find_cache


def module(encoder, head: str, shape: str, vocabulary: int) -> EncoderWithHead:
    """Encoder and head on the CPU in float32."""
    if shape == "bert-base":
        inner = BertModel(BertConfig(vocab_size=max(vocabulary, 28_996)))
    else:
        inner = AutoModel.from_pretrained(encoder.folder, dtype=torch.float32)
    width = inner.config.hidden_size
    config = resolve_head(head, seed=0, features="mean", options={"scale": "none"})
    network = build_network(config, width, 2)
    scaling = fit_scaling("none", np.zeros((2, width), np.float32))
    return EncoderWithHead(inner, "mean", Head(network, start(config, network), scaling), 0.1)


def examples_per_second(
    model: EncoderWithHead, batches: list[dict[str, torch.Tensor]], device: torch.device, dtype: torch.dtype | None
) -> tuple[float, float]:
    """Rows a second of training on these minibatches, and the most memory it took, in GiB (0 on a CPU)."""
    model = model.to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=dtype is not None and device.type == "cuda")
    warm = len(batches) // 4
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begin, rows = 0.0, 0
    for number, batch in enumerate(batches):
        if number == warm:
            if device.type == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
        given = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = model(**given)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        rows += len(batch["labels"]) if number >= warm else 0
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return rows / seconds, memory


def trainer_rate(args: argparse.Namespace, encoder, tokens, tokeniser, labels) -> tuple[float, float]:
    """The same of the product's own path: transformers' Trainer as `fit_heads.py finetune` sets it up."""
    from tempfile import TemporaryDirectory

    from pipeline.finetune.data import EpochOrder
    from pipeline.finetune.options import HEAD_DEFAULTS, encoder_training
    from pipeline.finetune.training import FinetuneTrainer, Recipe, arguments
    from pipeline.fit.data import Replicate

    options = HEAD_DEFAULTS["clean"] | {"scale": "none", "epochs": 2}
    config = resolve_head(args.head, seed=0, features="mean", options=options)
    device = torch.device(args.device)
    recipe = Recipe("0" * 16, config, encoder_training("clean", {}), "bfloat16" if device.type == "cuda" else "float32")
    model = module(encoder, args.head, args.shape, tokeniser.vocabulary)
    rows = np.arange(min(len(labels), args.steps * config.batch_size))
    with TemporaryDirectory() as folder:
        given = arguments(recipe, Path(folder), device)
        given.save_strategy = given.eval_strategy = "no"
        given.load_best_model_at_end = False
        given.logging_strategy = "no"
        dataset = TokenRows(tokens, torch.from_numpy(labels))
        trainer = FinetuneTrainer(
            recipe, model, EpochOrder(Replicate(0, rows, None)), args=given, train_dataset=dataset,
            data_collator=Collator(0, "token_type_ids" in BertModel.forward.__code__.co_varnames),
        )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.train()  # compiles and fills caches
        begin = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - begin
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return 2 * len(rows) / seconds, memory


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--head", default="effi_kan")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--shape", choices=("bert-base", "own"), default="bert-base")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    encoder, ref = resolve(args.encoder), find_cache(args.cache, args.task, args.encoder)
    rows, labels = rows_of(ref)
    tokeniser, tokens = tokenise(encoder, {"train": rows["train"]}, ref.attributes["max_length"])
    targets = torch.from_numpy(labels["train"].astype(np.int64))
    order = np.random.default_rng(0).permutation(len(targets))
    items, device = TokenRows(tokens["train"], targets), torch.device(args.device)
    plain = Collator(0, True, 512)
    slow = [plain([items[int(at)] for at in rows]) for rows in np.split(order[: 4 * args.steps], args.steps)]
    make = lambda: module(encoder, args.head, args.shape, tokeniser.vocabulary)  # noqa: E731
    published, published_memory = examples_per_second(make(), slow, device, None)
    rate, memory = trainer_rate(args, encoder, tokens["train"], tokeniser, labels["train"].astype(np.int64))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(json.dumps({
        "hardware": name,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "accelerate")},
        "shape": args.shape, "head": args.head, "task": args.task,
        "examples_per_second": round(rate, 1), "memory_gib": round(memory, 2),
        "published_examples_per_second": round(published, 1), "published_memory_gib": round(published_memory, 2),
        "speedup": round(rate / published, 1),
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
