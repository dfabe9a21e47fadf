"""What a measurement of training found: its contestants, its document, its table."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

import torch

from pipeline.device import hardware

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Contestant", "document", "render", "shape_name"]


@dataclass
class Contestant:
    """One way to train, and the seconds a head-step of every visit so far, by the clock and of all threads together.

    `visit` trains for a number of steps and says how many it did; `bytes` is what a head-step must move at least.
    """

    name: str
    mode: str
    heads: int
    threads: int
    parameters: int
    bytes: int
    visit: Callable[[int], int]
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    steps: int = 1
    done: int = 1

    @property
    def median(self) -> float:
        """Seconds a head-step."""
        return statistics.median(self.seconds)


class Cell(Protocol):
    """One network and batch size: its contestants, who was left out and why, and speeds of copies in between."""

    widths: tuple[int, ...]
    batch: int
    contestants: list[Contestant]
    left_out: list[dict[str, Any]]
    copies: list[float]


def shape_name(widths: tuple[int, ...]) -> str:
    """A network's widths as people write them."""
    return "-".join(map(str, widths))


def _row(one: Contestant) -> dict[str, Any]:
    return {
        "name": one.name,
        "mode": one.mode,
        "heads": one.heads,
        "threads": one.threads,
        "parameters": one.parameters,
        "microseconds_per_head_step": one.median * 1e6,
        "fastest": min(one.seconds) * 1e6,
        "slowest": max(one.seconds) * 1e6,
        "visits": len(one.seconds),
        "processor_microseconds_per_head_step": statistics.median(one.processor_seconds or [0]) * 1e6,
        "head_steps_per_second": 1 / one.median,
        "bytes_per_head_step": one.bytes,
        "bytes_per_second": one.bytes / one.median,
    }


def document(cells: Sequence[Cell], on: torch.device, threads: int, quick: bool, seconds: float) -> dict[str, Any]:
    """The document of `fit_heads.py bench`, described at `benchmarks.bench.heads.bench`."""
    copied = statistics.median(speed for cell in cells for speed in cell.copies)
    rows, left_out, found = [], [], {}
    for cell in cells:
        place = {"network": shape_name(cell.widths), "batch": cell.batch}
        rows += [place | _row(one) for one in cell.contestants if one.seconds]
        left_out += [place | one for one in cell.left_out]
    for row in rows:
        row["share_of_copy_bandwidth"] = row["bytes_per_second"] / copied
        base = _best(rows, row["network"], row["batch"], "efficient_kan")
        row["speedup_vs_efficient_kan"] = base and base / row["microseconds_per_head_step"]
    for name, suffix in (("effi_kan with scaler", ""), ("effi_kan", "_without_scaler")):
        for batch in (4, 64):
            ours = _best(rows, shape_name((768, 64, 2)), batch, name)
            theirs = _best(rows, shape_name((768, 64, 2)), batch, "efficient_kan")
            found[f"speedup_vs_efficient_kan_batch{batch}{suffix}"] = theirs and ours and theirs / ours
        found[f"microseconds_per_head_step{suffix}"] = _best(rows, shape_name((768, 64, 2)), 4, name)
    names = {"efficient_kan": "kan-gpt", "flashkan": "flashkan", "inkan": "inkan", "pykan": "pykan"}
    return found | {
        "comparison": "768-64-2: effi_kan in a pack, a head-step, against efficient-kan (with its scaler) alone, "
        "torch.optim.AdamW, clipping; speedups without a suffix: effi_kan with the separate scaler too",
        "device": hardware(on),
        "threads": threads,
        "quick": quick,
        "copy_bytes_per_second": copied,
        "measured": rows,
        "left_out": left_out,
        "versions": {"torch": torch.__version__} | {name: _version(package) for name, package in names.items()},
        "seconds": seconds,
    }


def _best(rows: list[dict[str, Any]], network: str, batch: int, name: str) -> float | None:
    """Microseconds of a package's head alone, or of our pack: the faster number of threads."""
    times = [
        row["microseconds_per_head_step"]
        for row in rows
        if (row["network"], row["batch"], row["name"]) == (network, batch, name) and row["mode"] != "vmap"
    ]
    return min(times, default=None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def render(found: dict[str, Any]) -> "Table":
    """What was measured, as a table for a terminal."""
    from rich.table import Table

    title = f"{found['device']}, {found['threads']} threads, copy {found['copy_bytes_per_second'] / 1e9:.1f} GB/s"
    table = Table(title=title, title_justify="left")
    for name in ("network", "batch", "head", "trained"):
        table.add_column(name, no_wrap=True)
    for name in ("us a head-step", "of copy bandwidth", "vs efficient-kan"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in found["measured"]:
        if previous not in (None, (row["network"], row["batch"])):
            table.add_section()
        previous = row["network"], row["batch"]
        how = {
            "pack": f"pack of {row['heads']}",
            "vmap": f"vmap, {row['heads']}",
            "alone": f"alone, {row['threads']} threads",
        }
        ratio = row["speedup_vs_efficient_kan"]
        table.add_row(
            row["network"], str(row["batch"]), row["name"], how[row["mode"]],
            f"{row['microseconds_per_head_step']:,.2f}", f"{row['share_of_copy_bandwidth']:.0%}",
            "-" if ratio is None else f"{ratio:.2f}x",
        )  # fmt: skip
    return table
