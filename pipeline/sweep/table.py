"""Heads summed up: one line for each task and kind of head, over its seeds, beside the baselines."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from pipeline.heads.match import COSTS
from pipeline.metrics import metric_value
from pipeline.models.document import why_diverged
from pipeline.sweep.costs import with_costs
from pipeline.sweep.results import SELECTION, Results

__all__ = ["PLACE", "Line", "describe", "flat", "summarise", "t_interval"]

#: What two lines must share to be compared: the same rows of the same features under the same protocol.
PLACE = ("task", "cache", "source", "fingerprint", "encoder", "features", "protocol", "split")


@dataclass(frozen=True)
class Line:
    """One kind of head on one split: everything equal but the seed.

    `mean`, `std` and the 95% interval `low` to `high` (Student's t) are of the task's main metric over the `n` trained
    heads; the last three are `None` for fewer than two. `selection` is the mean on the rows that chose the epoch,
    `majority` what always guessing the training split's largest class scores; `variant` names options that tell the
    line from its like, and `trials` counts such variants of its family there, epochs aside. `ids`, `seeds`, `scores`
    and `seconds` are those of the trained heads, in the same order.
    """

    task: str
    cache: str
    source: str
    fingerprint: str
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
    low: float | None
    high: float | None
    selection: float | None
    majority: float | None
    parameters: int
    flops: int
    training_flops: int | None
    fit_seconds: float
    inputs: int
    train_rows: int
    diverged: int
    trials: int
    class_names: tuple[str, ...] | None
    kanbefair: tuple[int | None, int | None] | None
    config: Mapping[str, Any]
    ids: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def place(self) -> tuple[str, ...]:
        """What it shares with the lines it may be compared with (see `PLACE`)."""
        return tuple(getattr(self, name) for name in PLACE)

    @property
    def optimistic(self) -> bool:
        """Whether the reported split itself chose the epoch."""
        return self.protocol == "published"


def t_interval(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """The 95% interval of a mean over replicates, from Student's t; nothing for fewer than two values."""
    if len(values) < 2:
        return None, None
    from scipy.special import stdtrit  # the quantile of scipy.stats.t, without that package's second of imports

    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def _variants(groups: Mapping[tuple[str, ...], Sequence[dict[str, Any]]]) -> dict[tuple[str, ...], str]:
    """For every group, the options in which it differs from others of its head on its task."""
    seen: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for key, heads in groups.items():
        for name, value in heads[0]["config"].items():
            seen.setdefault(key[:-1], {}).setdefault(name, set()).add(json.dumps(value))
    counts: dict[tuple[str, ...], int] = {}
    for key in groups:
        counts[key[:-1]] = counts.get(key[:-1], 0) + 1
    # An option that only some of the lines have tells them apart as well (it was added later, or is not its default).
    heard: dict[tuple[str, ...], dict[str, int]] = {}
    for key, heads in groups.items():
        for name in heads[0]["config"]:
            heard.setdefault(key[:-1], {}).setdefault(name, 0)
            heard[key[:-1]][name] += 1
    return {
        key: " ".join(
            f"{name}={json.dumps(value) if isinstance(value, list) else value}".replace(" ", "")
            for name, value in heads[0]["config"].items()
            if name != "seed" and (len(seen[key[:-1]][name]) > 1 or heard[key[:-1]][name] < counts[key[:-1]])
        )
        for key, heads in groups.items()
    }


def summarise(results: Results, where: Mapping[str, Any] | None = None, cost: str = COSTS[0]) -> list[Line]:
    """Lines for the heads that `where` (columns of `heads`) admits, best first within each task and split.

    With `cost` kanbefair, `kanbefair` is KANbeFair's (parameters, FLOPs) of each line.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for head in with_costs(results, results.heads(where), cost):
        shape = {name: value for name, value in head["config"].items() if name != "seed"}
        columns = (*PLACE[:-1], "head")
        groups.setdefault((*(head[name] for name in columns), json.dumps(shape)), []).append(head)
    variants, baselines, class_names = _variants(groups), results.baselines(), results.class_names()
    tried: dict[tuple[str, ...], set[str]] = {}
    for *place, shape in groups:
        tried.setdefault(tuple(place), set()).add(json.dumps(json.loads(shape) | {"epochs": None}))
    lines = []
    for key, heads in groups.items():
        trained = [head for head in heads if head["status"] == "trained"]
        for split in sorted({split for head in trained for split in head["metrics"]}) or [""]:
            fingerprint = heads[0]["fingerprint"]
            base, names = baselines.get((fingerprint, split), {}), class_names[fingerprint]
            lines.append(_line(heads, trained, split, variants[key], base, len(tried[key[:-1]]), names))
    order = ("task", "cache", "source", "encoder", "features", "protocol", "fingerprint", "split")
    return sorted(
        lines,
        key=lambda line: (*(getattr(line, name) for name in order), -math.inf if line.mean is None else -line.mean),
    )


def _line(
    heads: Sequence[Mapping[str, Any]], trained: Sequence[Mapping[str, Any]], split: str, variant: str,
    baseline: Mapping[str, float | None], trials: int, class_names: tuple[str, ...] | None,
) -> Line:  # fmt: skip
    first = heads[0]
    metric = first["main_metric"]
    trained = [head for head in trained if split in head["metrics"]]
    scores = tuple(float(metric_value(head["metrics"][split], metric)) for head in trained)
    chosen = [float(metric_value(head[SELECTION], metric)) for head in trained if head[SELECTION]]
    low, high = t_interval(scores)
    return Line(
        *(first[name] for name in PLACE[:-1]),
        split=split,
        head=first["head"],
        variant=variant,
        metric=metric,
        n=len(trained),
        mean=fmean(scores) if scores else None,
        std=stdev(scores) if len(scores) > 1 else None,
        low=low,
        high=high,
        selection=fmean(chosen) if chosen else None,
        majority=baseline.get(metric),
        parameters=first["parameters"],
        flops=first["flops"],
        training_flops=first["training_flops"],
        fit_seconds=fmean(head["fit_seconds"] for head in heads),
        inputs=first["inputs"],
        train_rows=first["train_rows"],
        diverged=sum(head["status"] == "diverged" for head in heads),
        trials=trials,
        class_names=class_names,
        kanbefair=(first["kanbefair_parameters"], first["kanbefair_flops"]) if "kanbefair_flops" in first else None,
        config=first["config"],
        ids=tuple(head["id"] for head in trained),
        seeds=tuple(head["seed"] for head in trained),
        scores=scores,
        seconds=tuple(head["fit_seconds"] for head in trained),
    )


def flat(heads: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Heads (documents of `Results.heads`) as a table: column names and rows, metrics and options in columns.

    Columns of metrics are named `split.metric`, those of options `config.option`; what a head lacks is `None`.
    """
    nested = ("config", "metrics", "selection", "training", "coverage")
    plain = [name for name in (heads[0] if heads else ()) if name not in nested]
    flattened = [
        {name: head[name] for name in plain}
        | {f"{split}.{name}": v for split, found in head["metrics"].items() for name, v in found.items()}
        | {f"{rows}.{name}": value for rows in ("selection", "training") for name, value in head[rows].items()}
        | {f"config.{name}": json.dumps(v) if isinstance(v, list) else v for name, v in head["config"].items()}
        for head in heads
    ]
    columns = list(dict.fromkeys(name for row in flattened for name in row))
    columns.sort(key=lambda name: (name not in plain, name.startswith("config.")))
    return columns, [[row.get(name) for name in columns] for row in flattened]


def describe(head: Mapping[str, Any]) -> str:
    """One head in a few lines: what it is, its metrics, its cost."""
    if head["status"] == "diverged":
        scores = why_diverged(head["diverged_at"])
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
