"""How the findings were made: commands that make the same heads, caches, versions, hardware, dates."""

import json
import platform
from dataclasses import dataclass
from functools import cache
from typing import Any

from pipeline.errors import KanglueError
from pipeline.heads.families import FAMILIES
from pipeline.heads.resolve import resolve
from pipeline.report.model import Findings
from pipeline.sweep.table import Line
from pipeline.versions import version

__all__ = ["Provenance", "provenance"]

#: What is told of a cache that was found.
_KNOWN = ("encoder_sha256", "tokenizer_sha256", "source_sha256", "max_length", "precision", "pairs", "created")
#: Commands beyond this many are counted, not listed.
COMMANDS = 40


@dataclass(frozen=True)
class Provenance:
    """Rows of tables: `caches` (task, encoder, what is known of the file), `runs` (heads, device, versions, dates)."""

    commands: tuple[str, ...]
    more: int
    caches: tuple[dict[str, Any], ...]
    runs: tuple[dict[str, Any], ...]
    here: str


def provenance(findings: Findings) -> Provenance:
    """Collect it."""
    commands = _commands(findings)
    here = ", ".join(f"{name} {version(name)}" for name in ("kanglue", "numpy", "scipy", "statsmodels"))
    return Provenance(
        tuple(commands[:COMMANDS]), max(len(commands) - COMMANDS, 0), _caches(findings), _runs(findings),
        f"Python {platform.python_version()}, {here}",
    )  # fmt: skip


def _caches(findings: Findings) -> tuple[dict[str, Any], ...]:
    rows: dict[str, dict[str, Any]] = {}
    for line in findings.lines:
        known = findings.caches.get(line.fingerprint, {})
        told = [f"{name} {_brief(name, known[name])}" for name in _KNOWN if known.get(name) is not None]
        rows.setdefault(
            line.fingerprint,
            {
                "task": line.task, "encoder": line.encoder, "source": line.source, "train": line.train_rows,
                "fingerprint": line.fingerprint, "known": ", ".join(told),
            },
        )  # fmt: skip
    return tuple(rows.values())


def _brief(name: str, value: Any) -> str:
    return str(value)[:12] if name.endswith("sha256") else str(value)


def _runs(findings: Findings) -> tuple[dict[str, Any], ...]:
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for run in findings.runs:
        found = merged.setdefault(
            (run["device"], run["versions"]), {"heads": 0, "seconds": 0.0, "first": run["first"], "last": run["last"]}
        )
        found["heads"] += run["heads"]
        found["seconds"] += run["seconds"]
        found["first"], found["last"] = min(found["first"], run["first"]), max(found["last"], run["last"])
    return tuple(
        {"device": device, "versions": _versions(versions), **found} for (device, versions), found in merged.items()
    )


def _versions(document: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in json.loads(document).items())


def _commands(findings: Findings) -> list[str]:
    """One `fit_heads.py sweep` for all tasks, families and seeds that share their options."""
    groups: dict[tuple[str, str, str, str], dict[str, set[Any]]] = {}
    for line in findings.lines:
        if not line.n:
            continue
        group = groups.setdefault(
            (line.encoder, line.features, line.protocol, _options(line)),
            {"task": set(), "head": set(), "seeds": set()},
        )
        group["task"].add(line.task)
        group["head"].add(line.head)
        group["seeds"].add(line.seeds)
    return [
        f"python fit_heads.py sweep --task {','.join(sorted(group['task']))} --head {','.join(sorted(group['head']))} "
        f"--encoder {encoder} --features {features} --protocol {protocol} --seeds {_ranges(group['seeds'])}{options}"
        for (encoder, features, protocol, options), group in groups.items()
    ]


def _ranges(seeds: set[tuple[int, ...]]) -> str:
    every = sorted({seed for found in seeds for seed in found})
    low, high = every[0], every[-1] + 1
    return f"{low}:{high}" + ("" if len(every) == high - low else " (not all of them)")


@cache
def _defaults(head: str, features: str, protocol: str) -> dict[str, Any]:
    try:
        plain = resolve(head, seed=0, features=features, protocol=protocol, options={})
    except KanglueError:  # a family or protocol of another version
        return {}
    return {"layer_norm": FAMILIES[head].defaults.get("layer_norm")} | plain.to_json()


def _options(line: Line) -> str:
    """The options that differ from the family's defaults under its protocol, as they are typed."""
    defaults = _defaults(line.head, line.features, line.protocol)
    typed = []
    for name, value in line.config.items():
        if name in ("head", "protocol", "seed", "features") or defaults.get(name) == value:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            typed.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            typed.append(f"{flag} {','.join(map(str, value)) if isinstance(value, list) else value}")
    return "".join(f" {one}" for one in typed)
