"""The summary of heads as a table for a terminal, as wide as it is."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.sweep.table import Line

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["render"]

#: Columns of the table that are words, that may take several lines, and that a narrow terminal spares first.
LEFT = ("task", "head", "source", "encoder", "features", "protocol", "split", "variant", "metric")
WRAPPED = ("variant", "protocol", "parameters (KANbeFair)", "FLOPs (KANbeFair)")
SPARED = ("fit s", "FLOPs", "trials", "majority", "- linear", "parameters", "95% interval", "diverged")


def render(lines: Sequence[Line], title: str = "", width: int | None = None) -> "Table":
    """The lines as a table for a terminal; columns that say the same on every line are left out.

    Where `width` (characters) is too little for all of them, columns that can be spared go first (`SPARED`), and the
    caption says which.
    """
    from rich.table import Table
    from rich.text import Text

    context = [
        name
        for name in ("source", "encoder", "features", "protocol", "split", "variant")
        if len({getattr(line, name) for line in lines}) > 1 or (name == "protocol" and lines[0].optimistic)
    ]
    linear: dict[tuple[str, ...], Line] = {}
    for line in lines:  # of several kinds of `linear`, the one that its selection rows favour
        best = linear.get(line.place)
        if line.head == "linear" and line.mean is not None and (best is None or _chosen(line) > _chosen(best)):
            linear[line.place] = line
    rows = [_cells(line, context, linear.get(line.place)) for line in lines]
    silent = {"trials": all(line.trials == 1 for line in lines), "diverged": not any(line.diverged for line in lines)}
    names = [name for name in rows[0] if not silent.get(name)]
    names, spared, fits = _fitting(names, rows, width)
    table = Table(title=title or None, title_justify="left")
    for name in names:
        justify, whole = "left" if name in LEFT else "right", fits and name not in WRAPPED
        table.add_column(name, justify=justify, overflow="fold", no_wrap=whole)
    if spared:
        table.caption = f"for want of width without {', '.join(spared)}; --csv has everything"
    for before, line, row in zip([lines[0], *lines], lines, rows, strict=False):
        if before.place != line.place:
            table.add_section()
        # Text, not markup: names are the user's, and may hold square brackets.
        table.add_row(*(Text(row[name]) for name in names))
    return table


def _chosen(line: Line) -> float:
    return -math.inf if line.selection is None else line.selection


def _cells(line: Line, context: Sequence[str], linear: Line | None) -> dict[str, str]:
    """A line's texts by column."""
    gain = None if line.mean is None or linear is None or line.head == "linear" else line.mean - linear.mean
    beside = [] if line.kanbefair is None else ["-" if count is None else f"{count:,}" for count in line.kanbefair]
    return {
        "task": line.cache,
        "head": line.head,
        **{name: getattr(line, name) for name in context},
        **({"protocol": "published (optimistic)"} if "protocol" in context and line.optimistic else {}),
        "metric": line.metric,
        "mean ± std": "all diverged" if line.mean is None else f"{line.mean:.4f} ± {_number(line.std)}",
        "95% interval": "-" if line.low is None else f"{line.low:.4f} to {line.high:.4f}",
        "n": f"{line.n}",
        "diverged": f"{line.diverged}",
        "trials": f"{line.trials}",
        "majority": _number(line.majority),
        "- linear": "-" if gain is None else f"{gain:+.4f}",
        "parameters": f"{line.parameters:,}",
        "FLOPs": f"{line.flops:,}",
        **dict(zip(("parameters (KANbeFair)", "FLOPs (KANbeFair)"), beside, strict=False)),
        "fit s": f"{line.fit_seconds:.2f}",
    }


def _fitting(
    names: Sequence[str], rows: Sequence[Mapping[str, str]], width: int | None
) -> tuple[list[str], list[str], bool]:
    """The columns that fit into a width, as many as do, those that were spared, and whether the rest does fit."""

    def need(name: str) -> int:
        texts = [name, *(row[name] for row in rows)]
        words = [word for text in texts for word in text.split()] if name in WRAPPED else texts
        return max(map(len, words), default=0) + 3  # two blanks and a border

    kept, spared = list(names), []
    for name in (None, *SPARED):
        if name in kept:
            kept.remove(name)
            spared.append(name)
        if fits := width is None or 1 + sum(map(need, kept)) <= width:
            break
    return kept, spared, fits


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
