"""Explain a head: importance, plot, pruned network, symbols, formulas, fidelity; a folder with pictures and a page."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import CacheError, ConfigError, KanglueError
from pipeline.explain.convert import head_edges, to_kan
from pipeline.explain.figures import curves_figure, importance_figure, network_figure, svg
from pipeline.explain.formula import formulas, values
from pipeline.explain.goals import Setting, fidelity, setting
from pipeline.explain.mixed import Mixed, attribution
from pipeline.explain.page import page
from pipeline.explain.prune import edges_left, prune
from pipeline.explain.snap import snap
from pipeline.explain.symbols import library
from pipeline.fit.data import FitData
from pipeline.fit.kan_forward import start
from pipeline.heads.config import TRAINED_POOLS
from pipeline.heads.pykan import LARGEST_WIDTH
from pipeline.models.caches import find_cache, load_data
from pipeline.models.saved import SavedHead
from pipeline.progress import say
from pipeline.sweep.results import Results
from pipeline.text import json_text

__all__ = ["data_of", "explain", "input_names"]

#: Rows of the reported split that curves are drawn from, and curves that are shown.
_ROWS, _CURVES = 400, 18


def data_of(head: SavedHead, cache: Path, results: Path) -> FitData:
    """The data that a head was trained on. Raises `CacheError` where its cache is not there any more."""
    if head.config.token_pool in TRAINED_POOLS:
        raise ConfigError(
            f"head {head.id}: expected a head on one vector a row, found one with its own {head.config.token_pool} "
            "over tokens; train one with `token_pool='mean'` or max"
        )
    task, encoder = head.provenance["task"], head.provenance["encoder"]
    if results.is_file():
        with Results(results) as store:
            found = store.heads({"id": head.id})
        task = found[0]["task"] if found else task
    ref = find_cache(cache, task, None if encoder in ("toy", "import") else encoder)
    if ref.fingerprint != head.provenance["fingerprint"]:
        raise CacheError(
            f"{ref.path}: expected the cache that head {head.id} was trained on, found another of that name; name its "
            "folder with `cache`"
        )
    return load_data(ref, head.config.features, head.config.scale, head.config.token_pool)


def input_names(head: SavedHead) -> tuple[str, ...]:
    """The columns' names of a toy, else x1, x2, ...; each as a formula can hold it."""
    columns = head.provenance.get("columns")
    names = json.loads(columns) if isinstance(columns, str) else columns
    if names and len(names) == head.network.inputs and head.config.features != "siamese":
        plain = ["".join(c if c.isalnum() or c == "_" else "_" for c in name) or "x" for name in names]
        if len(set(plain)) == len(plain):
            return tuple(name if not name[0].isdigit() else f"x_{name}" for name in plain)
    return tuple(f"x{place + 1}" for place in range(head.network.inputs))


class _Work:
    """One explanation as it grows: steps that fail leave a line and the others go on."""

    def __init__(self, head: SavedHead, data: FitData, folder: Path) -> None:
        self.head, self.data, self.folder = head, data, folder
        self.names = input_names(head)
        self.outputs = tuple(head.labels) if head.labels is not None else ("y",)
        self.document: dict[str, Any] = {
            "id": head.id, "task": head.provenance["task"], "head": head.config.head, "features": head.config.features,
            "inputs": list(self.names), "outputs": list(self.outputs), "failures": [], "files": [],
        }  # fmt: skip
        self.pictures: dict[str, str] = {}

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """A step's result, or `None` with a line that says what went wrong."""
        try:
            return work()
        except (KanglueError, ArithmeticError, ValueError, TypeError, RuntimeError, RecursionError) as error:
            reason = " ".join(f"{error}".split())[:300] or type(error).__name__
            self.document["failures"].append({"step": name, "reason": reason})
            say(f"{name}: {reason}")
            return None

    def picture(self, name: str, figure: Any) -> None:
        """Write a figure as <name>.svg."""
        self.pictures[name] = svg(figure)
        (self.folder / f"{name}.svg").write_text(self.pictures[name], encoding="utf-8")
        self.document["files"].append(f"{name}.svg")

    def look(self) -> np.ndarray:
        """Importance of every input, curves and (where there are few edges) the network as it is."""
        x = torch.from_numpy(self.data.features[self.data.reported[0]][:_ROWS].astype(np.float64))
        layers = head_edges(self.head, x)
        edges, nodes = attribution([(inputs.double(), added.double()) for inputs, added in layers])
        self.document["importance"] = dict(zip(self.names, map(float, nodes[0]), strict=True))
        self.step("importance", lambda: self.picture("importance", importance_figure(nodes[0].tolist(), self.names)))
        first = edges[0]
        strongest = first.flatten().argsort(descending=True)[:_CURVES].tolist()
        inputs, added = layers[0]
        curves = []
        for at in strongest:
            i, j = divmod(at, first.shape[1])
            curves.append((f"{self.names[i]} → {j + 1}", inputs[i].double().numpy(), added[i, j].double().numpy()))
        self.step("curves", lambda: self.picture("curves", curves_figure(curves)))
        return nodes[0].numpy()

    def reduce(self, one: Setting, lambs: Sequence[float], entropy: float, steps: int, seconds: float) -> Mixed | None:
        """The pruned network."""
        if self.head.config.head == "kan":
            tensors = {name: tensor.double() for name, tensor in self.head.tensors.items()}
            for place in sorted(set(range(self.head.network.inputs)) - set(one.kept), reverse=True):
                for name in [name for name in tensors if name.startswith("layers.0.")]:
                    tensors[name] = torch.cat([tensors[name][:place], tensors[name][place + 1 :]])
            widths = (len(one.kept), *self.head.network.widths[1:])
            shape = self.head.config.grid, self.head.config.order, self.head.config.grid_range
        else:
            tensors = to_kan(self.head, self.head.config.seed, len(one.kept))
            widths, shape = (len(one.kept), 5, self.head.network.outputs), (5, 3, (-3.0, 3.0))
        whole = Mixed(tensors, {}, {})
        names = [self.names[place] for place in one.kept]
        if self.head.config.head == "kan" and len(whole.edges()) <= 150:
            self.step(
                "plot", lambda: self.picture("network", network_figure(whole, one.x[:_ROWS], names, self.outputs))
            )
        found = prune(
            tensors, one.goal, lambs=tuple(lambs), entropy=entropy, steps=steps, seconds=seconds,
            fresh=lambda number: start(widths, *shape, 1000 + number),
        )  # fmt: skip
        small = Mixed(found.tensors, {}, {})
        edges = small.edges()
        with torch.no_grad():
            outputs = small.forward(one.x).numpy() * self.head.target_scale[1] + self.head.target_scale[0]
        self.document["pruned"] = {
            "edges": edges_left(found.tensors), "edges_before": len(whole.edges()),
            "inputs": [names[i] for i in sorted({i for layer, i, _ in edges if layer == 0})],
            "hidden": [len({j for at, _, j in edges if at == layer}) for layer in range(len(widths) - 2)],
            "good_enough": found.quality >= one.goal.enough, "quality": found.quality,
            "tried": [{"lamb": lamb, "edges": count, "quality": quality} for lamb, count, quality in found.tried],
            "fidelity": fidelity(self.head, one, outputs),
        }  # fmt: skip
        self.step(
            "plot pruned", lambda: self.picture("pruned", network_figure(small, one.x[:_ROWS], names, self.outputs))
        )
        return small

    def symbolic(self, one: Setting, small: Mixed, names: Sequence[str] | None, seconds: float) -> None:
        """Symbols, formulas and their fidelity."""
        found = snap(small.tensors, one.goal, library(names), seconds=seconds)
        inputs = [self.names[place] for place in one.kept]
        self.document["symbols"] = [
            {"layer": edge.edge[0] + 1, "from": edge.edge[1] + 1, "to": edge.edge[2] + 1, "symbol": edge.symbol,
             "r2": edge.r2, "others": dict(edge.others)}
            for edge in found.edges
        ]  # fmt: skip
        self.step(
            "plot symbols",
            lambda: self.picture("symbols", network_figure(found.network, one.x[:_ROWS], inputs, self.outputs)),
        )
        kept, plain = list(one.kept), self.head.config.scale != "standard"
        written = formulas(
            found.network, inputs, self.outputs,
            np.zeros(len(kept)) if plain else self.head.scaling.shift.astype(np.float64)[kept],
            np.ones(len(kept)) if plain else self.head.scaling.factor.astype(np.float64)[kept],
            self.head.target_scale, one.raw,
        )  # fmt: skip
        self.document["formulas"] = [
            {"output": formula.name, "text": formula.text, "latex": formula.latex, "exact": formula.exact}
            for formula in written
        ]
        outputs = values([formula.rounded for formula in written], inputs, one.raw)
        self.document["fidelity"] = fidelity(self.head, one, outputs)


def explain(
    head: SavedHead,
    *,
    cache: Path,
    results: Path,
    out: Path | None = None,
    symbols: Sequence[str] | None = None,
    lambs: Sequence[float] = (1e-2, 1e-3),
    entropy: float = 2.0,
    steps: int = 30,
    seconds: float = 40.0,
    inputs: int | None = None,
) -> dict[str, Any]:
    """Everything about one head that can be found, in `out` (runs/explain/<id>); returns the document of explain.json.

    `symbols` are the library's names; `inputs` keeps the so many most important ones; `seconds` bound the search for a
    small network and that for symbols, each, in processor time. Raises a `KanglueError` for what stops everything:
    unknown symbols, a head that diverged, a cache that is gone. Anything else is a line among `failures`.
    """
    begin = time.perf_counter()
    library(symbols)
    if head.diverged_at is not None:
        raise ConfigError(
            f"head {head.id}: expected a trained head, found one that diverged at step {head.diverged_at}"
        )
    if inputs is not None and not 1 <= inputs <= LARGEST_WIDTH:
        raise ConfigError(f"`inputs`: expected 1 to {LARGEST_WIDTH}, found {inputs}")
    data = data_of(head, cache, results)
    folder = out or results.parent / "explain" / head.id
    folder.mkdir(parents=True, exist_ok=True)
    work = _Work(head, data, folder)
    importance = work.step("importance", work.look)
    kept = tuple(range(head.network.inputs))
    if inputs is not None and inputs < len(kept) and importance is not None:
        kept = tuple(sorted(np.argsort(importance)[::-1][:inputs].tolist()))
    work.document["kept"] = [work.names[place] for place in kept]
    if len(kept) > LARGEST_WIDTH:
        work.document["failures"].append({
            "step": "formulas",
            "reason": f"expected at most {LARGEST_WIDTH} inputs, found {len(kept)}; give `inputs` {LARGEST_WIDTH} or "
            "fewer to keep the most important, or train a head on `features='reduced'`",
        })  # fmt: skip
        say(f"formulas: {work.document['failures'][-1]['reason']}")
    else:
        one = work.step("data", lambda: setting(head, data, kept))
        small = one and work.step("prune", lambda: work.reduce(one, lambs, entropy, steps, seconds))
        if one and small:
            work.document["head_scores"] = fidelity(head, one, one.head)
            work.document["split"] = one.split
            work.step("symbols", lambda: work.symbolic(one, small, symbols, seconds))
    work.document["seconds"] = round(time.perf_counter() - begin, 2)
    (folder / "index.html").write_text(page(work.document, work.pictures), encoding="utf-8")
    work.document["files"] += ["explain.json", "index.html"]
    work.document["folder"] = str(folder)
    (folder / "explain.json").write_text(json_text(work.document, indent=2), encoding="utf-8")
    return work.document
