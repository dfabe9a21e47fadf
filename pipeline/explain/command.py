"""What `fit_heads.py explain` does with its options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.api import fit
from pipeline.errors import ConfigError
from pipeline.heads.pykan import LARGEST_WIDTH
from pipeline.models.caches import find_cache
from pipeline.models.saved import load_head

__all__ = ["explain_command", "explain_text"]


def explain_command(
    *,
    head: str | None,
    task: str | None = None,
    encoder: str | None = None,
    features: str | None = None,
    hidden: Sequence[int] | None = None,
    seed: int = 0,
    library: Sequence[str] | None = None,
    lamb: Sequence[float] | None = None,
    lamb_entropy: float = 2.0,
    steps: int = 30,
    seconds: float = 40.0,
    inputs: int | None = None,
    out: Path | None = None,
    cache: str | Path = "cache",
    results: str | Path = "runs/results.sqlite",
) -> dict[str, Any]:
    """Explain a head by its id or folder, or pykan's network trained on a task. Raises a `KanglueError`."""
    from pipeline.explain.run import explain
    from pipeline.explain.symbols import library as check_library

    if (head is None) == (task is None):
        raise ConfigError(f"expected HEAD or `task=T`, found {'neither' if head is None else 'both'}; give one of them")
    aside = {"`encoder`": encoder, "`features`": features, "`hidden`": hidden, "`seed`": seed or None}
    if head is not None and (given := [name for name, value in aside.items() if value is not None]):
        raise ConfigError(f"{given[0]}: expected it with `task` alone, found HEAD {head}, which has its own")
    if steps < 1 or not seconds > 0:
        raise ConfigError(f"`steps`, `seconds`: expected numbers above 0, found {steps} and {seconds}")
    lambs = tuple(lamb or (1e-2, 1e-3))
    if min(lambs) < 0 or lamb_entropy < 0:
        raise ConfigError(f"`lamb`, `lamb_entropy`: expected numbers of at least 0, found {lambs} and {lamb_entropy}")
    check_library(library)  # before anything is trained
    if task is not None:
        ref = find_cache(Path(cache), task, encoder)
        if features is None and ref.widths[ref.feature(None)] > LARGEST_WIDTH:
            features = "reduced"
        trained = fit(
            task, head="kan", encoder=encoder, features=features, seed=seed, cache=cache, results=results,
            hidden=None if hidden is None else list(hidden),
        )  # fmt: skip
        head = trained.id
    return explain(
        load_head(head, results=results), cache=Path(cache), results=Path(results), out=out, symbols=library,
        lambs=lambs, entropy=lamb_entropy, steps=steps, seconds=seconds, inputs=inputs,
    )  # fmt: skip


def explain_text(found: dict[str, Any]) -> str:
    """An explanation in a few lines."""
    lines = [f"{found['head']} on {found['task']}: head {found['id']}"]
    if pruned := found.get("pruned"):
        lines.append(
            f"  pruned to {pruned['edges']} of {pruned['edges_before']} edges, on {', '.join(pruned['inputs'])}"
        )
    lines += [f"  {one['output']} = {one['text']}" for one in found.get("formulas", [])]
    if fidelity := found.get("fidelity"):
        lines.append("  formulas: " + ", ".join(f"{name} {value:.4g}" for name, value in fidelity.items()))
        lines.append("  head: " + ", ".join(f"{name} {value:.4g}" for name, value in found["head_scores"].items()))
    return "\n".join([*lines, f"  {found['seconds']} s; see {found['folder']}/index.html"])
