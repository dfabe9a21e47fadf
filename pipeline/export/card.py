"""A model card: what a head is, how good, how sure that is, how it was made, how it is used, and where it ends."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.metrics import metric_value
from pipeline.models.saved import SavedHead
from pipeline.sweep.results import Results
from pipeline.text import json_text

__all__ = ["card"]

_RESAMPLES = 1000

_USE = {
    "torch": (
        "`head.py` needs PyTorch alone; the weights lie beside it in `head.safetensors`, nothing is pickled.\n\n"
        "```python\nfrom head import LABELS, load\n\nhead = load()\n"
        "logits = head(features)  # float32 [rows, {inputs}] to [rows, {outputs}]\n```"
    ),
    "safetensors": (
        "`model.safetensors` holds the weights{package}.\n\n"
        "```python\nfrom safetensors.torch import load_file\n\nmodel.load_state_dict(load_file(\"model.safetensors\"))"
        "\n```\n\n{scaling}`python fit_heads.py load FOLDER` makes it a head of kanglue again."
    ),
    "onnx": (
        "```python\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession(\"head.onnx\")\n"
        "(logits,) = session.run(None, {{\"features\": features}})  # float32 [rows, {inputs}] to [rows, {outputs}]\n"
        "```\n\nThe number of rows is free."
    ),
}  # fmt: skip


def card(head: SavedHead, form: str, *, package: str | None, results: Path) -> str:
    """The card's Markdown. Metrics come from the results database; without one it says so."""
    about, config = head.provenance, head.config
    task, outputs = about["task"], head.network.outputs
    kind = "regression" if head.labels is None else "classification"
    stored = _stored(head, results)
    predicts = "a value" if head.labels is None else " or ".join((", ".join(head.labels[:-1]), head.labels[-1]))
    pool = f" ({config.token_pool} of a row's tokens)" if config.token_pool else ""
    parts = [
        f"---\ntags: [kanglue, text-{kind}, {config.head}]\nlibrary_name: pytorch\n---",
        f"# {config.head} head for {task} on {about['encoder']}",
        f"From the feature `{config.features}`{pool} of the frozen encoder `{about['encoder']}` ({head.network.inputs} "
        f"numbers a row) it predicts {predicts}. Head `{head.id}`, "
        f"{head.parameters:,} parameters, made with kanglue.",
        "## Metrics",
        _metrics(head, stored, results),
        "## How it was trained",
        _training(head, stored),
        "## How to use it",
        _USE[form].format(
            inputs=head.network.inputs,
            outputs=outputs,
            package=f" under the names and in the shapes of {package}" if package else ", named as in `--format torch`",
            scaling=_scaling_words(head, package),
        ),
        _features(head),
        "## Limits",
        _limits(head, stored),
    ]
    return "\n\n".join(parts) + "\n"


def _stored(head: SavedHead, results: Path) -> Mapping[str, Any] | None:
    """The head's document in the results database, if it is in one."""
    if not results.is_file():
        return None
    with Results(results) as store:
        found = store.heads({"id": head.id})
    return found[0] if found else None


def _metrics(head: SavedHead, stored: Mapping[str, Any] | None, results: Path) -> str:
    if stored is None or not stored["metrics"]:
        return "None are recorded: this head is not in a results database."
    lines = ["| rows | metric | value | 95% interval |", "|---|---|---|---|"]
    known = False
    with Results(results) as store:
        for split, metrics in stored["metrics"].items():
            labels, outputs = store.labels(stored["fingerprint"], split), store.outputs(head.id, split)
            known |= labels is not None
            for name, value in metrics.items():
                interval = "-" if labels is None else _interval(head, name, outputs, labels)
                lines.append(f"| {split} ({len(outputs):,}) | {name} | {value:.4f} | {interval} |")
        lines += [f"| selection | {name} | {value:.4f} | - |" for name, value in stored["selection"].items()]
        rows = f"Intervals are over rows: percentiles of {_RESAMPLES:,} bootstrap resamples of the split. " * known
        return "\n".join(lines) + f"\n\n{rows}{_over_seeds(store, stored)}"


def _interval(head: SavedHead, metric: str, outputs: np.ndarray, labels: np.ndarray) -> str:
    from scipy.stats import bootstrap

    def score(rows: np.ndarray) -> float:
        return head.metrics(outputs[rows], labels[rows])[metric]

    found = bootstrap(
        (np.arange(len(labels)),), score, vectorized=False, n_resamples=_RESAMPLES, method="percentile", rng=0
    ).confidence_interval  # fmt: skip
    return f"{found.low:.4f} to {found.high:.4f}"


def _over_seeds(store: Results, stored: Mapping[str, Any]) -> str:
    """Mean and Student's t interval of the main metric over the replicates of this head."""
    same = {name: value for name, value in stored["config"].items() if name != "seed"}
    where = {name: stored[name] for name in ("fingerprint", "head", "features", "protocol")}
    family = [
        one for one in store.heads(where)
        if one["metrics"] and {name: value for name, value in one["config"].items() if name != "seed"} == same
    ]  # fmt: skip
    if len(family) < 2:
        return "It is the only replicate (seed) of its configuration: how much seeds differ is not known."
    from scipy.stats import t

    said = []
    for split in stored["metrics"]:
        values = np.array([metric_value(one["metrics"][split], stored["main_metric"]) for one in family])
        half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
        said.append(f"{values.mean():.4f} ± {half:.4f} on {split}")
    return (
        f"Over the {len(family)} replicates (seeds) of this configuration {stored['main_metric']} is "
        f"{', '.join(said)} (mean, 95% interval by Student's t)."
    )


def _training(head: SavedHead, stored: Mapping[str, Any] | None) -> str:
    config = head.config.to_json()
    if "loaded_from" in head.provenance:
        return f"Elsewhere: its weights were loaded from `{head.provenance['loaded_from']}`."
    chosen = (
        "the validation split itself, so that its metrics there are optimistic"
        if head.config.protocol == "published"
        else "a stratified tenth of the training rows that was held out"
    )
    lines = [
        f"On the frozen features of `{head.provenance['source']}`, cross-entropy"
        if head.labels is not None
        else f"On the frozen features of `{head.provenance['source']}`, squared error of standardised targets",
        f"with AdamW and linear decay; the epoch was chosen on {chosen}.",
    ]
    if stored is not None:
        lines.append(
            f"Epoch {stored['epoch']} of {config['epochs']} was chosen; {stored['train_rows']:,} labelled rows; "
            f"{stored['fit_seconds']:.2f} s on {stored.get('device', 'this machine')}."
        )
    return " ".join(lines) + f"\n\n```json\n{json_text(config, indent=2)}\n```"


def _scaling_words(head: SavedHead, package: str | None) -> str:
    if not package or head.config.scale == "none":
        return ""
    last = ", then `tanh`" if head.config.scale == "tanh" else ""
    return (
        "The package's network does not scale its input: give it `(features - shift) * factor`"
        f"{last}, with both vectors from `scaling.safetensors`.\n\n"
    )


def _features(head: SavedHead) -> str:
    about = head.provenance
    layers = "the last layer" if about["layers"] is None else f"the mean of layers {about['layers']}"
    lines = [
        f"Features must come from the same encoder: weights `{about['encoder_sha256'][:12]}`, tokenizer "
        f"`{about['tokenizer_sha256'][:12]}`, at most {about['max_length']} tokens, pairs {about['pairs']}, {layers}, "
        f"{about['precision']}."
    ]
    if head.labels is None:
        mean, spread = head.target_scale
        lines.append(f"The output is in the task's units (training targets: mean {mean:.4g}, deviation {spread:.4g}).")
    else:
        lines.append(f"Outputs are logits in the order {', '.join(head.labels)}; softmax makes probabilities of them.")
    return " ".join(lines)


def _limits(head: SavedHead, stored: Mapping[str, Any] | None) -> str:
    lines = [
        f"- It knows the task {head.provenance['task']} and texts like those it was trained on; what it says of others "
        "is not measured.",
        "- Probabilities are not calibrated.",
        "- What the frozen encoder does not show, no head can see; its licence and biases carry over.",
    ]
    if stored is not None and stored["source"] == "sample":
        lines.insert(0, "- **Trained on the generated sample**: it shows the way, and its metrics say nothing of GLUE.")
    if head.config.protocol == "published":
        lines.append("- Metrics on the validation split are optimistic: it chose the epoch.")
    return "\n".join(lines)
