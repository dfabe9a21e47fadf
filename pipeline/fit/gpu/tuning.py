"""How the kernels cut up their work: chosen from the shapes, as measured on an H100 (benchmarks/heads_gpu.md)."""

from dataclasses import dataclass

import triton

from pipeline.errors import ConfigError
from pipeline.heads.network import NetworkSpec

__all__ = ["FEW_ROWS", "Tuning"]

#: Up to this many rows, products are sums over rows on the ordinary units; above, they go to the matrix units.
FEW_ROWS = 4


@dataclass(frozen=True)
class Tuning:
    """Sizes of tiles and numbers of programs; buffers are laid out by them, so they never change afterwards.

    `tile` is a tile's inputs, `splits` the programs of a head's first layer, `warps` and `stages` Triton's, for the
    first layer, its norm, the kernels between (middle) and heads on the chip (small); `parts` divide the pack into
    streams of their own; `precision` is that of products on the matrix units (`tl.dot`); with `table`, Gram matrices
    are looked up among the products of all rows, where these fit.
    """

    tile: int
    splits: int
    warps: int = 4
    stages: int = 3
    norm_tile: int = 16
    norm_warps: int = 4
    norm_stages: int = 3
    middle_warps: int = 4
    small_warps: int = 4
    parts: int = 2
    precision: str = "tf32x3"
    table: bool = True

    def __post_init__(self) -> None:
        for name in ("tile", "norm_tile", "warps", "norm_warps", "middle_warps", "small_warps"):
            size = getattr(self, name)
            if size < 1 or size & (size - 1):
                raise ConfigError(f"tuning: expected {name} to be a power of two, found {size}")
        for name in ("splits", "stages", "norm_stages", "parts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"tuning: expected {name} of at least 1, found {getattr(self, name)}")
        if self.precision not in ("tf32", "tf32x3", "ieee"):
            raise ConfigError(f"tuning: expected precision tf32, tf32x3 or ieee, found {self.precision!r}")

    @classmethod
    def chosen(cls, network: NetworkSpec, rows: int, heads: int) -> "Tuning":
        """The measured choice for minibatches padded to `rows`."""
        few = rows < 16
        tile = 8 if few else 16
        first = network.layers[0]
        tiles = -(-first.inputs // tile)
        return cls(
            tile=tile, splits=max(1, min(8 if few else 4, tiles)), norm_tile=8 if few else 16 if first.normed else 32,
            parts=2 if heads >= 64 else 1
        )  # fmt: skip


def padded_rows(batch_size: int) -> int:
    """Rows of a minibatch as the kernels see them: a few as they are, else a power of two of at least 16."""
    if batch_size <= FEW_ROWS:
        return batch_size if batch_size & (batch_size - 1) == 0 else 4
    return max(16, triton.next_power_of_2(batch_size))
