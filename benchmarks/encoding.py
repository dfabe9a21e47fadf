"""Stage one at the size of GLUE: a random encoder of bert-base's shape, texts with GLUE's lengths, `embed.py` timed.

    python benchmarks/encoding.py --work /tmp/encoding [--vocabulary vocab.txt] [--scale 1.0] [--rounds 2]

Builds both once in --work (a folder in GLUE's own layout, as many rows as the real tasks, words from the vocabulary),
runs `embed.py bench` on the MRPC of it, then `embed.py run` on all tasks, and prints what each took. The lengths:
CoLA, MRPC, RTE and SST-2 have the measured means under a BERT vocabulary, the other tasks what makes 49 million tokens.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

#: Task: mean tokens with special ones, spread of the logarithm, most tokens.
LENGTHS = {
    "cola": (11.3, 0.35, 47), "sst2": (13.6, 0.6, 66), "mrpc": (53.2, 0.25, 105), "stsb": (31, 0.45, 120),
    "qqp": (30.4, 0.4, 250), "mnli": (39.5, 0.5, 250), "qnli": (50, 0.45, 300), "rte": (68.2, 0.55, 289),
    "wnli": (37, 0.4, 108), "ax": (40, 0.5, 200),
}  # fmt: skip
PIECE = 50_000


def write_encoder(folder: Path, vocabulary: Path) -> None:
    """Random weights in bert-base's shape, with a BERT tokenizer over the vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = vocabulary.read_text(encoding="utf-8").split("\n")
    words = words[:-1] if not words[-1] else words
    ids = {word: number for number, word in enumerate(words)}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(words))).save_pretrained(folder)
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names,
    ).save_pretrained(folder)  # fmt: skip


def piece(task: str, split: str, seed: int, rows: int, words: list[str], columns: list[str] | None) -> str:
    """Lines of one split's file: whole words of the vocabulary, frequent ones more often."""
    from pipeline.tasks import TASKS

    known, rng = TASKS[task], np.random.default_rng([seed, rows, *split.encode(), *task.encode()])
    mean, spread, most = LENGTHS[task]
    special = 3 if known.pair else 2
    sizes = np.exp(rng.normal(np.log(mean - special) - spread**2 / 2, spread, rows)).round().astype(int)
    sizes = sizes.clip(2, most - special)
    ranks = (len(words) ** rng.random(sizes.sum()) - 1).astype(int)
    chosen, lines, at = [words[rank] for rank in ranks.tolist()], [], 0
    texts = [known.columns["text"], known.columns.get("text_pair")]
    label = "0" if known.labels is not None else "2.5"
    for size in sizes.tolist():
        cut = at + max(1, size // 2) if known.pair else at + size
        values = {texts[0]: " ".join(chosen[at:cut]), texts[1]: " ".join(chosen[cut : at + size])}
        lines.append("\t".join(values.get(name, label if name == known.columns["label"] else "x") for name in columns))
        at += size
    return "\n".join(lines) + "\n"


def write_glue(folder: Path, vocabulary: Path, scale: float) -> None:
    """All tasks in GLUE's own layout."""
    from pipeline.tasks import TASKS

    words = [word for word in vocabulary.read_text(encoding="utf-8").split("\n") if word.isascii() and word.isalpha()]
    words = sorted(words, key=len)
    with ProcessPoolExecutor() as pool:
        for name, task in TASKS.items():
            for split, file in task.files.items():
                path, rows = folder / file.paths[0], max(8, int(task.rows[split] * scale))
                columns = list(
                    file.columns or [task.columns[key] for key in ("text", "text_pair", "label") if key in task.columns]
                )
                sizes = [min(PIECE, rows - start) for start in range(0, rows, PIECE)]
                parts = [pool.submit(piece, name, split, n, size, words, columns) for n, size in enumerate(sizes)]
                path.parent.mkdir(parents=True, exist_ok=True)
                header = "" if file.columns else "\t".join(columns) + "\n"
                path.write_text(header + "".join(part.result() for part in parts), encoding="utf-8")


def run(name: str, arguments: list[str]) -> dict:
    """One command of `embed.py`, its document, and its wall time with the interpreter's start."""
    began = time.perf_counter()
    done = subprocess.Popen(
        [sys.executable, str(ROOT / "embed.py"), *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    for line in done.stderr:
        if "deviates" not in line:
            print(f"  {time.perf_counter() - began:6.2f} s  {line.rstrip()[:180]}", flush=True)
    output = done.stdout.read()
    print(f"{name}: {time.perf_counter() - began:.2f} s wall, exit {done.wait()}", flush=True)
    return json.loads(output) if output else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--skip-bench", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--store", default="pooled,cls,mean,reduced")
    chosen = parser.parse_args()
    if chosen.vocabulary is None:
        from pipeline.encode.encoders import ENCODERS

        chosen.vocabulary = ENCODERS["minilm"].find() / "vocab.txt"
    from pipeline.tasks import TASKS

    encoder, glue, cache = chosen.work / "bert-base-shape", chosen.work / "glue", chosen.work / "cache"
    began = time.perf_counter()
    if not encoder.is_dir():
        write_encoder(encoder, chosen.vocabulary)
    if not glue.is_dir():
        write_glue(glue, chosen.vocabulary, chosen.scale)
    print(f"encoder and texts made in {time.perf_counter() - began:.1f} s; {len(os.sched_getaffinity(0))} processors")
    if not chosen.skip_bench:
        quick = ["--quick"] if chosen.quick else []
        found = run("bench", ["bench", "--encoder", str(encoder), "--data", str(glue), *quick])
        print(json.dumps({key: value for key, value in found.items() if key != "seconds"}))
        print(json.dumps(found.get("seconds")))
    for _ in range(chosen.rounds):
        shutil.rmtree(cache, ignore_errors=True)
        found = run(
            "GLUE",
            [
                "run", *TASKS, "--encoder", str(encoder), "--data", str(glue), "--store", chosen.store,
                "--cache", str(cache),
            ],
        )  # fmt: skip
        print({key: value for key, value in found.items() if key not in ("details", "files")})
        for one in found.get("details", []):
            print(f"  {one['task']:5s} rows {one['rows']} tokens {one['tokens']} seconds {one['seconds']}")
        print(f"  {sum(path.stat().st_size for path in cache.rglob('*.h5')) / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
