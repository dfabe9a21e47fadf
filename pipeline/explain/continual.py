"""Learning one thing after another: class- and domain-incremental runs over any cache, and the KAN paper's five peaks.

A score A[t, i] is that on part i after stage t. After T stages (KANbeFair, arXiv 2407.16674; Lopez-Paz and Ranzato,
arXiv 1706.08840): average, the mean of A[T, i]; forgetting, the mean over i < T of what was lost since A was best;
backward transfer, the mean over i < T of A[T, i] - A[i, i]. The last part cannot have been forgotten yet: its term is
zero by definition and is left out.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import ConfigError, UnknownNameError
from pipeline.explain.figures import continual_figure, svg
from pipeline.fit.data import FitData, fit_scaling
from pipeline.fit.train import train_pack
from pipeline.heads.config import TRAINED_POOLS, HeadConfig
from pipeline.heads.families import FAMILIES
from pipeline.heads.resolve import resolve
from pipeline.models.caches import find_cache, load_data
from pipeline.progress import say
from pipeline.sweep.spec import parse_seeds
from pipeline.tasks import own_task
from pipeline.text import json_text

__all__ = ["SCENARIOS", "continual", "continual_text", "measures", "peaks_data"]

SCENARIOS = ("class", "domain", "peaks")
PEAKS, PER_PEAK = 5, 100
#: The KAN paper's network for the peaks: one edge, many intervals, splines alone; an MLP of as many parameters.
_PEAK_OPTIONS: dict[str, dict[str, Any]] = {
    "kan": {"hidden": (), "grid": 200, "base": "zero", "grid_range": (-1.0, 1.0), "epochs": 20},
    "effi_kan": {"hidden": (), "grid": 200, "base": "zero", "grid_range": (-1.0, 1.0), "lr": 0.02, "epochs": 200},
    "mlp": {"hidden": (64,), "activation": "tanh", "lr": 0.02, "epochs": 200},
}
_PEAK_SHARED = {"scale": "none", "weight_decay": 0.0, "batch_size": 100}


@dataclass(frozen=True)
class Stages:
    """All rows of a task, and which part each training and each reported row belongs to."""

    data: FitData
    train: np.ndarray
    reported: np.ndarray
    names: tuple[str, ...]


def peaks_data(per_peak: int = PER_PEAK) -> Stages:
    """Five Gaussian peaks exp(-300 (x - c)^2) on [-1, 1], one part each (arXiv 2404.19756, section 3.3)."""
    centres = -1 + 2 * (np.arange(PEAKS) + 0.5) / PEAKS
    features, labels, parts = {}, {}, {}
    for split, count in (("train", per_peak), ("validation", 200)):
        x = np.linspace(-1, 1, count * PEAKS, endpoint=False) + 1 / (count * PEAKS)
        features[split] = x.astype(np.float32)[:, None]
        labels[split] = np.exp(-300 * (x[:, None] - centres) ** 2).sum(1).astype(np.float32)
        parts[split] = np.minimum((x + 1) / 2 * PEAKS, PEAKS - 1).astype(int)
    scaling = fit_scaling("none", features["train"])
    data = FitData(own_task("peaks", None, pair=False), "0" * 64, features, labels, scaling)
    return Stages(data, parts["train"], parts["validation"], tuple(f"peak {n + 1}" for n in range(PEAKS)))


def class_stages(data: FitData, count: int | None) -> Stages:
    """Neighbouring classes together: `count` parts, two classes each by default (one, where there are under four)."""
    if data.task.labels is None:
        raise ConfigError("`scenario='class'`: expected a task with classes, found a regression; take domain")
    classes = len(data.task.labels)
    count = count or (classes // 2 if classes >= 4 else classes)
    if not 2 <= count <= classes:
        raise ConfigError(f"`stages`: expected 2 to {classes}, the classes, found {count}")
    groups = np.array_split(np.arange(classes), count)
    part = np.concatenate([np.full(len(group), number) for number, group in enumerate(groups)])
    names = tuple("+".join(data.task.labels[one] for one in group) for group in groups)
    reported = data.labels[data.reported[0]].astype(int)
    return Stages(data, part[data.labels["train"].astype(int)], part[reported], names)


def domain_stages(data: FitData, count: int | None) -> Stages:
    """The same labels in changing places: rows in order of the training features' first principal component."""
    count = count or 5
    if not 2 <= count <= 100:
        raise ConfigError(f"`stages`: expected 2 to 100, found {count}")
    train = data.features["train"].astype(np.float64)
    direction = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][0]
    along = {split: data.features[split] @ direction for split in ("train", data.reported[0])}
    ends = np.quantile(along["train"], np.linspace(0, 1, count + 1)[1:-1])
    parts = {split: np.searchsorted(ends, place) for split, place in along.items()}
    return Stages(data, parts["train"], parts[data.reported[0]], tuple(f"domain {n + 1}" for n in range(count)))


def measures(scores: np.ndarray, *, error: bool) -> dict[str, float]:
    """Average, forgetting and backward transfer of scores [stages, parts]; `error` says that lower is better.

    Forgetting is what was lost (a number above 0 is bad), backward transfer what was gained, for errors too.
    """
    sign, last = (-1.0 if error else 1.0), len(scores) - 1
    better = sign * scores
    lost = [better[part : last + 1, part].max() - better[last, part] for part in range(last)]
    gained = [better[last, part] - better[part, part] for part in range(last)]
    return {
        "average": float(scores[last].mean()), "forgetting": float(np.mean(lost)),
        "backward_transfer": float(np.mean(gained)),
    }  # fmt: skip


def _run(configs: Sequence[HeadConfig], stages: Stages, whole: tuple[float, float], every: int | None) -> np.ndarray:
    """Scores [heads, stages, parts]: all heads of one shape through all stages, each from where the last left it."""
    data, split = stages.data, stages.data.reported[0]
    count = every or len(stages.names)
    scores, starts = np.zeros((len(configs), count, len(stages.names))), None
    for stage in range(count):
        rows = np.flatnonzero(stages.train == stage) if every is None else np.arange(len(stages.train))
        part = replace(
            data, features={"train": data.features["train"][rows], split: data.features[split]},
            labels={"train": data.labels["train"][rows], split: data.labels[split]},
        )  # fmt: skip
        # Targets keep the scale of the whole: a stage of its own scale would move what was learned before.
        vars(part)["target_scale"] = whole
        done = train_pack(configs, part, torch.device("cpu"), first=starts, last=True)
        starts = [outcome.tensors for outcome in done]
        for head, outcome in enumerate(done):
            if outcome.diverged_at is not None:
                raise ArithmeticError(
                    f"{outcome.config.head}, seed {outcome.config.seed}: diverged in stage {stage + 1}"
                )
            for place in range(len(stages.names)):
                own = stages.reported == place
                found, labels = outcome.outputs[split][own], data.labels[split][own]
                if data.task.labels is None:
                    scores[head, stage, place] = np.sqrt(((found[:, 0] - labels) ** 2).mean())
                else:
                    scores[head, stage, place] = (found.argmax(1) == labels).mean()
    return scores


def continual(
    task: str | None = None, *, scenario: str = "class", head: Sequence[str] = ("mlp", "effi_kan", "kan"),
    seeds: str | Sequence[int] = "0:5", stages: int | None = None, encoder: str | None = None,
    features: str | None = None, cache: str | Path = "cache", results: str | Path = "runs/results.sqlite",
    out: Path | None = None, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train every family through the stages, all seeds as one pack, and once on everything for comparison.

    Each family's document has the three measures with 95% t intervals over the seeds, the mean scores after each stage
    and `joint`, the average score of training on all parts at once. Raises a `KanglueError`.
    """
    begin = time.perf_counter()
    if scenario not in SCENARIOS:
        raise UnknownNameError("scenario", scenario, SCENARIOS)
    for family in head:
        if family not in FAMILIES:
            raise UnknownNameError("head", family, tuple(FAMILIES))
    chosen = parse_seeds(seeds)
    if scenario == "peaks":
        if task is not None or stages is not None:
            raise ConfigError("`scenario='peaks'`: expected neither TASK nor `stages`, found one; it has its own data")
        place, feature = peaks_data(), "pooled"
    else:
        if task is None:
            raise ConfigError(f"`scenario` {scenario}: expected a TASK, found none; name a cache's task")
        ref = find_cache(Path(cache), task, encoder)
        feature = ref.feature(features)
        if options.get("token_pool") in TRAINED_POOLS:
            raise ConfigError(f"`token_pool`: expected mean or max here, found {options['token_pool']}")
        data = load_data(ref, feature, options.get("scale") or "standard", options.get("token_pool"))
        place = (class_stages if scenario == "class" else domain_stages)(data, stages)
    regression = place.data.task.labels is None
    document: dict[str, Any] = {
        "scenario": scenario, "task": task or "peaks", "metric": "rmse" if regression else "accuracy",
        "parts": list(place.names), "seeds": list(chosen), "heads": [],
    }  # fmt: skip
    for family in head:
        own = (_PEAK_SHARED | _PEAK_OPTIONS.get(family, {})) if scenario == "peaks" else {}
        config = resolve(family, seed=0, features=feature, options=own | options)
        configs = [replace(config, seed=seed) for seed in chosen]
        scores = _run(configs, place, place.data.target_scale, None)
        joint = _run(configs, place, place.data.target_scale, 1)[:, 0].mean(1)
        each = [measures(one, error=regression) for one in scores]
        document["heads"].append({
            "head": family, "config": config.to_json(), "matrix": scores.mean(0).tolist(),
            "joint": _interval(joint), **{name: _interval([one[name] for one in each]) for name in each[0]},
        })  # fmt: skip
        say(f"{family}: done")
    document["seconds"] = round(time.perf_counter() - begin, 2)
    folder = out or Path(results).parent / "continual" / f"{document['task']}-{scenario}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "continual.svg").write_text(svg(continual_figure(document)), encoding="utf-8")
    document["folder"] = str(folder)
    (folder / "continual.json").write_text(json_text(document, indent=2), encoding="utf-8")
    return document


def _interval(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean and the half-width of its 95% t interval (0 for one value)."""
    from scipy.stats import t

    found = np.asarray(values, np.float64)
    half = float(t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
    return {"mean": float(found.mean()), "half": half}


def continual_text(found: Mapping[str, Any]) -> str:
    """The measures of every family as lines."""
    lines = [f"{found['task']}, {found['scenario']}: {found['metric']} after {len(found['parts'])} stages, "
             f"{len(found['seeds'])} seeds, 95% intervals"]  # fmt: skip
    for one in found["heads"]:
        parts = (f"{name.replace('_', ' ')} {one[name]['mean']:.4f} ± {one[name]['half']:.4f}"
                 for name in ("average", "forgetting", "backward_transfer", "joint"))  # fmt: skip
        lines.append(f"  {one['head']}: " + ", ".join(parts))
    return "\n".join([*lines, f"  {found['seconds']} s; see {found['folder']}"])
