"""Formulas as text: a whitelist of Python's syntax into sympy, and whether one has poles in a range.

The text goes through `ast.parse` alone, which builds a tree and runs nothing; each node of the tree is either in the
whitelist or an error. Sympy never sees the text (its own parser evaluates what it is given).
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import SourceError
from pipeline.sources.base import shortened

if TYPE_CHECKING:
    import numpy as np
    import sympy

__all__ = ["FUNCTIONS", "numeric", "parse_formula", "pole_in"]

#: Functions that a formula may call, under sympy's names.
FUNCTIONS = (
    "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "sqrt", "abs", "sign",
)  # fmt: skip
_CONSTANTS = {"pi": "pi", "e": "E", "E": "E"}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,19}", re.ASCII)
_MOST_CHARACTERS = 500
_MOST_VARIABLES = 16
#: Points at which a divisor is looked at, and starts of the searches for its zeros.
_PROBES, _SEARCHES = 20_000, 6


def parse_formula(text: str) -> "tuple[sympy.Expr, tuple[str, ...]]":
    """The formula in `text` and its variables in alphabetical order; `^` means `**`.

    Numbers, + - * / **, the constants pi and e and the functions of `FUNCTIONS` are allowed; every other name is a
    variable. Raises `SourceError` naming the first thing that is not.
    """
    if len(text) > _MOST_CHARACTERS:
        raise SourceError(f"formula: expected at most {_MOST_CHARACTERS} characters, found {len(text)}; shorten it")
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise SourceError(
            f"formula {shortened(text)}: expected an expression such as exp(sin(pi*x) + y**2), found that {reason}; "
            "write products with *"
        ) from error
    variables: set[str] = set()
    try:
        expression = _convert(tree.body, text, variables)
    except (RecursionError, OverflowError, ZeroDivisionError, MemoryError) as error:
        raise SourceError(f"formula {shortened(text)}: expected numbers of ordinary size, found {error}") from error
    if not 1 <= len(variables) <= _MOST_VARIABLES:
        found = ", ".join(sorted(variables)) or "none"
        raise SourceError(f"formula {shortened(text)}: expected 1 to {_MOST_VARIABLES} variables, found {found}")
    names = tuple(sorted(variables))
    if expression.has(*_unbounded()):
        raise SourceError(f"formula {shortened(text)}: expected a finite real value, found {expression}")
    return expression, names


def _unbounded() -> "tuple[Any, ...]":
    import sympy

    return sympy.zoo, sympy.oo, -sympy.oo, sympy.nan, sympy.I


def _convert(node: ast.expr, text: str, variables: set[str]) -> "sympy.Expr":
    import sympy

    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number) if math.isfinite(number) and abs(number) < 1e30:
            return sympy.Integer(number) if isinstance(number, int) else sympy.Float(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return getattr(sympy, _CONSTANTS[name])
        case ast.Name(id=name) if name not in FUNCTIONS and _VARIABLE.fullmatch(name):
            variables.add(name)
            return sympy.Symbol(name, real=True)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
            value = _convert(operand, text, variables)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(op=kind, left=left, right=right) if type(kind) in _BINARY:
            one, two = _convert(left, text, variables), _convert(right, text, variables)
            if isinstance(kind, ast.Pow):
                _check_power(one, two, text)
            return _BINARY[type(kind)](one, two)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in (*FUNCTIONS, "ln", "Abs"):
            function = {"abs": sympy.Abs, "ln": sympy.log}.get(name) or getattr(sympy, name)
            return function(_convert(argument, text, variables))
    found = shortened(ast.unparse(node))
    raise SourceError(
        f"formula {shortened(text)}: expected numbers, variables, + - * / **, pi, e and the functions "
        f"{', '.join(FUNCTIONS)} of one argument, found {found}"
    )


def _check_power(base: "sympy.Expr", exponent: "sympy.Expr", text: str) -> None:
    """Refuse powers of numbers that would take for ever to write out."""
    if not exponent.is_number:
        return
    size = abs(float(exponent)) if exponent.is_real else math.inf
    digits = size * abs(math.log10(max(abs(complex(base)), 1e-300) or 1)) if base.is_number else 0
    if size > 100 or digits > 300:
        raise SourceError(f"formula {shortened(text)}: expected exponents up to 100, found {base}**{exponent}")


def numeric(expression: "sympy.Expr", variables: Sequence[str]) -> "Callable[[np.ndarray], np.ndarray]":
    """The formula as a function of points [rows, variables], float64, to values [rows]; NaN where it has none."""
    import numpy as np
    import sympy

    symbols = [sympy.Symbol(name, real=True) for name in variables]
    function = sympy.lambdify(symbols, expression, "numpy")

    def evaluate(points: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            found = np.asarray(function(*points.astype(np.float64).T))
        found = np.broadcast_to(found, (len(points),))
        return np.where(found.imag == 0, found.real, np.nan) if np.iscomplexobj(found) else found.astype(np.float64)

    return evaluate


def pole_in(
    expression: "sympy.Expr", variables: Sequence[str], ranges: "Sequence[tuple[float, float]]"
) -> dict[str, float] | None:
    """A point of the box `ranges` (low, high for each variable) where the formula has no finite value, or `None`.

    Looks at many points, and for the zeros of everything that is divided by or whose logarithm is taken: a change of
    sign, or a minimum of its size that is zero. A zero at which the formula stays bounded (sin(x)/x) is no pole.
    """
    import numpy as np

    low, high = np.array(ranges, np.float64).T
    value = numeric(expression, variables)
    rng = np.random.default_rng(0)
    # Where formulas like to break: ends and middles of the ranges (all their combinations, for a few variables).
    special = np.stack([low, (low + high) / 2, high])
    chosen = (
        np.indices((3,) * len(low)).reshape(len(low), -1).T if len(low) <= 6 else rng.integers(3, size=(999, len(low)))
    )
    points = np.concatenate([special[chosen, np.arange(len(low))], rng.uniform(low, high, (_PROBES, len(low)))])
    divisors = list(_divisors(expression))
    broken = ~np.isfinite(value(points))
    if broken.any() and not divisors:
        return dict(zip(variables, points[broken.argmax()].tolist(), strict=True))
    for place in np.flatnonzero(broken)[:50]:
        if not _bounded_at(value, points[place], low, high):
            return dict(zip(variables, points[place].tolist(), strict=True))
    for divisor, logarithm in divisors:
        zero = _zero_of(numeric(divisor, variables), points, low, high)
        if zero is not None and (logarithm or not _bounded_at(value, zero, low, high)):
            return dict(zip(variables, zero.tolist(), strict=True))
    return None


def _divisors(expression: "sympy.Expr") -> "list[tuple[sympy.Expr, bool]]":
    """What may not be zero, and whether it stands under a logarithm."""
    import sympy

    found = []
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Pow) and not part.exp.is_nonnegative and part.base != sympy.E:
            found.append((part.base, False))
        elif isinstance(part, sympy.log):
            found.append((part.args[0], True))
        elif isinstance(part, sympy.tan):
            found.append((sympy.cos(part.args[0]), False))
    return [(part, logarithm) for part, logarithm in found if part.free_symbols]


def _zero_of(
    function: "Callable[[np.ndarray], np.ndarray]", points: "np.ndarray", low: "np.ndarray", high: "np.ndarray"
) -> "np.ndarray | None":
    """A point of the box where the function is zero: by bisection where its sign changes, else by minimising it."""
    import numpy as np
    from scipy.optimize import minimize

    values = function(points)
    finite = np.isfinite(values)
    if not finite.any():
        return points[0]
    points, values = points[finite], values[finite]
    size = np.abs(values)
    if values.min() < 0 < values.max():
        one, two = points[values.argmin()], points[values.argmax()]
        for _ in range(200):
            middle = (one + two) / 2
            one, two = (middle, two) if function(middle[None])[0] < 0 else (one, middle)
        return one
    scale = float(np.median(size)) or 1.0
    for start in points[np.argsort(size)[:_SEARCHES]]:
        found = minimize(
            lambda x: float(np.nan_to_num(np.abs(function(np.asarray(x)[None])[0]), nan=1e300)) / scale,
            start, method="Nelder-Mead", bounds=list(zip(low, high, strict=True)),
            options={"xatol": 1e-12, "fatol": 1e-15, "maxiter": 2000},
        )  # fmt: skip
        if found.fun < 1e-9:
            return np.asarray(found.x)
    return None


def _bounded_at(
    value: "Callable[[np.ndarray], np.ndarray]", point: "np.ndarray", low: "np.ndarray", high: "np.ndarray"
) -> bool:
    """Whether the formula does not grow as one comes closer to a point, from any of many directions."""
    import numpy as np

    directions = np.random.default_rng(1).normal(size=(64, len(point)))
    largest = []
    for distance in (1e-3, 1e-5, 1e-7):
        near = np.clip(point + directions * distance * (high - low), low, high)
        near = near[(near != point).all(1)]
        values = np.abs(value(near)) if len(near) else np.array([np.nan])
        if not np.isfinite(values).any() or not np.isfinite(values).all():
            return False
        largest.append(float(values.max()))
    return largest[2] < 1.5 * largest[0] + 1e-9
