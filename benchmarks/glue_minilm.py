"""The real result: four GLUE tasks, five families, ten seeds, beside the majority class and logistic regression.

    python benchmarks/glue_minilm.py GLUE_FOLDER

embeds CoLA, MRPC, RTE and SST-2 with `minilm` into cache/, sweeps into runs/glue_minilm/, and writes
benchmarks/glue_minilm.md. What is done already is not done again.
"""

import argparse
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.preprocessing import StandardScaler

import pipeline
from pipeline.metrics import metric_value
from pipeline.sweep.results import Results
from pipeline.tasks import TASKS

NAMES = ("cola", "mrpc", "rte", "sst2")
FAMILIES = ("linear", "mlp", "effi_kan", "fast_kan", "faster_kan")
SCORES = {"accuracy": accuracy_score, "f1": f1_score, "matthews_correlation": matthews_corrcoef}
PAGE = Path(__file__).with_suffix(".md")


def logistic_regression(task: str) -> float:
    """Validation score of scikit-learn's logistic regression on the same features, standardised the same way."""
    with pipeline.open_cache(f"cache/minilm/{task}.h5") as cache:
        train, validation = cache["train"], cache["validation"]
        scaler = StandardScaler().fit(train["mean"])
        model = LogisticRegression(max_iter=2000).fit(scaler.transform(train["mean"]), train["label"])
        guess = model.predict(scaler.transform(validation["mean"]))
        return float(SCORES[TASKS[task].main_metric](np.asarray(validation["label"]), guess))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="GLUE in its own TSV layout")
    folder = parser.parse_args().folder
    begin = time.perf_counter()
    embedded = pipeline.embed(list(NAMES), encoder="minilm", data=folder)
    embed_seconds = time.perf_counter() - begin
    results = Path("runs/glue_minilm/results.sqlite")
    swept = pipeline.sweep(task=list(NAMES), head=list(FAMILIES), encoder="minilm", seeds="0:10", results=results)
    with Results(results) as store:
        heads, baselines = store.heads({"id": swept.ids}), store.baselines()
    lines = [
        "# GLUE with minilm: five families, ten seeds",
        "",
        "Validation split, GLUE's metric for each task, mean and standard deviation over ten seeds; protocol `clean`",
        "(epoch chosen on a held-out tenth of the training rows), feature `mean`, all other options at their defaults.",
        "`majority` guesses the training split's largest class; `logistic regression` is scikit-learn's (C = 1) on the",
        "same standardised features.",
        "",
        "| task | metric | majority | logistic regression | " + " | ".join(FAMILIES) + " |",
        "|---|---|---|---|" + "---|" * len(FAMILIES),
    ]
    for task in NAMES:
        metric = TASKS[task].main_metric
        mine = [head for head in heads if head["task"] == task]
        majority = baselines[mine[0]["fingerprint"], "validation"][metric]
        cells = []
        for family in FAMILIES:
            scores = [metric_value(h["metrics"]["validation"], metric) for h in mine if h["head"] == family]
            cells.append(f"{fmean(scores):.4f} ± {stdev(scores):.4f}")
        row = (task, metric, f"{majority:.4f}", f"{logistic_regression(task):.4f}", *cells)
        lines.append("| " + " | ".join(row) + " |")
    sizes = ", ".join(
        f"`{family}` {next(h['parameters'] for h in heads if h['head'] == family):,}" for family in FAMILIES
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy", "scikit-learn"))
    fits = sum(head["fit_seconds"] for head in heads)
    lines += [
        "",
        f"Parameters: {sizes}. Training took {fits:.0f} s in all for {len(heads)} heads"
        + (
            f"; embedding {embedded.rows:,} rows ({embedded.tokens:,} tokens) {embed_seconds:.0f} s"
            * bool(embedded.rows)
        )
        + ".",
        "",
        f"Made by `python benchmarks/glue_minilm.py FOLDER` on {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, {versions}.",
    ]
    PAGE.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
