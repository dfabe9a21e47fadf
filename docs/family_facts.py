"""What the page on families says that the registry does not: formulas in words and in symbols.

Symbols of a layer: D inputs, O outputs, G intervals (or frequencies), k order (or degree), K centres, M operations of
an activation, S those of all B-splines of an input. `tests/test_docs.py` evaluates the expressions and compares them
with the counted costs.
"""

from dataclasses import dataclass

__all__ = ["FACTS", "SPLINE_FLOPS", "Facts"]

#: Operations of all B-splines of one input.
SPLINE_FLOPS = "2 + (G + k) * (1 + (k // 2 + 1) * (k + 3))"


@dataclass(frozen=True)
class Facts:
    """A family's layer: what it computes, its parameters and one row's FLOPs as expressions, a note, and its code."""

    formula: str
    parameters: str
    flops: str
    note: str
    link: str = ""


FACTS: dict[str, Facts] = {
    "linear": Facts(
        "y = x W + b",
        "D * O + O",
        "2 * D * O + O",
        "Softmax regression: the baseline that every other family must beat.",
    ),
    "mlp": Facts(
        "y = a(x) W + b",
        "D * O + O",
        "2 * D * O + O + D * M",
        "The first layer is linear in the features (M = 0). `--activation` is one of relu, square_relu, gelu, silu, "
        "tanh, sigmoid, identity, polynomial2, polynomial3 and polynomial5; a polynomial's coefficients are "
        "trained, one set a layer.",
    ),
    "effi_kan": Facts(
        "y = sum over j of B_j(x) W_j + silu(x) W_b",
        "D * O * (G + k + 1)",
        "2 * D * O * (G + k + 1) + D * (S + 4)",
        "B_j are the G + k B-splines of order k on G intervals (`--grid`, `--order`, `--grid-range`): inside the "
        "range they are non-negative and sum to one, outside it they fade to zero. With `--spline-scaler` every "
        "edge's splines are multiplied by a number of its own, as in efficient-kan: D * O more parameters, and (G + "
        "k) * D * O products. With `--update-grid N` every input has knots of its own, where its values are: before "
        "each of the first N epochs mostly quantiles, and the weights the least-squares fit to the same splines; a "
        "forward pass then costs the recursion of Cox and de Boor.",
        "https://github.com/Blealtan/efficient-kan",
    ),
    "fast_kan": Facts(
        "y = sum over j of exp(-((LN(x) - c_j) / w)^2) W_j + silu(x) W_b + b",
        "D * O * (K + 1) + O + 2 * D",
        "2 * D * O * (K + 1) + O + D * (5 * K + 4 + 8)",
        "K even centres c_j (`--centres`), w the distance between two of them; LN is a layer norm with trained "
        "scale and shift, in front of the Gaussians only.",
        "https://github.com/ZiyaoLi/fast-kan",
    ),
    "faster_kan": Facts(
        "y = sum over j of (1 - tanh((LN(x) - c_j) d)^2) W_j",
        "D * O * K + 2 * D",
        "2 * D * O * K + D * (5 * K + 8)",
        "Reflectional switches. d = 1 (`--sharpness`) is what faster-kan's forward computes, whatever its "
        "denominator says; the gradient here is that of the formula.",
        "https://github.com/AthanasiosDelis/faster-kan",
    ),
    "fourier_kan": Facts(
        "y = sum over g = 1..G of cos(g x) A_g + sin(g x) B_g + b",
        "2 * D * O * G + O",
        "4 * D * O * G + O + 3 * D * G",
        "`--grid` is the number of frequencies. The basis has no range: it is periodic. `--hidden none` is "
        "FR-KAN's head of one layer, from features to classes.",
    ),
    "cheby_kan": Facts(
        "y = sum over n = 0..k of T_n(tanh(x)) W_n",
        "D * O * (k + 1)",
        "2 * D * O * (k + 1) + D * (1 + 3 * (k - 1))",
        "`--order` is the degree. tanh maps the features to (-1, 1), where Chebyshev polynomials stay within -1 and 1.",
        "https://github.com/SynodicMonth/ChebyKAN",
    ),
    "bspline_mlp": Facts(
        "y = f(x) W + b,  f_i(x) = sum over j of c_ij B_j(x_i)",
        "D * O + O + D * (G + k)",
        "2 * D * O + O + D * (S + 2 * (G + k) - 1)",
        "An MLP whose activation is learned, one B-spline a unit, which is KANbeFair's ablation. The first layer is "
        "linear in the features. With `--activation` another function is summed into f_i, with a coefficient of its "
        "own.",
        "https://github.com/yu-rp/KANbeFair",
    ),
    "ensemble_kan": Facts(
        "y = effi_kan(x) + fast_kan(x) + faster_kan(x)",
        "effi_kan + fast_kan + faster_kan",
        "effi_kan + fast_kan + faster_kan",
        "Three whole networks, trained together; the sum is taken of their logits (2 * O operations), not of their "
        "layers.",
    ),
    "kan": Facts(
        "y_o = sum over i of s_io silu(x_i) + r_io sum over j of c_ioj B_j(x_i)",
        "D * O * (G + k + 2)",
        "2 * D * O * (G + k + 1) + D * (4 + 2 * (G + 2 * k) + k * (8 * G + 12 * k - 4))",
        "pykan's network with its starts, its penalty, its grids that follow the data and its optimiser (LBFGS): to "
        "look inside one head of few inputs (16 at most), which is why it is fitted by a loop of its own and not in "
        "packs. Its splines are charged at the length of their recursion, since their knots are not even.",
        "https://github.com/KindXiaoming/pykan",
    ),
}
