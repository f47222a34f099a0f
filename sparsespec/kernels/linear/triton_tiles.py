"""Which tiles the Triton `linear` takes: what may follow from the number of rows, and what may not.

`BLOCK_K` and `splits_of` are part of the result: they say in which order numbers are added, and know the weight only.
`tiles_for` is a matter of speed. Its settings are reckoned for a GPU of some 130 multiprocessors with 227 KiB of
shared memory, and not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_K = {2: 64, 4: 32}
"""Numbers of the inner width in a step, by bytes of a number."""
PROGRAMS = 132
"""Programs that keep the GPU busy."""
FULL = 0.8
"""Share of the GPU that tiles of the largest size must keep busy, in the mean over their rounds."""
FEW = 0.7
"""Share of the GPU below which tiles are halved."""
SPAN = 2048
"""Numbers of the inner width that are worth a program of their own."""
MOST_SPLITS = 4


@dataclass(frozen=True, slots=True)
class Tiles:
    """Settings of a launch, none of which changes a bit.

    Attributes:
        height: Rows of x in a tile.
        width: Rows of the weight in a tile.
        warps: Warps of a program.
        stages: Blocks of both operands on their way at once.
        group: Tiles above one another that programs side by side take.
        spread: Whether each span of the inner width gets a program of its own, where there are several.
        parked: Where one program does all spans: whether their sum waits in memory while the next is made, because the
            registers hold no two of them.
    """

    height: int
    width: int
    warps: int
    stages: int
    group: int = 16
    spread: bool = False
    parked: bool = False


def splits_of(n: int, k: int) -> int:
    """Return into how many spans the inner width k is cut, where the weight has n rows; no other size counts."""
    columns = -(-n // 128)
    splits = MOST_SPLITS
    while splits > 1 and (k < splits * SPAN or columns * splits > PROGRAMS):
        splits //= 2
    return splits


def tiles_for(m: int, n: int, k: int, itemsize: int) -> Tiles:
    """Return the tiles for m rows by a weight [n, k] of numbers of `itemsize` bytes."""
    splits = splits_of(n, k)
    if itemsize == 4:
        # no tensor cores: registers bound the tile
        return Tiles(64, 64, 8, 2, spread=splits > 1 and _count(m, n, 64, 64) < PROGRAMS)
    wide = _count(m, n, 128, 256)
    if m > 128 and wide >= FULL * PROGRAMS * -(-wide // PROGRAMS):
        return Tiles(128, 256, 8, 4, parked=splits > 1)
    # reading the weight is most of the time, by as many programs as will have a part of it
    height, warps = (64, 4) if m <= 64 else (128, 8)
    tiles = _count(m, n, height, 128)
    spread = splits > 1 and tiles < FULL * PROGRAMS
    if tiles * (splits if spread else 1) < FEW * PROGRAMS:
        return Tiles(height, 64, 4, 5, spread=spread)
    # two sums leave registers for one program of eight warps, which may as well have the shared memory
    stages = 4 if height == 64 else 5 if splits > 1 and not spread else 3
    return Tiles(height, 128, warps, stages, spread=spread)


def _count(m: int, n: int, height: int, width: int) -> int:
    """Return the number of tiles."""
    return -(-m // height) * -(-n // width)
