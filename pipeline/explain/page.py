"""The page of an explanation: one HTML file with everything in it, in the report's style."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["page"]

_CAPTIONS = {
    "symbols": (("The network of symbols", "Inputs below, outputs above; each edge's box is what it adds."), "wide"),
    "pruned": (("The pruned network", "What is left of the edges; the fainter, the less it matters."), "wide"),
    "network": (("The network as trained", "Every edge, before pruning."), "wide"),
    "importance": (("Most important inputs", "How much of the outputs' variation goes back to each input."), "half"),
    "curves": (
        ("Learned activation curves", "The most important edges of the first layer: what input → unit adds, over rows "
         "of the reported split. Behind a layer norm other inputs move the points a little."), "wide",
    ),
}  # fmt: skip


def page(document: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The HTML page of an explanation's document, with pictures (SVG by name) inside."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.ChainableUndefined)
    shown = [(name, *_CAPTIONS[name]) for name in _CAPTIONS if name in pictures]
    tables = [("head", document.get("head_scores")), ("pruned network", document.get("pruned", {}).get("fidelity")),
              ("formulas", document.get("fidelity"))]  # fmt: skip
    tables = [(name, found) for name, found in tables if found]
    return environment.from_string(_text("pipeline.explain", "page.html")).render(
        d=document,
        style=Markup(_text("pipeline.report", "style.css")),  # ours, not data
        summary=_summary(document),
        pictures=shown,
        images={name: _data(pictures[name]) for name, *_ in shown},
        maths=[_mathematics(one["latex"]) for one in document.get("formulas", [])],
        fidelity=tables,
        columns=list(dict.fromkeys(column for _, found in tables for column in found)),
    )


@cache
def _text(package: str, name: str) -> str:
    return (files(package) / "template" / name).read_text(encoding="utf-8")


def _data(svg: str) -> str:
    import base64

    # An image cannot run anything, and its style cannot reach the page.
    if "xmlns=" not in svg[:300]:
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _mathematics(latex: str) -> str | None:
    """A formula drawn by matplotlib's mathtext, `None` for one that it does not know or that is too long to read."""
    from pipeline.explain.figures import formula_figure, svg

    if len(latex) > 600:
        return None
    try:
        return _data(svg(formula_figure(latex)))
    except (ValueError, RuntimeError):
        return None


def _summary(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    pruned, fidelity = document.get("pruned"), document.get("fidelity")
    if document.get("importance"):
        best = sorted(document["importance"].items(), key=lambda item: -item[1])[:5]
        found.append(("Inputs that matter", ", ".join(f"{name} ({score:.2f})" for name, score in best)))
    if pruned:
        text = f"{pruned['edges']} of {pruned['edges_before']} edges are left, on {', '.join(pruned['inputs'])}."
        if not pruned["good_enough"]:
            text += " It does not do all that the head does: see its fidelity."
        found.append(("Pruned", text))
    if fidelity:
        if "agreement_to_head" in fidelity:
            text = f"The formulas decide as the head does on {fidelity['agreement_to_head']:.1%} of the rows"
            text += (
                f" and are right on {fidelity['accuracy']:.1%}; the head on {document['head_scores']['accuracy']:.1%}."
            )
        else:
            text = (
                f"RMSE {fidelity.get('rmse', float('nan')):.3g} to the labels (the head: "
                f"{document['head_scores']['rmse']:.3g}), {fidelity.get('rmse_to_head', float('nan')):.3g} to the head."
            )
        if fidelity["undefined"]:
            text += f" On {fidelity['undefined']} rows a formula has no value."
        found.append(("Fidelity", text))
    return found
