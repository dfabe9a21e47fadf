"""How fast encoding is, against what people use, all measured in turn in one run."""

import itertools
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from pipeline.device import resolve_device
from pipeline.encode.blocks import default_batch_tokens, encode_block
from pipeline.encode.encoders import Encoder, resolve
from pipeline.encode.load import DTYPES, Loaded, load, load_model
from pipeline.encode.tables import table
from pipeline.encode.tokens import Tokens
from pipeline.progress import bar, say
from pipeline.sources import Row, open_source
from pipeline.versions import version

__all__ = ["bench"]

#: What is stored by default but for `last_hidden`, which the others do not give either.
FEATURES = ("cls", "mean", "reduced")


@dataclass(frozen=True)
class Size:
    """How much is measured: rows for all ways but the published one, rows for that, side of the product, rounds.

    Before every way the product is taken `products` times. After the second round another one begins only if it will
    end within `seconds` of the start, loading included.
    """

    rows: int
    published_rows: int
    side: int
    rounds: int
    seconds: float
    products: int = 6


SIZES = {
    ("cpu", True): Size(128, 8, 2048, 6, 36.0, products=2),
    ("cpu", False): Size(512, 16, 2048, 5, 600.0, products=2),
    ("cuda", True): Size(8192, 64, 8192, 3, 600.0),
    ("cuda", False): Size(32768, 256, 8192, 5, 600.0),
}


def bench(
    *,
    encoder: str = "minilm",
    task: str = "mrpc",
    data: str = "sample",
    device: str = "auto",
    precision: str = "auto",
    batch_tokens: int | None = None,
    quick: bool = False,
) -> dict[str, Any]:
    """Measure and compare; the document of `embed.py bench`.

    Every way encodes the same rows of the task's train split, taken in turn for some rounds; a speedup is the median of
    the rounds' own, so that a disturbance which lasts meets both. `speedup_vs_padded` (transformers, rows sorted by
    length, 32 a batch, padded to the longest, same precision) and `speedup_vs_published` (4 a batch, padded to 512 or
    to the encoder's limit, float32) compare the forward alone, from token ids to vectors;
    `speedup_vs_sentence_transformers` compares `encode` from texts to vectors, `None` where that package or a folder
    that it reads is not there. `tokens_per_second` is from texts to vectors; `share_of_matmul_peak` is the forward's
    operations on real tokens against a square product of the same precision, the best round of either.
    """
    began, on = time.perf_counter(), resolve_device(device)
    precision = precision if precision != "auto" else ("float16" if on.type == "cuda" else "float32")
    found, size = resolve(encoder), SIZES[on.type, quick]
    say(f"measuring {found.name} on {on} in {precision}: {size.rows} rows of {task} ({data})")
    source = open_source(task, data)
    rows = list(itertools.islice(itertools.cycle(itertools.islice(source.rows("train"), size.rows)), size.rows))
    loaded = load(found, found.max_length, on, precision, None)
    tokens = loaded.tokeniser(rows)
    budget = batch_tokens or default_batch_tokens(on, loaded.width)
    ways = _ways(found, loaded, rows, tokens, budget, size, precision)
    product = _product(on, precision, size.side)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peak, best = 0.0, float("inf")
    with bar("measuring", size.rounds * len(ways), "runs") as progress:
        for name, way in ways.items():
            # A short way is warmed up by running it, a long one has nothing left to warm; texts go the forward's way.
            if name not in ("published", "texts"):
                way()
        before = now = time.perf_counter()
        for number in range(size.rounds):
            before, now = now, time.perf_counter()
            if number >= 2 and now + (now - before) - began > size.seconds:
                break
            for name, way in ways.items():
                peak = max(peak, _peak(product, size, on))
                seconds[name].append(_timed(way, on))
                progress.advance(1)
            # The product has many chances to meet no disturbance: the forward gets another one.
            best = min(best, *seconds["forward"], _timed(ways["forward"], on))
    return _document(found, loaded, tokens, seconds, best, peak, size, budget, precision)


def _document(
    encoder: Encoder, loaded: Loaded, tokens: Tokens, seconds: dict[str, list[float]], best: float, peak: float,
    size: Size, budget: int, precision: str,
) -> dict[str, Any]:  # fmt: skip
    median = {name: statistics.median(times) for name, times in seconds.items()}
    rows, operations = size.rows, _operations(encoder, tokens.lengths)
    theirs = "sentence_transformers" in seconds

    def against(way: str, ours: str) -> float:
        return statistics.median(one / other for one, other in zip(seconds[way], seconds[ours], strict=True))

    return {
        "encoder": encoder.name,
        "device": torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "path": loaded.forward.path,
        "batch_tokens": budget,
        "rows": rows,
        "tokens": len(tokens.ids),
        "rows_per_second": rows / median["texts"],
        "tokens_per_second": len(tokens.ids) / median["texts"],
        "share_of_matmul_peak": operations / best / peak if operations else None,
        "matmul_peak_tflops": peak / 1e12,
        "speedup_vs_padded": against("padded", "forward"),
        "speedup_vs_published": against("published", "forward") * rows / size.published_rows,
        "speedup_vs_sentence_transformers": against("sentence_transformers", "texts") if theirs else None,
        "seconds": {name: [round(value, 4) for value in times] for name, times in seconds.items()},
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")}
        | ({"sentence-transformers": version("sentence-transformers")} if theirs else {}),
    }


def _ways(
    encoder: Encoder, loaded: Loaded, rows: Sequence[Row], tokens: Tokens, budget: int, size: Size, precision: str
) -> dict[str, Callable[[], Any]]:
    """The ways to encode, by name, each a call without arguments."""

    def ours(given: Tokens) -> Any:
        return encode_block(loaded, given, FEATURES, default_feature="mean", reduce_size=8, batch_tokens=budget)

    plain = load_model(encoder).to(loaded.device, DTYPES[precision])
    ways: dict[str, Callable[[], Any]] = {
        "forward": lambda: ours(tokens),
        "texts": lambda: ours(loaded.tokeniser(rows)),
        "padded": lambda: _padded(plain, loaded, tokens, np.argsort(-tokens.lengths), 32, None),
    }
    exact = plain if precision == "float32" else load_model(encoder).to(loaded.device)
    few = np.arange(size.published_rows)
    ways["published"] = lambda: _padded(exact, loaded, tokens, few, 4, min(512, encoder.max_length))
    if (encoder.folder / "modules.json").is_file() and find_spec("sentence_transformers"):
        ways["sentence_transformers"] = _sentence_transformers(encoder, loaded, rows, precision)
    return ways


def _padded(model: Any, loaded: Loaded, tokens: Tokens, order: np.ndarray, size: int, length: int | None) -> list[Any]:
    """Plain transformers on padded batches: mean, first token and pooler of each row, on the CPU."""
    takes_types = loaded.tokeniser.types
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    out = []
    with torch.inference_mode():
        for start in range(0, len(order), size):
            part = tokens.take(order[start : start + size])
            mask = torch.arange(length or int(part.lengths.max())) < torch.from_numpy(part.lengths)[:, None]
            ids, types = torch.zeros(mask.shape, dtype=torch.long), torch.zeros(mask.shape, dtype=torch.long)
            ids[mask], types[mask] = torch.from_numpy(part.ids).long(), torch.from_numpy(part.types).long()
            inputs = {"input_ids": ids, "attention_mask": mask.long()} | (
                {"token_type_ids": types} if takes_types else {}
            )
            output = model(**{name: value.to(loaded.device) for name, value in inputs.items()})
            last, weights = output.last_hidden_state, mask.to(loaded.device)[:, :, None]
            mean = (last * weights).sum(1, dtype=torch.float32) / weights.sum(1)
            out.append((mean.cpu(), last[:, 0].float().cpu()))
    return out


def _sentence_transformers(encoder: Encoder, loaded: Loaded, rows: Sequence[Row], precision: str) -> Callable[[], Any]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(encoder.folder), device=str(loaded.device), local_files_only=True)
    model.max_seq_length = encoder.max_length
    model.to(DTYPES[precision])
    texts = [row.text if row.text_pair is None else (row.text, row.text_pair) for row in rows]
    return lambda: model.encode(texts, show_progress_bar=False)


def _operations(encoder: Encoder, lengths: np.ndarray) -> float | None:
    """Multiplications and additions of the products in a BERT-shaped encoder's layers, on real tokens alone."""
    config, width = encoder.config, encoder.width
    inner = next((config[name] for name in ("intermediate_size", "hidden_dim") if config.get(name)), None)
    if not (inner and encoder.layers and width):
        return None
    tokens, squares = float(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum())
    return encoder.layers * (2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * squares * width)


def _product(device: torch.device, precision: str, side: int) -> Callable[[], Any]:
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _peak(product: Callable[[], Any], size: Size, device: torch.device) -> float:
    """Operations a second of a square product: the best of some, since a disturbance only ever slows it."""
    return 2 * size.side**3 / min(_timed(product, device) for _ in range(size.products))


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def bench_text(found: dict[str, Any]) -> str:
    """What was measured, a line for each figure; the seconds of every round stand in the document alone."""
    rows = [
        (name, f"{value:,.{2 if value < 1000 else 0}f}" if isinstance(value, float) else value)
        for name, value in found.items()
        if name not in ("seconds", "versions")
    ]
    versions = " ".join(f"{name} {value}" for name, value in found["versions"].items())
    return table(("what", "found"), [*rows, ("versions", versions)], left=2)
