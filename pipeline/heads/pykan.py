"""The shape of pykan's network: what a `kan` head holds, without PyTorch.

Each edge from input i to output j of a layer is `mask * (scale_base * silu(x) + scale_sp * sum_k coef_k B_k(x))` with
B-splines on knots of its own input (arXiv 2404.19756; pykan's `KANLayer`).
"""

import itertools
import math
from dataclasses import dataclass

from pipeline.errors import ConfigError

__all__ = ["LARGEST_WIDTH", "PykanNetwork"]

#: pykan evaluates, plots and names every edge by itself: beyond this many inputs that is neither quick nor readable.
LARGEST_WIDTH = 16


@dataclass(frozen=True)
class PykanNetwork:
    """Widths of all layers, inputs first, with `intervals` and `order` of the splines.

    It stands where a `NetworkSpec` stands for the other families, and has no packable layers.
    """

    widths: tuple[int, ...]
    intervals: int
    order: int

    layers = ()

    @classmethod
    def checked(cls, widths: tuple[int, ...], intervals: int, order: int) -> "PykanNetwork":
        """A network of at most `LARGEST_WIDTH` inputs; raises `ConfigError` for more."""
        if widths[0] > LARGEST_WIDTH:
            raise ConfigError(
                f"head 'kan': expected features at most {LARGEST_WIDTH} wide, found {widths[0]}; use "
                "`features='reduced'` (embed.py run --reduce-size sets its width), or explain another family's head: "
                "it is pruned first"
            )
        return cls(widths, intervals, order)

    @property
    def inputs(self) -> int:
        """Width of the features that the head reads."""
        return self.widths[0]

    @property
    def outputs(self) -> int:
        """Classes, or 1 for regression."""
        return self.widths[-1]

    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every trained tensor: coefficients [in, out, intervals + order], scales [in, out]."""
        found: dict[str, tuple[int, ...]] = {}
        for index, (before, after) in enumerate(itertools.pairwise(self.widths)):
            found[f"layers.{index}.coef"] = (before, after, self.intervals + self.order)
            found |= {f"layers.{index}.{name}": (before, after) for name in ("scale_base", "scale_sp")}
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor: the trained ones, knots [in, intervals + 2 order + 1] and masks [in, out]."""
        found = self.trained_shapes()
        for index, (before, after) in enumerate(itertools.pairwise(self.widths)):
            found[f"layers.{index}.grid"] = (before, self.intervals + 2 * self.order + 1)
            found[f"layers.{index}.mask"] = (before, after)
        return found

    def buffers(self) -> dict[str, tuple[int, ...]]:
        """None: `shapes` has all that is stored."""
        return {}

    @property
    def parameters(self) -> int:
        """Trained parameters."""
        return sum(math.prod(shape) for shape in self.trained_shapes().values())

    @property
    def product_flops(self) -> int:
        """The matrix products among `flops`, as a profiler counts pykan's own: coefficients times splines."""
        return sum(
            2 * before * after * (self.intervals + self.order) for before, after in itertools.pairwise(self.widths)
        )

    @property
    def flops(self) -> int:
        """Floating-point operations of one row's forward pass.

        An input costs its silu (4) and its splines by Cox-de Boor (two comparisons at order 0, then eight operations
        for each function of each order); an edge two for each of its weights.
        """
        total = 0
        for before, after in itertools.pairwise(self.widths):
            functions = [self.intervals + 2 * self.order - degree for degree in range(self.order + 1)]
            splines = 2 * functions[0] + 8 * sum(functions[1:])
            total += before * (4 + splines) + 2 * before * after * (self.intervals + self.order + 1)
        return total
