"""Toy data: formulas, moons, special functions, bundled real tables and numeric files of one's own, as small arrays."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, SourceError, UnknownNameError
from pipeline.sources.base import shortened
from pipeline.sources.expressions import numeric, parse_formula, pole_in
from pipeline.sources.labels import DRAWN, NUMBER, drawn_split, ordered_splits, split_named
from pipeline.sources.vectors import labelled_splits
from pipeline.tasks import Task, own_task

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DEFAULT_FORMULA", "TABLES", "ToyData", "ToyOptions", "make_toy", "toy_names"]

DEFAULT_FORMULA = "exp(sin(pi*x) + y**2)"
#: The real tables that scikit-learn's package holds.
TABLES = ("breast_cancer", "wine", "digits", "diabetes")
#: A formula's values must be this small for float32 to hold their squares.
_LARGEST = 1e15


@dataclass(frozen=True)
class ToyOptions:
    """What `embed.py toy` was asked for.

    `rows` are drawn for the training split and as many for validation; `ranges` are `low,high` for all variables or
    `x=low,high` for one; `noise` is a standard deviation, of the points of `moons` and of a formula's values.
    `regression` says that a file's labels are numbers even where they are whole.
    """

    expression: str | None = None
    ranges: tuple[str, ...] = ()
    rows: int = 1000
    noise: float | None = None
    seed: int = 0
    data: Path | None = None
    label: str = "label"
    regression: bool = False
    split_column: str | None = None


@dataclass(frozen=True)
class ToyData:
    """A toy: its task, by split its features [N, D] float32 and labels [N], its inputs' names, and where it is from."""

    task: Task
    splits: "dict[str, tuple[np.ndarray, np.ndarray]]"
    columns: tuple[str, ...]
    source: str


def _special(name: str, *first: int) -> "Callable[[np.ndarray, np.ndarray], np.ndarray]":
    """SciPy's function of that name; `first` are orders that stand before the two variables."""

    def value(x: "np.ndarray", y: "np.ndarray") -> "np.ndarray":
        from scipy import special

        if name == "sph_harm":
            order, degree = first
            if hasattr(special, "sph_harm_y"):  # SciPy 1.15 on; takes the degree first and the polar angle first
                return special.sph_harm_y(degree, order, y, x).real
            return special.sph_harm(order, degree, x, y).real
        return getattr(special, name)(*first, x, y)

    return value


#: KANbeFair's special functions of two variables, and the range of both: (0, 1) as there, from 0.1 where a function is
#: infinite at 0. Spherical harmonics are sph_harm_<order><degree>, real part, of azimuth x and polar angle y.
SPECIAL: "dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], tuple[float, float]]]" = {
    "ellipkinc": (_special("ellipkinc"), (0.0, 1.0)),
    "ellipeinc": (_special("ellipeinc"), (0.0, 1.0)),
    "jv": (_special("jv"), (0.0, 1.0)),
    "yv": (_special("yv"), (0.1, 1.0)),
    "kv": (_special("kv"), (0.1, 1.0)),
    "iv": (_special("iv"), (0.0, 1.0)),
    **{f"lpmv_{m}": (_special("lpmv", m), (0.0, 1.0)) for m in range(3)},
    **{
        f"sph_harm_{m}{n}": (_special("sph_harm", m, n), (0.0, 1.0))
        for m, n in ((0, 1), (1, 1), (0, 2), (1, 2), (2, 2))
    },
}


def toy_names() -> tuple[str, ...]:
    """Every toy that needs no file."""
    return ("formula", "moons", *SPECIAL, *TABLES)


def make_toy(name: str, options: ToyOptions, say: Callable[[str], None] | None = None) -> ToyData:
    """The toy of that name; with `options.data`, the numeric columns of a file under that name.

    Raises `UnknownNameError`, `ConfigError` or `SourceError`.
    """
    if options.rows < 20:
        raise ConfigError(f"`rows`: expected at least 20, found {options.rows}")
    if options.seed < 0:
        raise ConfigError(f"`seed`: expected a whole number of at least 0, found {options.seed}")
    if options.noise is not None and not 0 <= options.noise < 1e6:
        raise ConfigError(f"`noise`: expected a number of at least 0, found {options.noise}")
    if options.data is not None:
        return _own_table(name, options, say)
    if options.regression:
        raise ConfigError("`regression`: expected with `data`, a file whose labels are numbers; leave it out")
    known = {re.sub("[_-]", "", known): known for known in toy_names()}.get(re.sub("[_-]", "", name))
    if known is None:
        raise UnknownNameError("toy", name, toy_names(), "or give `data=FILE.csv` or .parquet")
    if known != "formula" and (options.expression or options.ranges):
        raise ConfigError(f"`expression` and `ranges`: expected with the toy formula, found {known}; leave them out")
    if known in TABLES:
        return _bundled_table(known, say)
    return _moons(options) if known == "moons" else _function(known, options)


def _function(name: str, options: ToyOptions) -> ToyData:
    import numpy as np

    if name == "formula":
        expression, columns = parse_formula(options.expression or DEFAULT_FORMULA)
        box = _box(options.ranges, columns)
        pole = pole_in(expression, columns, box)
        if pole is not None:
            where = ", ".join(f"{variable}={value:.4g}" for variable, value in pole.items())
            raise SourceError(
                f"formula {expression}: expected a finite real value everywhere in its range, found none at {where}; "
                "change the formula or give another `ranges`"
            )
        value, source = numeric(expression, columns), str(expression)
    else:
        function, both = SPECIAL[name]
        columns, box, source = ("x", "y"), [both, both], f"scipy.special {name}"

        def value(points: "np.ndarray") -> "np.ndarray":
            return function(*points.T)

    rng = np.random.default_rng(options.seed)
    splits = {}
    for split in ("train", "validation"):
        # Values belong to the points as float32 holds them.
        low, high = np.array(box).T
        x = rng.uniform(low, high, (options.rows, len(columns))).astype(np.float32)
        y = value(x.astype(np.float64)) + (options.noise or 0) * rng.normal(size=options.rows)
        if not np.isfinite(y).all() or np.abs(y).max() > _LARGEST:
            raise SourceError(f"{source}: expected values up to {_LARGEST:g}, found larger ones; give another `ranges`")
        splits[split] = (x, y.astype(np.float32))
    if splits["train"][1].std() == 0:
        raise SourceError(f"{source}: expected a value that varies over its range, found a constant")
    return ToyData(own_task(name, None, pair=False), splits, columns, source)


def _box(texts: Sequence[str], columns: Sequence[str]) -> list[tuple[float, float]]:
    """`low,high` and `x=low,high` as a range for each variable; -1 to 1 where nothing is said."""
    found = dict.fromkeys(columns, (-1.0, 1.0))
    for text in texts:
        name, equals, numbers = text.rpartition("=")
        try:
            low, high = map(float, numbers.split(","))
        except ValueError:
            low, high = 0.0, 0.0
        if not -1e12 < low < high < 1e12 or (equals and not name.strip()):
            raise ConfigError(f"`ranges`: expected low,high or variable=low,high, found {shortened(text)}")
        if equals and name.strip() not in found:
            raise UnknownNameError("variable of `ranges`", name.strip(), tuple(columns))
        found |= {name.strip(): (low, high)} if equals else dict.fromkeys(columns, (low, high))
    return list(found.values())


def _moons(options: ToyOptions) -> ToyData:
    import numpy as np
    from sklearn.datasets import make_moons

    noise = 0.1 if options.noise is None else options.noise
    splits = {}
    for place, split in enumerate(("train", "validation")):
        seed = int(np.random.SeedSequence((options.seed, place)).generate_state(1)[0])
        x, y = make_moons(options.rows, noise=noise, random_state=seed)
        splits[split] = (x.astype(np.float32), y.astype(np.int64))
    return ToyData(own_task("moons", ("upper", "lower"), pair=False), splits, ("x", "y"), "scikit-learn moons")


def _bundled_table(name: str, say: Callable[[str], None] | None) -> ToyData:
    import numpy as np
    from sklearn import datasets

    table = getattr(datasets, f"load_{name}")()
    if say:
        say(f"{name}: {DRAWN}")
    labels = None if name == "diabetes" else tuple(str(word) for word in table.target_names)
    x, y = table.data.astype(np.float32), table.target.astype(np.float32 if labels is None else np.int64)
    splits = _parted(x, y, [drawn_split(row.tobytes()) for row in x])
    columns = tuple(re.sub(r"\W+", "_", str(column)).strip("_") for column in table.feature_names)
    return ToyData(own_task(name, labels, pair=False), splits, columns, f"scikit-learn {name}")


def _parted(x: "np.ndarray", y: "np.ndarray", splits: Sequence[str]) -> "dict[str, tuple[np.ndarray, np.ndarray]]":
    import numpy as np

    found = np.array(splits)
    return {split: (x[found == split], y[found == split]) for split in ordered_splits(splits, "splits")}


def _own_table(name: str, options: ToyOptions, say: Callable[[str], None] | None) -> ToyData:
    """The numeric columns of a CSV, JSON lines or Parquet file as features, its label column as labels."""
    import numpy as np

    from pipeline.sources.tables import open_table

    path = options.data
    if path is None:
        raise ConfigError(f"toy {name}: expected a file of your own as `data`, found none")
    table = open_table(path)
    split_column = options.split_column or ("split" if "split" in table.columns else None)
    for column in filter(None, (options.label, split_column)):
        if column not in table.columns:
            raise SourceError(
                f"{path}: expected a column {column!r}, found {shortened(', '.join(table.columns), 300)}; name one of "
                "these with `label` or `split_column`"
            )
    columns = [column for column in table.columns if column not in (options.label, split_column)]
    asked = [*columns, options.label, *([split_column] if split_column else [])]
    kept: dict[str, list[float]] = {column: [] for column in columns}
    labels: list[Any] = []
    splits: list[Any] = []
    dropped: dict[str, str] = {}
    for where, values in table.records(asked):
        for column, value in zip(columns, values, strict=False):
            if column not in dropped:
                number = _number(value)
                if number is None:
                    dropped[column] = f"{where} ({shortened(str(value))})"
                else:
                    kept[column].append(number)
        labels.append(values[len(columns)])
        splits.append(values[-1])
    columns = [column for column in columns if column not in dropped]
    if not columns or not labels:
        first = next(iter(dropped.items()), None)
        found = f"{first[0]!r} has none in {first[1]}" if first else "no rows" if columns else "no other column"
        raise SourceError(f"{path}: expected at least one column of numbers besides {options.label!r}, found {found}")
    if say:
        for column, where in dropped.items():
            say(f"{name}: column {column!r} left out, not a number in {where}")
    x = np.array([kept[column] for column in columns]).T
    names = [split_named(split, f"{path} row {row}") for row, split in enumerate(splits)] if split_column else None
    if options.regression:
        labels = [_target(label, f"{path} row {row}") for row, label in enumerate(labels)]
    task, arrays = labelled_splits(path, name, x, labels, names, say=say, regression=options.regression)
    return ToyData(task, arrays, tuple(columns), path.resolve().name)


def _target(value: object, where: str) -> float:
    """A label as a number; NaN where there is none."""
    if value is None or value == "" or value != value:
        return float("nan")
    number = _number(value)
    if number is None:
        raise SourceError(f"{where}: expected a number as label (`regression=True`), found {shortened(str(value))}")
    return number


def _number(value: Any) -> float | None:
    """A finite number, or `None`."""
    from math import isfinite

    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        return None  # float() would also take 3_14
    try:
        number = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError):
        return None
    return number if isfinite(number) else None
