"""Pictures of networks and curves, as SVG, drawn without matplotlib's global state."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.explain.mixed import Mixed, attribution

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "continual_figure",
    "curves_figure",
    "formula_figure",
    "importance_figure",
    "network_figure",
    "refine_figure",
    "svg",
]

_SYMBOL, _SPLINE = "#c2410c", "#1f2937"
_SHOWN = 300


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    return figure


def svg(figure: Any) -> str:
    """A figure as SVG text; text stays text, and the same figure gives the same bytes."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kanglue"}):
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def network_figure(network: Mixed, x: "Tensor", names: Sequence[str], outputs: Sequence[str]) -> Any:
    """A network from its inputs below to its outputs above; each edge's curve stands in a box on it.

    Dark edges are splines, orange ones symbols; an edge is the fainter the less it matters.
    """
    layers = network.layers(x)
    scores, _ = attribution(layers)
    edges = network.edges()
    used = {(0, i) for i in range(network.widths[0])} if network.widths[0] <= 8 else set()
    used |= {(layer, i) for layer, i, _ in edges} | {(layer + 1, j) for layer, _, j in edges}
    levels = [sorted(node for level, node in used if level == at) for at in range(len(network.widths))]
    most = max(sum(1 for edge in edges if edge[0] == layer) for layer in range(len(layers)))
    width = float(np.clip(0.75 * most, 4, 18))
    figure = _figure(width, 2.6 * len(layers) + 0.6)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.18, len(layers) + 0.18)
    axes.axis("off")
    place = {
        (level, node): ((at + 0.5) / len(nodes), float(level))
        for level, nodes in enumerate(levels) for at, node in enumerate(nodes)
    }  # fmt: skip
    for layer, (inputs, added) in enumerate(layers):
        own = [edge for edge in edges if edge[0] == layer]
        own.sort(key=lambda edge: (place[layer, edge[1]][0] + place[layer + 1, edge[2]][0], edge))
        for at, edge in enumerate(own):
            _, i, j = edge
            colour = _SYMBOL if edge in network.symbols else _SPLINE
            strength = float(np.clip(np.tanh(3 * float(scores[layer][i, j])), 0.15, 1))
            box = (at + 0.5) / len(own), layer + 0.5
            for end in (place[layer, i], place[layer + 1, j]):
                axes.plot([end[0], box[0]], [end[1], box[1]], color=colour, lw=1.4, alpha=strength, zorder=1)
            size = min(0.8 / len(own), 0.62 / width)
            high = size * width / (2.6 * len(layers) + 0.6) * (len(layers) + 0.36)
            inset = axes.inset_axes((box[0] - size / 2, box[1] - high / 2, size, high), transform=axes.transData)
            order = inputs[i].argsort()[:: max(1, len(inputs[i]) // _SHOWN)]
            inset.plot(inputs[i][order].numpy(), added[i, j][order].numpy(), color=colour, lw=1.6)
            inset.set_xticks([])
            inset.set_yticks([])
            for spine in inset.spines.values():
                spine.set_color(colour)
                spine.set_alpha(strength)
            if edge in network.symbols:
                name = inset.set_title(network.symbols[edge].name, fontsize=8, color=colour, pad=3)
                name.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # the edge runs behind it
    for (level, node), (left, bottom) in place.items():
        axes.plot([left], [bottom], "o", color=_SPLINE, ms=5, zorder=3)
        if level == 0:
            axes.text(left, bottom - 0.07, names[node], ha="center", va="top", fontsize=10)
        elif level == len(layers):
            axes.text(left, bottom + 0.07, outputs[node], ha="center", va="bottom", fontsize=10)
    return figure


def importance_figure(scores: Sequence[float], names: Sequence[str], most: int = 20) -> Any:
    """The inputs that matter most, as bars from the top."""
    order = np.argsort(scores)[::-1][:most]
    figure = _figure(5, 0.26 * len(order) + 0.8)
    axes = figure.add_subplot()
    axes.barh(range(len(order)), np.asarray(scores)[order], color="#0b5cad")
    axes.set_yticks(range(len(order)), [names[at] for at in order], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("importance", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def curves_figure(curves: Sequence[tuple[str, np.ndarray, np.ndarray]], columns: int = 6) -> Any:
    """Small pictures of (title, x, y), the values of one edge over the rows."""
    columns = min(columns, len(curves))
    rows = -(-len(curves) // columns)
    figure = _figure(1.5 * columns, 1.45 * rows)
    for at, (title, x, y) in enumerate(curves, 1):
        axes = figure.add_subplot(rows, columns, at)
        order = np.argsort(x)[:: max(1, len(x) // 120)]
        axes.plot(x[order], y[order], ".", ms=2, color="#0b5cad")
        axes.set_title(title, fontsize=7, pad=3)
        axes.tick_params(labelsize=5, length=2)
    figure.subplots_adjust(wspace=0.35, hspace=0.55)
    return figure


def formula_figure(latex: str) -> Any:
    """A formula as a picture. Raises `ValueError` for LaTeX that mathtext does not know."""
    figure = _figure(0.1, 0.1)
    figure.text(0, 0, f"${latex}$", fontsize=13)
    return figure


def refine_figure(document: dict[str, Any]) -> Any:
    """The error along finer grids: before and right after each extension, and after training on."""
    name = "rmse" if "rmse" in document["start"]["scores"] else "accuracy"
    figure = _figure(5.2, 3.4)
    axes = figure.add_subplot()
    grids = [document["start"]["grid"], *(step["grid"] for step in document["steps"])]
    final = [document["start"]["scores"][name], *(step["after"][name] for step in document["steps"])]
    axes.plot(range(len(grids)), final, "o-", color="#0b5cad", label="trained on this grid")
    extended = [step["extended"][name] for step in document["steps"]]
    axes.plot(range(1, len(grids)), extended, "x", color=_SYMBOL, label="right after the extension")
    axes.set_xticks(range(len(grids)), [f"{grid}" for grid in grids])
    axes.set_xlabel("grid intervals")
    axes.set_ylabel(f"{name} on the reported split")
    if name == "rmse":
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def continual_figure(document: dict[str, Any]) -> Any:
    """A map of scores for each family, stages downwards and parts across, and the averages with their intervals."""
    heads, error = document["heads"], document["metric"] == "rmse"
    figure = _figure(2.6 * len(heads) + 2.6, 3.0)
    top = max(float(np.max(one["matrix"])) for one in heads)
    for at, one in enumerate(heads, 1):
        axes = figure.add_subplot(1, len(heads) + 1, at)
        axes.imshow(one["matrix"], cmap="Blues_r" if error else "Blues", vmin=0, vmax=top if error else 1)
        for stage, row in enumerate(one["matrix"]):
            for part, value in enumerate(row):
                dark = (value < 0.45 * top) if error else (value > 0.55)
                colour = "white" if dark else _SPLINE
                axes.text(part, stage, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
        axes.set_title(one["head"], fontsize=9)
        axes.set_xlabel("part", fontsize=8)
        axes.set_xticks(range(len(row)), range(1, len(row) + 1), fontsize=7)
        axes.set_yticks(range(len(one["matrix"])), range(1, len(one["matrix"]) + 1), fontsize=7)
        if at == 1:
            axes.set_ylabel("after stage", fontsize=8)
    axes = figure.add_subplot(1, len(heads) + 1, len(heads) + 1)
    for name, colour, shift in (("average", "#0b5cad", -0.1), ("joint", "#6b7280", 0.1)):
        axes.errorbar(
            [place + shift for place in range(len(heads))], [one[name]["mean"] for one in heads],
            [one[name]["half"] for one in heads], fmt="o", ms=4, capsize=3, color=colour,
            label={"average": "one after another", "joint": "all at once"}[name],
        )  # fmt: skip
    axes.set_xticks(range(len(heads)), [one["head"] for one in heads], fontsize=7, rotation=20)
    axes.set_ylabel(f"average {document['metric']}", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylim(bottom=0)
    # Above the marks: inside, it lies on one of them sooner or later.
    axes.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2)
    axes.set_xlim(-0.5, len(heads) - 0.5)
    figure.subplots_adjust(wspace=0.4)
    return figure
