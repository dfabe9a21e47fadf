"""Write docs/families.md and its pictures from the registry of families; `--check` only compares.

Run from the repository's root: `python -m docs.make_families [--check]` (`make docs`, `make lint`).
"""

import io
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from docs.generated import write_or_check
from pipeline.heads.config import HeadConfig
from pipeline.heads.cost import forward_flops, parameters, product_flops, training_flops
from pipeline.heads.families import ACTIVATIONS, FAMILIES, PACKABLE, build_network
from pipeline.heads.kanbefair import published_cost
from pipeline.heads.network import OWN_BASES, Branch, Grid, LayerSpec
from pipeline.heads.resolve import resolve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SPLINE_FLOPS", "main", "page", "pictures"]

HERE = Path(__file__).parent
#: Operations of all B-splines of one input, in the symbols that the page explains.
SPLINE_FLOPS = "2 + (G + k) * (1 + (k // 2 + 1) * (k + 3))"
INPUTS, OUTPUTS = 768, 2
#: Okabe and Ito's colours, which people of any colour vision tell apart; dashes repeat them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")

#: What each pool makes of a row's tokens x_t.
POOL_FORMULAS = {
    "mean": "the mean of x_t",
    "max": "the largest value of each coordinate",
    "attention": "sum a_t x_t, a = softmax(s), s_t = w · x_t",
    "kan_attention": "the same, s_t = sum_i f_i(x_ti): B-splines (5 intervals from -3 to 3, order 3) and silu",
}

INTRO = """\
<!-- Written by `make docs` (docs/make_families.py); edit that. -->
# Head families

A layer is a basis expansion followed by a linear map; a family is what its layers expand their inputs into. All of them
train in the same packs. The options here are those of `--protocol clean`; `--protocol published` has the original
packages' grids, starts and, for `effi_kan`, the separate scaler.

## What they cost

One head of {inputs}-64-{outputs} with default options. FLOPs are of one row: forward, its matrix products alone (what a
profiler counts), and in training (forward, loss, backward, and a row's share of AdamW at batch 64). Masks of
`--dropout` and the penalties `--spline-l1` and `--spline-entropy` are not charged. How the rest is counted stands in
[`cost.py`](../pipeline/heads/cost.py). The last two columns are KANbeFair's published formulas
(arXiv 2407.16674), which charge an edge one parameter too many, an MLP's output layer an activation that it does not
have, and every edge of a KAN the splines that its input needs only once
([`kanbefair.py`](../pipeline/heads/kanbefair.py)). `table --cost kanbefair` shows them for trained heads.

| family | parameters | FLOPs forward | of these products | FLOPs training | KANbeFair: parameters | FLOPs |
|---|---:|---:|---:|---:|---:|---:|
{costs}

`sweep --match params` (or `flops`) scales the hidden widths of all families to one budget. At {inputs} features and
{outputs} classes, with the budget of an `effi_kan` 64 wide:

| family | hidden | parameters | FLOPs forward |
|---|---:|---:|---:|
{matched}

`kan` reads at most 16 features and is not among them. One of {kan}.

## Over tokens

`--features last_hidden --token-pool ...` makes a head's input from every token's last hidden state x_t. `mean` and
`max` are taken once and are a feature like any other. `attention` and `kan_attention` train with the head, scaled by
statistics of all tokens of the training rows; they start as the mean, run in the plain engine, and are charged for a
row of 128 tokens. Their heads predict and submit, but have no export and no explanation.

| pool | input | parameters more | FLOPs more |
|---|---|---:|---:|
{pools}

## The families

Symbols, for one layer: D inputs, O outputs, G intervals or frequencies (`--grid`), k order or degree (`--order`), K
centres (`--centres`), M operations of an activation; S = {spline}, the operations of
all B-splines of one input. `--base zero|identity|silu` and `--layer-norm` change what stands here where a family has
them.
"""


def _config(family: str, **options: object) -> HeadConfig:
    return resolve(family, seed=0, features="pooled", options=options)


def _numbers(name: str, config: HeadConfig) -> str:
    network = build_network(config, INPUTS, OUTPUTS)
    published = published_cost(config, INPUTS, OUTPUTS)
    counts = [
        parameters(network), forward_flops(network), product_flops(network),
        training_flops(network, config.batch_size),
        *((published.parameters, published.flops) if published else (None, None)),
    ]  # fmt: skip
    return "| " + " | ".join([name, *("" if count is None else f"{count:,}" for count in counts)]) + " |"


def _matched() -> Iterator[str]:
    from pipeline.heads.match import Matching

    shapes = [_config(family) for family in PACKABLE]
    references = [_config("effi_kan")] * len(shapes)
    for shape, match in Matching("params").size(shapes, references, INPUTS, OUTPUTS):
        network = build_network(shape, INPUTS, OUTPUTS)
        hidden = "-" if match.hidden is None else ",".join(map(str, match.hidden))
        yield f"| `{shape.head}` | {hidden} | {parameters(network):,} | {forward_flops(network):,} |"


def _kan() -> str:
    config = resolve("kan", seed=0, features="reduced")
    network = build_network(config, 8, OUTPUTS)
    widths = "-".join(map(str, (8, *config.hidden, OUTPUTS)))
    return f"{widths} has {parameters(network):,} parameters and takes {forward_flops(network):,} FLOPs a row forward"


def _pools() -> Iterator[str]:
    for pool, formula in POOL_FORMULAS.items():
        config = resolve("linear", seed=0, features="last_hidden", options={"token_pool": pool})
        network, plain = build_network(config, INPUTS, OUTPUTS), build_network(_config("linear"), INPUTS, OUTPUTS)
        more, flops = (count(network) - count(plain) for count in (parameters, forward_flops))
        yield f"| `{pool}` | {formula} | {more:,} | {flops:,} |"


def page() -> str:
    """The text of docs/families.md. Raises `KeyError` for a family of the registry that `FACTS` lacks."""
    costs = [_numbers(f"`{family}`", _config(family)) for family in PACKABLE]
    place = list(PACKABLE).index("effi_kan") + 1
    costs.insert(place, _numbers("`effi_kan --spline-scaler`", _config("effi_kan", spline_scaler=True)))
    intro = INTRO.format(
        inputs=INPUTS,
        outputs=OUTPUTS,
        costs="\n".join(costs),
        kan=_kan(),
        matched="\n".join(_matched()),
        pools="\n".join(_pools()),
        spline=f"`{SPLINE_FLOPS}`",
    )
    return intro + "".join(f"\n{_section(family)}" for family in FAMILIES)


def _section(family: str) -> str:
    facts = FAMILIES[family]
    return f"""### {family}

```text
{facts.formula}
```

{textwrap.fill(facts.note, 120, break_long_words=False, break_on_hyphens=False)}

- Parameters of a layer: `{facts.parameters}`
- FLOPs of a layer, one row forward: `{facts.flops}`
- Source: {facts.source}{facts.link and f" ({facts.link})"}

![{_caption(family)}](families/{family}.svg)
"""


def _caption(family: str) -> str:
    return {
        "linear": "The identity",
        "mlp": "The activations without coefficients of their own",
        "fourier_kan": "Cosines and sines of one to five times the input",
        "cheby_kan": "Chebyshev polynomials of tanh of the input",
        "bspline_mlp": "B-splines, and one unit's learned function: their sum, each times its coefficient (dotted)",
        "ensemble_kan": "The bases of the three members",
    }.get(family, "Its basis" + ("; dashed: the base branch" if len(_layer(family).branches) > 1 else ""))


def _layer(family: str) -> LayerSpec:
    """A layer behind the first, where every branch of a family shows; pykan's has even knots before it sees data."""
    if FAMILIES[family].own_loop:
        config = _config(family)
        grid = Grid(*config.grid_range, intervals=config.grid, order=config.order)
        return LayerSpec(1, OUTPUTS, (Branch("b_spline"), Branch("silu")), grid)
    return build_network(_config(family), INPUTS, OUTPUTS).layers[-1]


def pictures() -> dict[str, str]:
    """SVG of every family's basis, by family."""
    import matplotlib

    style = {
        "svg.hashsalt": "kanglue", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#E5E5E5",
        "axes.axisbelow": True, "axes.prop_cycle": matplotlib.cycler(color=COLOURS), "lines.linewidth": 1.5,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        return {family: _picture(family) for family in FAMILIES}


def _picture(family: str) -> str:
    from matplotlib.figure import Figure

    panels = FAMILIES[family].stacks or PANELS.get(family, (family,))
    figure = Figure(figsize=(9.6 if len(panels) > 1 else 7.2, 2.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        DRAWN.get(panel, _draw_bases)(axes, panel)
        axes.set_xlabel("input (standardised feature)" if len(panels) == 1 else "input")
        axes.set_title("" if panel == family else panel, fontsize=9)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _values(basis: str, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [points] and what a basis makes of them [points, width]."""
    import torch

    from pipeline.heads.bases import EXPANSIONS

    x = torch.linspace(-4, 4, 241, dtype=torch.float64)
    own = OWN_BASES.get(basis)
    if own is None:
        return x.numpy(), EXPANSIONS[basis](x, grid).numpy()
    layer = LayerSpec(1, 1, (Branch(basis),), grid)  # with its initial parameters
    tensors = {name: tensor.double().unsqueeze(0) for name, tensor in own.initial(layer).items()}
    return x.numpy(), own.expand(x.view(1, -1, 1), grid, tensors)[0, :, 0].numpy()


def _draw_bases(axes: "Axes", family: str) -> None:
    """The first branch in colours; the base branch dashed and, since it grows without bound, cut off."""
    layer = _layer(family)
    for place, branch in enumerate(layer.branches):
        x, values = _values(branch.basis, layer.grid)
        values = np.where(values == 0, np.nan, values) if layer.widths[place] > 1 else values  # no lines along zero
        for index in range(values.shape[1]):
            colour = "#444444" if place else COLOURS[index % len(COLOURS)]
            axes.plot(x, values[:, index], color=colour, linestyle="--" if place else "-")
        if place:
            axes.set_ylim(-0.35, 1.35)


def _draw_activations(axes: "Axes", family: str) -> None:  # noqa: ARG001 - one signature for all
    for index, name in enumerate(name for name in ACTIVATIONS if not name.startswith("polynomial")):
        x, values = _values(name, Grid())
        axes.plot(x, values[:, 0], label=name, linestyle=("-", "--", ":")[index % 3])
    axes.set_ylim(-1.5, 3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _draw_waves(axes: "Axes", panel: str) -> None:
    layer = _layer("fourier_kan")
    x, values = _values("fourier", layer.grid)
    half = layer.grid.intervals
    for index in range(half):
        axes.plot(x, values[:, index + half * (panel == "sines")], color=COLOURS[index % len(COLOURS)])


def _draw_degrees(axes: "Axes", family: str) -> None:
    x, values = _values("chebyshev", _layer(family).grid)
    for degree in range(values.shape[1]):
        axes.plot(x, values[:, degree], label=f"$T_{degree}$")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _draw_unit(axes: "Axes", panel: str) -> None:  # noqa: ARG001
    x, values = _values("b_spline", _layer("bspline_mlp").grid)
    weighted = values * [(-0.6, -0.8, -0.3, 0.4, 0.1, 0.9, 1.2, 0.7)[index % 8] for index in range(values.shape[1])]
    for index in range(values.shape[1]):
        part = np.where(weighted[:, index] == 0, np.nan, weighted[:, index])
        axes.plot(x, part, color=COLOURS[index % len(COLOURS)], linestyle=":")
    axes.plot(x, weighted.sum(1), color="black", linewidth=2)


#: Families of more than one panel, and how the panels that are no plain bases are drawn.
PANELS = {"fourier_kan": ("cosines", "sines"), "bspline_mlp": ("B-splines", "a unit's function")}
DRAWN = {
    "mlp": _draw_activations, "cosines": _draw_waves, "sines": _draw_waves, "cheby_kan": _draw_degrees,
    "B-splines": lambda axes, _: _draw_bases(axes, "bspline_mlp"), "a unit's function": _draw_unit,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Write the page and its pictures; with `--check`, compare the page, and say which pictures are missing.

    Pictures are not compared: their last digits are the processor's.
    """
    text, check = {HERE / "families.md": page()}, "--check" in arguments
    if check:
        missing = [path for family in FAMILIES if not (path := _place(family)).is_file()]
        for path in missing:
            print(f"{path}: missing; run make docs", file=sys.stderr)
        return write_or_check(text, check=True) or int(bool(missing))
    return write_or_check(text | {_place(family): picture for family, picture in pictures().items()}, check=False)


def _place(family: str) -> Path:
    return HERE / "families" / f"{family}.svg"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
