"""pykan's network (arXiv 2404.19756), trained by a loop of its own: for looking inside."""

import math

from pipeline.heads.family import Family

__all__ = ["FAMILY"]


FAMILY = Family(
    position=9,
    color="#7a1f4b",
    is_kan=True,
    options=("hidden", "base", "grid", "order", "grid_range", "optimiser", "lamb", "lamb_entropy"),
    own_loop=True,
    defaults={
        "hidden": (5,), "epochs": 50, "batch_size": 4096, "optimiser": "lbfgs", "lamb": 0.0, "lamb_entropy": 2.0,
        "base": "silu",
    },
    fixed={"weight_decay": 0.0, "clip": math.inf, "init": "package", "folds": 1},
    rates={"lbfgs": 1.0, "adam": 1e-2},
    source="pykan, arXiv 2404.19756",
    link="https://github.com/KindXiaoming/pykan",
    formula="y_o = sum over i of s_io silu(x_i) + r_io sum over j of c_ioj B_j(x_i)",
    parameters="D * O * (G + k + 2)",
    flops="2 * D * O * (G + k + 1) + D * (4 + 2 * (G + 2 * k) + k * (8 * G + 12 * k - 4))",
    note=(
        "pykan's network with its starts, its penalty, its grids that follow the data and its optimiser (LBFGS): "
        "to look inside one head of few inputs (16 at most), which is why it is fitted by a loop of its own and "
        "not in packs. Its splines are charged at the length of their recursion, since their knots are not even."
    ),
)  # fmt: skip
