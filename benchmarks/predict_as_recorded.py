"""Does `fit_heads.py predict` give every row of a dev split the label that the head's evaluation recorded?

    python benchmarks/predict_as_recorded.py --data FOLDER --cache cache mrpc rte mrpc.siamese

Trains two families on each cache, streams the task's dev rows through the real command as JSON lines, and compares its
labels with the outputs in the results database, row by row.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import pipeline
from pipeline.sources import open_source
from pipeline.sweep.results import Results

ROOT = Path(__file__).parents[1]


def compare(task, family, arguments, folder):
    """Rows, rows with another label, and the largest difference between probabilities."""
    database = folder / "results.sqlite"
    head = pipeline.fit(task, head=family, encoder=arguments.encoder, cache=arguments.cache, results=database)
    rows = list(open_source(task.split(".")[0], arguments.data).rows("validation"))
    lines = "".join(json.dumps({"text": row.text, "text_pair": row.text_pair}) + "\n" for row in rows)
    command = [sys.executable, str(ROOT / "fit_heads.py"), "predict", head.id, "--jsonl", "--results", str(database)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    with Results(database) as store:
        logits = store.outputs(head.id, "validation").astype(np.float64)
    labels = pipeline.load_head(head.id, results=database).labels
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    chances = np.array([list(one["probabilities"].values()) for one in found])
    other = sum(one["label"] != labels[best] for one, best in zip(found, logits.argmax(1), strict=True))
    return len(rows), other, np.abs(chances - expected).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", help="names of caches, such as mrpc or mrpc.siamese")
    parser.add_argument("--data", required=True, help="folder in GLUE's layout")
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--encoder", default="minilm")
    arguments = parser.parse_args()
    print("| task | head | dev rows | other labels | largest difference of a probability |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for task in arguments.tasks:
            for family in ("effi_kan", "fast_kan"):
                rows, other, most = compare(task, family, arguments, Path(folder))
                print(f"| {task} | {family} | {rows} | {other} | {most:.1e} |", flush=True)


if __name__ == "__main__":
    main()
