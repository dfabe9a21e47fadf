"""Stage one's vectors beside float32 transformers on the dev splits of GLUE tasks, and linear heads on either.

    PYTHONPATH=. python benchmarks/fidelity.py GLUE_FOLDER [--encoder minilm] [--device auto] [--heads DIR]

For every path and precision of the device: the largest absolute difference and the least cosine of `pooled`, `cls` and
`mean` to what the transformers model gives in float32 on the same device (rows sorted by length, 32 a batch, padded to
the longest, pooled in float64). With `--heads` the train and dev splits are embedded into DIR in each way, ten linear
heads a task are trained on each, and their validation scores printed.
"""

import argparse
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import pipeline
from pipeline.device import resolve_device
from pipeline.encode.blocks import default_batch_tokens, encode_block
from pipeline.encode.encoders import Encoder, resolve
from pipeline.encode.load import Loaded, load, load_model
from pipeline.encode.tokens import Tokens
from pipeline.sources import open_source
from pipeline.sweep.results import Results
from pipeline.tasks import TASKS

NAMES = ("cola", "mrpc", "rte", "sst2")
FEATURES = ("pooled", "cls", "mean")


def reference(model: torch.nn.Module, tokens: Tokens, device: torch.device, types: bool) -> dict[str, np.ndarray]:
    """What plain transformers gives in float32: `pooled`, `cls`, `mean`, [n, D] each."""
    order = np.argsort(-tokens.lengths, kind="stable")
    found: dict[str, list[np.ndarray]] = {name: [] for name in FEATURES}
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            part = tokens.take(order[start : start + 32])
            mask = torch.arange(int(part.lengths.max())) < torch.from_numpy(part.lengths)[:, None]
            ids, kinds = torch.zeros(mask.shape, dtype=torch.long), torch.zeros(mask.shape, dtype=torch.long)
            ids[mask], kinds[mask] = torch.from_numpy(part.ids).long(), torch.from_numpy(part.types).long()
            given = {"input_ids": ids, "attention_mask": mask.long()} | ({"token_type_ids": kinds} if types else {})
            output = model(**{name: value.to(device) for name, value in given.items()})
            last, real = output.last_hidden_state.double().cpu(), mask[:, :, None].double()
            found["cls"].append(last[:, 0].float().numpy())
            found["mean"].append(((last * real).sum(1) / real.sum(1)).float().numpy())
            if getattr(output, "pooler_output", None) is not None:
                found["pooled"].append(output.pooler_output.cpu().numpy())
    back = np.argsort(order)
    return {name: np.concatenate(parts)[back] for name, parts in found.items() if parts}


def compare(loaded: Loaded, tokens: Tokens, expected: dict[str, np.ndarray]) -> str:
    """Largest absolute difference and least cosine of each feature, as cells of a table."""
    budget = default_batch_tokens(loaded.device, loaded.width)
    found = encode_block(
        loaded, tokens, tuple(expected), default_feature="mean", reduce_size=8, batch_tokens=budget
    )  # fmt: skip
    cells = []
    for name, wanted in expected.items():
        one, other = found[name].astype(np.float64), wanted.astype(np.float64)
        cosine = (one * other).sum(1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))
        cells.append(f"{np.abs(one - other).max():.1e} / {max(0.0, 1 - cosine.min()):.1e}")
    return " | ".join(cells)


def ways(device: torch.device) -> list[tuple[str, bool]]:
    """(precision, whether the padded path is forced), float32 first."""
    precisions = ("float32", "float16", "bfloat16") if device.type == "cuda" else ("float32",)
    return [(precision, padded) for precision in precisions for padded in (False, True)]


def heads(encoder: str, data: str, device: torch.device, folder: Path) -> None:
    """Train ten linear heads a task on what each way gives."""
    print("\n| task | precision | path | validation scores, mean ± sd of ten seeds | seconds to embed |")
    print("|---|---|---|---:|---:|")
    scores: dict[tuple[str, str], dict[int, float]] = {}
    for precision, padded in ways(device)[:3]:
        way = f"{precision}-{'padded' if padded else 'packed'}"
        cache, began = folder / way, time.perf_counter()
        # Neither the checkpoint nor the model of transformers is then of a shape for the unpadded path.
        forced = mock.patch.dict("pipeline.encode.shapes.SHAPES", clear=True) if padded else mock.MagicMock()
        with forced:
            pipeline.embed(
                NAMES, encoder=encoder, data=data, split=("train", "validation"), store="mean", cache=cache,
                device=str(device), precision=precision,
            )  # fmt: skip
        seconds, results = time.perf_counter() - began, folder / f"{way}.sqlite"
        done = pipeline.sweep(
            task=NAMES, head="linear", encoder=resolve(encoder).name, features="mean", seeds="0:10", cache=cache,
            results=results,
        )  # fmt: skip
        with Results(results) as store:
            found = store.heads({"id": done.ids})
        for name in NAMES:
            metric = TASKS[name].main_metric
            scores[name, way] = {h["seed"]: h["metrics"]["validation"][metric] for h in found if h["task"] == name}
            values = list(scores[name, way].values())
            print(
                f"| {name} | {precision} | {'padded' if padded else 'packed'} | "
                f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f} | {seconds:.0f} |"
            )
    first, *others = dict.fromkeys(way for _, way in scores)
    for way in others:
        for name in NAMES:
            one, other = scores[name, first], scores[name, way]
            largest = max(abs(one[seed] - other[seed]) for seed in one)
            print(f"{name}: {way} against {first}: largest difference of one seed's head {largest:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--heads", type=Path)
    chosen = parser.parse_args()
    device, encoder = resolve_device(chosen.device), resolve(chosen.encoder)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    model = load_model(encoder).to(device)
    print(f"{encoder.name} on {kind}; {versions}. Largest absolute difference / 1 - least cosine:\n")
    tokens = {name: dev_tokens(encoder, chosen.data, name) for name in NAMES}
    loaded = {way: load(encoder, encoder.max_length, device, way[0], None, padded=way[1]) for way in ways(device)}
    types = next(iter(loaded.values())).tokeniser.types
    expected = {name: reference(model, one, device, types) for name, one in tokens.items()}
    print(f"| task | rows | precision | path | {' | '.join(expected[NAMES[0]])} |\n|---|---:|---|---|---:|---:|---:|")
    for (precision, _), one in loaded.items():
        path = type(one.forward).__name__
        for name in NAMES:
            cells = compare(one, tokens[name], expected[name])
            print(f"| {name} | {len(tokens[name].lengths)} | {precision} | {path} | {cells} |", flush=True)
    if chosen.heads:
        heads(chosen.encoder, chosen.data, device, chosen.heads)


def dev_tokens(encoder: Encoder, data: str, task: str) -> Tokens:
    """The tokens of a task's dev split."""
    from pipeline.encode.tokens import load_tokeniser

    tokeniser = load_tokeniser(encoder.folder, encoder.name, encoder.max_length)
    return tokeniser(list(open_source(task, data).rows("validation")))


if __name__ == "__main__":
    main()
