"""Widths that give every family the same budget: parameters, or FLOPs of one row forward.

A matched width goes into the head's configuration, so that its name and its results say what was trained.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from pipeline.errors import ConfigError, UnknownNameError, UnmatchedError
from pipeline.heads.config import HeadConfig
from pipeline.heads.cost import forward_flops, parameters
from pipeline.heads.families import FAMILIES, build_network
from pipeline.heads.kanbefair import PUBLISHED, published_cost

__all__ = ["COSTS", "MATCHES", "TOLERANCE", "Match", "Matching", "cost_of", "describe", "fit_widths"]

MATCHES = {"params": "parameters", "flops": "FLOPs a row"}
COSTS = ("counted", "kanbefair")
#: How far a matched head may stand from the budget.
TOLERANCE = 0.02
#: No hidden layer grows beyond this; a budget that needs more is a slip of the pen.
WIDEST = 1 << 16
#: Training decides no shape: heads that differ in nothing else get the same widths.
SAME = {"seed": 0, "epochs": 1, "batch_size": 1, "lr": 0.0, "weight_decay": 0.0, "clip": 0.0}
#: Larger widths of a family that cannot reach a budget, tried to name a budget that all can.
SUGGESTIONS = 64


@dataclass(frozen=True)
class Match:
    """One family's size: what was chosen, what it costs in the measure asked for, and how far from the budget that is.

    `options` are the other options that decide its shape. `hidden` is `None`, and `deviation` with it, where there is
    no width to choose (`linear`, or no hidden layer).
    """

    head: str
    inputs: int
    outputs: int
    options: tuple[tuple[str, Any], ...]
    measure: str
    budget: int | None
    hidden: tuple[int, ...] | None
    cost: int
    deviation: float | None

    @property
    def missed(self) -> bool:
        """Whether no width comes near enough to the budget."""
        return self.deviation is not None and abs(self.deviation) > TOLERANCE

    def document(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {
            "options": dict(self.options),
            "hidden": None if self.hidden is None else list(self.hidden),
        }


def cost_of(config: HeadConfig, inputs: int, outputs: int, match: str, cost: str = "counted") -> int | None:
    """A head's parameters (`params`) or forward FLOPs (`flops`), counted or as KANbeFair publishes them.

    `None` where KANbeFair has no formula.
    """
    if cost == "kanbefair":
        published = published_cost(config, inputs, outputs)
        return None if published is None else published.parameters if match == "params" else published.flops
    network = build_network(config, inputs, outputs)
    return parameters(network) if match == "params" else forward_flops(network)


def _scaled(hidden: Sequence[int], scale: float) -> tuple[int, ...]:
    return tuple(max(1, round(width * scale)) for width in hidden)


def fit_widths(hidden: Sequence[int], budget: int, cost: Callable[[tuple[int, ...]], int]) -> tuple[int, ...]:
    """The widths in proportion to `hidden` whose `cost(widths)` comes nearest to the budget.

    The cost must not fall as a width grows. Rounding makes layers grow at different moments; where several would grow
    at once, they grow one after the other, first layer first. Ties go to the smaller head.
    """
    low, high = 0.0, 1.0
    while cost(_scaled(hidden, high)) < budget and max(hidden) * high < WIDEST:
        low, high = high, 2 * high
    # The scale where the budget is passed: between two widths of one layer, or where several layers grow at once.
    for _ in range(64):
        if sum(_scaled(hidden, high)) - sum(_scaled(hidden, low)) <= 1:
            break
        middle = (low + high) / 2
        low, high = (middle, high) if cost(_scaled(hidden, middle)) <= budget else (low, middle)
    before, after = _scaled(hidden, low), _scaled(hidden, high)
    between = [(*after[:layer], *before[layer:]) for layer in range(len(hidden) + 1)]
    return min(between, key=lambda widths: abs(cost(widths) - budget))


@lru_cache(maxsize=4096)
def _fitted(
    shape: HeadConfig, budget: int, inputs: int, outputs: int, match: str, cost: str
) -> tuple[tuple[int, ...], int]:
    """The widths of a shape, and their cost; searches and lists of learning rates ask for the same again and again."""

    def cost_at(hidden: tuple[int, ...]) -> int:
        return cost_of(replace(shape, hidden=hidden), inputs, outputs, match, cost)

    widths = fit_widths(shape.hidden, budget, cost_at)
    return widths, cost_at(widths)


class Matching:
    """Sizes heads, whatever their family, to one budget for each shape of features and classes."""

    def __init__(self, match: str = "none", budget: int | None = None, cost: str = "counted") -> None:
        """`match` is params, flops or none; without a `budget`, a reference head's cost is the budget.

        Raises `UnknownNameError` or `ConfigError` for what cannot be.
        """
        if match not in (*MATCHES, "none"):
            raise UnknownNameError("`match`", match, (*MATCHES, "none"))
        if cost not in COSTS:
            raise UnknownNameError("`cost`", cost, COSTS)
        if match == "none" and (budget is not None or cost != COSTS[0]):
            given = f"`cost` {cost}" if budget is None else f"`budget` {budget}"
            raise ConfigError(f"{given}: expected `match='params'` or `match='flops'` with it, found `match='none'`")
        if budget is not None and budget < 1:
            raise ConfigError(f"`budget`: expected at least 1, found {budget}")
        self.match, self.budget, self.cost = match, budget, cost

    def size(
        self, shapes: Sequence[HeadConfig], references: Sequence[HeadConfig | None], inputs: int, outputs: int
    ) -> list[tuple[HeadConfig, Match]]:
        """Every configuration with its widths scaled to the budget, and what was chosen for it.

        `references` has a head for each configuration, whose cost is the budget where none is given; without a budget
        and a reference, a configuration stays as it is. Raises `UnmatchedError` for a budget that a family's widths do
        not come near, and `ConfigError` for a family that KANbeFair has no formula for where its counts are asked for.
        """
        sized = [
            self._size(shape, self._budget(reference, inputs, outputs), inputs, outputs)
            for shape, reference in zip(shapes, references, strict=True)
        ]
        missed = [one for _, one in sized if one.missed]
        if missed:
            worst, shape = max(
                ((one, shape) for shape, (_, one) in zip(shapes, sized, strict=True) if one.missed),
                key=lambda pair: abs(pair[0].deviation),
            )
            found = "; ".join(
                f"{one.head}: {_widths(one.hidden)} has {one.cost:,} ({one.deviation:+.1%})"
                for one in {one.head: one for one in reversed(missed)}.values()
            )
            budget = self._reached_by_all(shapes, shape, worst.hidden, inputs, outputs)
            remedy = f"all reach `budget` {budget}" if budget else "change `budget` or `hidden`"
            raise UnmatchedError(
                f"`match` {self.match}: expected widths within {TOLERANCE:.0%} of {missed[0].budget:,} "
                f"{MATCHES[self.match]} at {inputs} features and {outputs} outputs, found as the nearest {found}; "
                f"{remedy}, or leave {' and '.join(dict.fromkeys(one.head for one in missed))} out"
            )
        return sized

    def _budget(self, reference: HeadConfig | None, inputs: int, outputs: int) -> int | None:
        if self.budget is not None or reference is None:
            return self.budget
        return self._cost(reference, inputs, outputs)

    def _size(self, config: HeadConfig, budget: int | None, inputs: int, outputs: int) -> tuple[HeadConfig, Match]:
        options = tuple((name, getattr(config, name)) for name in FAMILIES[config.head].options if name != "hidden")
        place = (config.head, inputs, outputs, options, self.match, budget)
        found = self._cost(config, inputs, outputs)  # raises where there is no formula
        if not config.hidden or budget is None:
            return config, Match(*place, None, found, None)
        widths, found = _fitted(replace(config, **SAME), budget, inputs, outputs, self.match, self.cost)
        return replace(config, hidden=widths), Match(*place, widths, found, found / budget - 1)

    def _reached_by_all(
        self, shapes: Sequence[HeadConfig], worst: HeadConfig, hidden: tuple[int, ...], inputs: int, outputs: int
    ) -> int | None:
        """A larger budget that every family's widths come near, if one is found soon: `worst`'s, from `hidden` up."""
        for step in range(SUGGESTIONS):
            widths = _scaled(hidden, 1 + step / max(hidden))
            budget = self._cost(replace(worst, hidden=widths), inputs, outputs)
            if all(not self._size(one, budget, inputs, outputs)[1].missed for one in shapes):
                return budget
        return None

    def _cost(self, config: HeadConfig, inputs: int, outputs: int) -> int:
        found = cost_of(config, inputs, outputs, self.match, self.cost)
        if found is None:
            raise ConfigError(
                f"`cost` {self.cost}: expected families that it has formulas for ({', '.join(PUBLISHED)}, without "
                f"`layer_norm=True`), found {config.head}; leave it out, or match by `cost` {COSTS[0]}"
            )
        return found


def _widths(hidden: Sequence[int] | None) -> str:
    return "hidden " + ",".join(map(str, hidden)) if hidden else "no hidden layer"


def describe(matches: Iterable[Match]) -> list[str]:
    """What was chosen, a line for each head and shape of features; options are named where two lines differ in them."""
    matches = list(matches)
    values: dict[tuple[str, str], set[Any]] = {}
    for one in matches:
        for name, value in one.options:
            values.setdefault((one.head, name), set()).add(value)
    lines = []
    for one in matches:
        variant = "".join(f" {name}={value}" for name, value in one.options if len(values[one.head, name]) > 1)
        state = "has no width to match" if one.deviation is None else f"{one.deviation:+.2%} of {one.budget:,}"
        lines.append(
            f"{one.inputs} features, {one.outputs} outputs: {one.head}{variant}: {_widths(one.hidden)}, "
            f"{one.cost:,} {MATCHES[one.measure]} ({state})"
        )
    return lines
