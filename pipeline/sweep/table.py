"""Heads summed up: one line for each task and kind of head, over its seeds, beside the baselines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from pipeline.metrics import metric_value
from pipeline.sweep.results import Results

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Line", "describe", "render", "summarise"]


@dataclass(frozen=True)
class Line:
    """One kind of head on one split: everything equal but the seed.

    `mean` and `std` are of the task's main metric over `n` seeds (`std` is 0 for one); `majority` is what always
    guessing the training split's largest class scores; `variant` names options that tell it from its like.
    """

    task: str
    source: str
    encoder: str
    features: str
    protocol: str
    split: str
    head: str
    variant: str
    metric: str
    n: int
    mean: float | None
    std: float | None
    majority: float | None
    parameters: int
    flops: int
    fit_seconds: float
    diverged: int


def _variants(groups: Mapping[tuple[str, ...], Sequence[dict[str, Any]]]) -> dict[tuple[str, ...], str]:
    """For every group, the options in which it differs from others of its head on its task."""
    seen: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for key, heads in groups.items():
        for name, value in heads[0]["config"].items():
            seen.setdefault(key[:-1], {}).setdefault(name, set()).add(json.dumps(value))
    return {
        key: " ".join(
            f"{name}={value}"
            for name, value in heads[0]["config"].items()
            if name != "seed" and len(seen[key[:-1]][name]) > 1
        )
        for key, heads in groups.items()
    }


def summarise(results: Results, where: Mapping[str, Any] | None = None) -> list[Line]:
    """Lines for the heads that `where` (columns of `heads`) admits, best first within each task and split."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for head in results.heads(where):
        shape = {name: value for name, value in head["config"].items() if name != "seed"}
        columns = ("task", "source", "fingerprint", "encoder", "features", "protocol", "head")
        groups.setdefault((*(head[name] for name in columns), json.dumps(shape)), []).append(head)
    variants, baselines = _variants(groups), results.baselines()
    lines = []
    for key, heads in groups.items():
        first = heads[0]
        trained = [head for head in heads if head["status"] == "trained"]
        for split in sorted({split for head in trained for split in head["metrics"]}) or [""]:
            scores = [metric_value(head["metrics"][split], first["main_metric"]) for head in trained]
            base = baselines.get((first["fingerprint"], split), {})
            names = first["main_metric"].split("_") if first["main_metric"] == "pearson_spearmanr" else []
            majority = None if names else base.get(first["main_metric"])
            lines.append(
                Line(
                    *(first[name] for name in ("task", "source", "encoder", "features", "protocol")),
                    split, first["head"], variants[key], first["main_metric"], len(trained),
                    fmean(scores) if scores else None,
                    (stdev(scores) if len(scores) > 1 else 0.0) if scores else None,
                    majority, first["parameters"], first["flops"], fmean(head["fit_seconds"] for head in heads),
                    len(heads) - len(trained),
                )
            )  # fmt: skip
    order = ("task", "source", "encoder", "features", "protocol", "split")
    return sorted(lines, key=lambda line: (*(getattr(line, name) for name in order), -(line.mean or -1.0)))


def render(lines: Sequence[Line], title: str = "") -> "Table":
    """The lines as a table for a terminal; columns that say the same on every line are left out."""
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    context = [
        name
        for name in ("source", "encoder", "features", "protocol", "split", "variant")
        if len({getattr(line, name) for line in lines}) > 1 or (name == "protocol" and lines[0].protocol == "published")
    ]
    table.add_column("task")
    table.add_column("head", no_wrap=True)
    for name in context:
        table.add_column(name)
    table.add_column("metric", overflow="fold")
    for name in ("mean ± std", "n", "majority", "- linear", "parameters", "fit s"):
        table.add_column(name, justify="right", no_wrap=True)
    linear = {_place(line): line.mean for line in lines if line.head == "linear" and line.mean is not None}
    previous = None
    for line in lines:
        if previous is not None and previous != _place(line):
            table.add_section()
        previous = _place(line)
        gain = line.mean - linear[previous] if line.mean is not None and previous in linear else None
        table.add_row(
            line.task,
            line.head,
            *(
                "published (optimistic)" if value == "published" else value
                for value in (getattr(line, c) for c in context)
            ),
            line.metric,
            "all diverged" if line.mean is None else f"{line.mean:.4f} ± {line.std:.4f}",
            f"{line.n}" + (f" (+{line.diverged} diverged)" if line.diverged else ""),
            "-" if line.majority is None else f"{line.majority:.4f}",
            "-" if gain is None or line.head == "linear" else f"{gain:+.4f}",
            f"{line.parameters:,}",
            f"{line.fit_seconds:.2f}",
        )
    return table


def _place(line: Line) -> tuple[Any, ...]:
    fields = asdict(line)
    return tuple(fields[name] for name in ("task", "source", "encoder", "features", "protocol", "split"))


def describe(head: Mapping[str, Any]) -> str:
    """One head in a few lines: what it is, its metrics, its cost."""
    if head["status"] == "diverged":
        scores = f"diverged at step {head['diverged_at']}"
    else:
        places = {"selection": head["selection"]} | head["metrics"]
        scores = "\n".join(
            f"  {place}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items())
            for place, found in places.items()
        )
    state = "trained" if head["trained"] else "stored already"
    return (
        f"{head['head']} on {head['task']} ({head['encoder']}), seed {head['seed']}: {head['id']}, {state}\n{scores}\n"
        f"  epoch {head['epoch']}, {head['parameters']:,} parameters, {head['flops']:,} FLOPs a row, "
        f"{head['fit_seconds']:.2f} s"
    )
