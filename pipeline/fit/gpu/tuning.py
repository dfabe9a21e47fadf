"""How the kernels cut up their work: chosen from the shapes, as measured on an H100 (benchmarks/heads_gpu.md)."""

from dataclasses import dataclass

import triton

from pipeline.errors import ConfigError
from pipeline.heads.network import NetworkSpec

__all__ = ["Tuning", "padded_rows", "row_stride"]

#: Up to this many rows, products are sums over rows on the ordinary units; above, they go to the matrix units.
FEW_ROWS = 4

#: What replaces the usual choices in first layers behind a layer norm, by the rows of a minibatch.
NORMED = {
    16: {"norm_tile": 32, "norm_stages": 2},
    32: {"norm_tile": 64, "norm_stages": 2},
    64: {"norm_tile": 64, "norm_stages": 2, "tile": 32, "stages": 3},
}
#: The same in those of more than 64 outputs.
WIDE = {64: {"norm_tile": 32, "norm_stages": 2}}
#: The same in narrow ones.
NARROW = {
    16: {"norm_tile": 64, "norm_stages": 2, "splits": 6, "warps": 2, "norm_warps": 2, "stages": 5, "registers": 128},
    32: {"norm_tile": 32, "norm_stages": 2, "splits": 6, "warps": 2, "norm_warps": 2, "registers": 168},
    64: {"norm_tile": 64, "norm_stages": 2, "splits": 6, "registers": 128},
}


@dataclass(frozen=True)
class Tuning:
    """Sizes of tiles and numbers of programs; buffers are laid out by them, so they never change afterwards.

    `tile` is a tile's inputs, `splits` the programs of a head's first layer, `warps` and `stages` Triton's, for the
    first layer, its norm, the kernels between (middle) and heads on the chip (small); `registers` bound those of the
    first layer's threads; `parts` divide the pack into streams of their own; `precision` is that of products on the
    matrix units, where with `tf32x3` factors are sums of two halves, TF32's or for the first layer's gradients
    float16's; with `table`, Gram matrices are looked up among the products of all rows, where these fit.
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
    registers: int | None = None
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
        if self.registers is not None and not 24 <= self.registers <= 255:
            raise ConfigError(f"tuning: expected 24 to 255 registers, found {self.registers}")
        if self.precision not in ("tf32", "tf32x3", "ieee"):
            raise ConfigError(f"tuning: expected precision tf32, tf32x3 or ieee, found {self.precision!r}")

    @classmethod
    def chosen(cls, network: NetworkSpec, rows: int, heads: int) -> "Tuning":
        """The measured choice for minibatches padded to `rows`."""
        first = network.layers[0]
        normed = any(network.layers[chain[0]].normed for chain in network.chains)
        sizes = {"tile": 8, "norm_tile": 8, "splits": 8}
        if rows >= 16:
            sizes = {"tile": 16, "norm_tile": 16 if normed else 32, "splits": 4, "stages": 4}
            if first.outputs > 96 or (first.outputs > 64 and rows > 64):
                # The weights' tiles of two programs would not fit side by side.
                sizes["stages"] = 3
        if narrow(network):
            sizes |= NARROW.get(rows, {})
        elif normed:
            sizes |= (NORMED if first.outputs <= 64 else WIDE).get(rows, {})
        sizes["splits"] = max(1, min(sizes["splits"], -(-first.inputs // sizes["tile"])))
        return cls(parts=2 if heads >= 64 else 1, **sizes)


def narrow(network: NetworkSpec) -> bool:
    """Whether first layers behind a layer norm have few outputs: then their bases cost more than their products."""
    firsts = [network.layers[chain[0]] for chain in network.chains]
    return len(network.chains[0]) == 2 and firsts[0].outputs <= 32 and any(first.normed for first in firsts)


def padded_rows(network: NetworkSpec, batch_size: int) -> int:
    """Rows of a minibatch as the kernels see them: a few as they are, else a power of two of at least 16.

    Few rows' bases are evaluated anew for every other output, which in narrow layers costs more than rows of nothing.
    """
    if batch_size <= FEW_ROWS and not narrow(network):
        return batch_size if batch_size & (batch_size - 1) == 0 else 4
    return max(16, triton.next_power_of_2(batch_size))


def row_stride(width: int) -> int:
    """Numbers from one row of weights to the next: whole vectors of memory where that adds an eighth at most.

    Rows of 22 numbers would begin in the middle of a sector, and vectors of two would be all that loads can take.
    """
    for whole in (8, 4):
        stride = -(-width // whole) * whole
        if stride * 8 <= width * 9:
            return stride
    return width
