"""Which tiles the Triton `linear` takes: a matter of speed alone, so it may follow the number of rows.

Measured on an H100 with the weights of Qwen3-8B (`bench.kernels.tiles`).
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_K = {2: 64, 4: 32}
"""Numbers of the inner width in a step, by bytes of a number; in float32 a step is a sum of its own."""
PROGRAMS = 132
"""Programs that the GPU runs at once, if each takes most of a multiprocessor's shared memory."""
FULL = 0.8
"""Share of the GPU that the largest tiles must keep busy, in the mean over their rounds."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Settings of a launch, none of which changes a bit.

    Attributes:
        height: Rows of x in a tile.
        width: Rows of the weight in a tile.
        warps: Warps of a program.
        stages: Blocks of both operands on their way at once.
        group: Tiles above one another that programs side by side take.
    """

    height: int
    width: int
    warps: int
    stages: int
    group: int = 16


def tiles_for(m: int, n: int, itemsize: int) -> Tiles:
    """Return the tiles for m rows by a weight of n rows, of numbers of `itemsize` bytes."""
    if itemsize == 4:
        # no tensor cores: registers bound the tile
        return Tiles(64, 64, 8, 2)
    largest = _count(m, n, 256, 128)
    if m > 128 and largest > FULL * PROGRAMS * -(-largest // PROGRAMS):
        return Tiles(256, 128, 8, 4)
    if m <= 64 and _count(m, n, 64, 64) <= PROGRAMS:
        return Tiles(64, 64, 4, 8)
    if m <= 128 or _count(m, n, 64, 128) <= PROGRAMS:
        return Tiles(64, 128, 4, 8)
    return Tiles(128, 128, 4, 6)


def _count(m: int, n: int, height: int, width: int) -> int:
    """Return the number of tiles."""
    return -(-m // height) * -(-n // width)
