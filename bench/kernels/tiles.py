"""How fast is `linear` with other tiles than those that it takes? Fastest first, with cuBLAS's time.

    python -m bench.kernels.tiles [--weight o] [--tokens 64]

All tiles must give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from bench.kernels.case import DEVICE
from bench.kernels.table import TOKENS, WEIGHTS
from sparsespec.benchmarks.report import Parser, count, exit_with
from sparsespec.benchmarks.timing import buffers_for, time_calls
from sparsespec.testing.ops.rows import LINEAR

SHARED_BYTES = 220 * 1024
"""Shared memory of a program, at most."""


def settings(tokens: int, tiling: Any) -> Iterator[Any]:
    """Yield tiles that fit the registers and the shared memory of a Hopper GPU."""
    heights = (64,) if tokens <= 64 else (64, 128, 256)
    for height, width, warps, stages in product(heights, (64, 128, 256), (4, 8), (3, 4, 6, 8, 12)):
        held = height * width // (32 * warps)  # numbers of the sum that a thread holds
        if 16 <= held <= 128 and (height + width) * 128 * stages <= SHARED_BYTES:
            yield tiling.Tiles(height, width, warps, stages)


def sweep(weight: str, tokens: int) -> list[tuple[float, str]]:
    """Return the microseconds of each setting that runs and of cuBLAS, the fastest first; raises if bits differ."""
    from sparsespec.kernels.linear import triton, triton_tiles

    n, k = WEIGHTS[weight]
    seeds = range(buffers_for(2 * n * k))
    made = [LINEAR.make(seed, m=tokens, n=n, k=k, dtype=torch.bfloat16, device=DEVICE) for seed in seeds]
    sets = [(args["x"], args["weight"]) for args in made]
    taken = triton_tiles.tiles_for(tokens, n, 2)
    want = triton.product(*sets[0], None, taken)
    found = [(time_calls([partial(F.linear, *one) for one in sets]).p50, "cuBLAS")]
    for tiles in dict.fromkeys((taken, *settings(tokens, triton_tiles))):
        try:
            got = triton.product(*sets[0], None, tiles)
        except Exception as error:  # a setting that the compiler or the device refuses is only left out
            print(f"left out {tiles}: {type(error).__name__}")
            continue
        assert torch.equal(got, want), f"{tiles} gives other bits than {taken}"
        name = f"{tiles}{', which is taken' if tiles == taken else ''}"
        found.append((time_calls([partial(triton.product, *one, None, tiles) for one in sets]).p50, name))
    return sorted(found)


def main() -> int:
    parser = Parser(prog="bench.kernels.tiles", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weight", choices=WEIGHTS, help="only this weight")
    parser.add_argument("--tokens", type=count, help="only this number of rows")
    parser.add_argument("--best", type=count, default=6, help="how many settings to print")
    args = parser.parse_args()
    for name, tokens in product([args.weight] if args.weight else WEIGHTS, [args.tokens] if args.tokens else TOKENS):
        print(f"{name}, {tokens} tokens")
        for i, (micros, what) in enumerate(sweep(name, tokens)):
            if i < args.best or "cuBLAS" in what or "taken" in what:
                print(f"  {micros:8.1f} µs  {what}")
    return 0


if __name__ == "__main__":
    exit_with(main)
