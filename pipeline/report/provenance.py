"""How the findings were made: commands that make the same heads, caches, versions, hardware, dates."""

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import KanglueError
from pipeline.heads.resolve import resolve
from pipeline.models.caches import NAMED_FOLDERS
from pipeline.report.model import Findings
from pipeline.sweep.table import Line
from pipeline.versions import version

__all__ = ["DEFAULT_CACHE", "Provenance", "provenance"]

#: What is told of a cache that was found.
_KNOWN = ("encoder_sha256", "tokenizer_sha256", "source_sha256", "max_length", "precision", "pairs", "created")
#: Folders and files that commands need not name.
DEFAULT_CACHE, DEFAULT_RESULTS = Path("cache"), Path("runs/results.sqlite")
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


def provenance(findings: Findings, cache: Path = DEFAULT_CACHE) -> Provenance:
    """Collect it; `cache` is the folder that commands name where a cache's own was not found."""
    commands = _commands(findings, cache)
    here = ", ".join(f"{name} {version(name)}" for name in ("kanglue", "numpy", "scipy"))
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
    return tuple(
        run | {"versions": ", ".join(f"{name} {value}" for name, value in run["versions"].items())}
        for run in findings.runs
    )


def _commands(findings: Findings, cache: Path) -> list[str]:
    """`fit_heads.py sweep` for exactly the heads that trained; families with the same tasks and options share one."""
    groups: dict[tuple[Any, ...], dict[str, set[str]]] = {}
    for line in findings.lines:
        if line.n:
            task, *where = _where(line, findings, cache)
            key = (*where, line.features, line.protocol, line.seeds, *_options(line))
            groups.setdefault(key, {}).setdefault(line.head, set()).add(task)
    commands = []
    for (root, encoder, features, protocol, seeds, *options), families in groups.items():
        shared: dict[tuple[str, ...], list[str]] = {}
        for family, tasks in families.items():
            shared.setdefault(tuple(sorted(tasks)), []).append(family)
        for tasks, heads in shared.items():
            words = ["python", "fit_heads.py", "sweep", "--task", ",".join(tasks), "--head", ",".join(sorted(heads))]
            words += ["--encoder", encoder] if encoder else []
            words += ["--features", features, "--protocol", protocol, "--seeds", _ranges(seeds), *options]
            words += [] if root == DEFAULT_CACHE else ["--cache", str(root)]
            words += [] if findings.path == DEFAULT_RESULTS else ["--results", str(findings.path)]
            commands.append(shlex.join(words))
    return commands


def _where(line: Line, findings: Findings, cache: Path) -> tuple[str, Path, str]:
    """Task, folder of caches and encoder as the command line takes them."""
    path = findings.files.get(line.fingerprint)
    if path is None:
        return line.cache, cache, line.encoder
    return path.stem, path.parent.parent, "" if path.parent.name in NAMED_FOLDERS else path.parent.name


def _ranges(seeds: Sequence[int]) -> str:
    """Seeds as `--seeds` takes them: 0:10,12."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([seed, seed + 1])
    return ",".join(f"{start}:{stop}" if stop > start + 1 else str(start) for start, stop in runs)


@lru_cache
def _defaults(head: str, features: str, protocol: str) -> dict[str, Any]:
    try:
        plain = resolve(head, seed=0, features=features, protocol=protocol, options={})
    except KanglueError:  # a family or protocol of another version
        return {}
    return plain.to_json()


def _options(line: Line) -> list[str]:
    """The options that differ from the family's defaults under its protocol, as they are typed."""
    defaults, words = _defaults(line.head, line.features, line.protocol), []
    for name, value in line.config.items():
        if name in ("head", "protocol", "seed", "features", "earlier_grids") or defaults.get(name) == value:
            continue
        if name == "grid":  # of a growing grid, the last of its stages
            value = [*line.config.get("earlier_grids", ()), value]
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words.append(f"{flag}={','.join(map(str, value)) or 'none' if isinstance(value, list) else value}")
    if "earlier_grids" in line.config and not any(word.startswith("--grid=") for word in words):
        words.append(f"--grid={','.join(map(str, [*line.config['earlier_grids'], line.config['grid']]))}")
    return words
