"""Ranges of an option's values, as people write them: `1e-4:1e-2:log`, `3:10`."""

import math
from dataclasses import dataclass

from pipeline.errors import ConfigError

__all__ = ["Range", "is_range", "parse_range"]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; whole ones are half-open, as seeds are: `3:6` is 3, 4, 5.

    With `log`, a search draws as many from 1 to 10 as from 10 to 100.
    """

    low: float
    high: float
    log: bool
    whole: bool

    def values(self) -> tuple[int, ...] | None:
        """All whole numbers of the range, `None` where there is no end of numbers."""
        return tuple(range(int(self.low), int(self.high))) if self.whole and not self.log else None

    @property
    def first(self) -> float:
        """The lower end."""
        return int(self.low) if self.whole else self.low

    def __str__(self) -> str:
        ends = f"{self.low:.0f}:{self.high:.0f}" if self.whole else f"{self.low:g}:{self.high:g}"
        return ends + (":log" if self.log else "")


def is_range(value: object) -> bool:
    """Whether an option's value is written as a range."""
    return isinstance(value, str) and ":" in value


def parse_range(name: str, text: str, *, whole: bool) -> Range:
    """The range that `text` says. Raises `ConfigError` that shows good ones."""
    low, _, rest = text.partition(":")
    high, _, kind = rest.partition(":")
    try:
        number = int if whole else float
        found = Range(number(low), number(high), kind.strip() == "log", whole)
        fits = kind.strip() in ("", "log") and text.count(":") <= 2
    except ValueError:
        fits = False
    if (
        not fits
        or not (math.isfinite(found.low) and found.low < found.high < math.inf)
        or (found.log and found.low <= 0)
    ):
        good = "3:10 or 16:257:log (half-open)" if whole else "0:0.1 or 1e-4:1e-2:log"
        raise ConfigError(f"`{name}`: expected values or a range such as {good}, found {text!r}")
    return found
