"""Grids that grow during training: `--grid 5,10,20 --grid-epochs 10,5,5` as options and as stages."""

import itertools
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.heads.config import HeadConfig

__all__ = ["scheduled", "stages"]


def scheduled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a list of grids as `grid` (the last), `earlier_grids`, `grid_epochs` and their sum, `epochs`.

    Raises `ConfigError` for lists of unequal lengths, grids that do not grow, or epochs that are not the sum.
    """
    found = dict(options)
    grid, epochs = found.get("grid"), found.pop("grid_epochs", None)
    if not isinstance(grid, list | tuple):
        if epochs is None:
            return found
        grid = (grid,)
    epochs = tuple(epochs) if isinstance(epochs, list | tuple) else (epochs,)
    whole = [isinstance(one, int) and not isinstance(one, bool) and one >= 1 for one in (*grid, *epochs)]
    if len(grid) != len(epochs) or not all(whole):
        raise ConfigError(
            f"`grid_epochs`: expected epochs, at least 1, for each grid of `grid` {_text(grid)}, found {_text(epochs)}"
        )
    if any(later <= before for before, later in itertools.pairwise(grid)):
        raise ConfigError(f"`grid`: expected numbers of intervals that grow, found {_text(grid)}")
    if found.get("epochs") not in (None, sum(epochs)):
        raise ConfigError(
            f"`epochs`: expected the sum of `grid_epochs`, {sum(epochs)}, found {found['epochs']}; leave it out"
        )
    found |= {"grid": grid[-1], "epochs": sum(epochs)}
    return found | ({"earlier_grids": tuple(grid[:-1]), "grid_epochs": epochs} if len(grid) > 1 else {})


def _text(values: tuple[Any, ...]) -> str:
    return ",".join("none" if value is None else str(value) for value in values)


def stages(config: HeadConfig) -> dict[int, int]:
    """Intervals by the epoch, from 0, before which a head's grid takes them."""
    grids = (*(config.earlier_grids or ()), config.grid)
    starts = itertools.accumulate((0, *(config.grid_epochs or ())[:-1]))
    return dict(zip(starts, grids, strict=True))
