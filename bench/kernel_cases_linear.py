"""The products of a decoder as cases of `bench.kernels`, beside cuBLAS in the same run.

The weights of a model's layers are read one behind the other, so calls rotate over several of them.

    python -m bench.kernel_cases_linear [--weight o] [--tokens 64]

times other tiles than those that `linear` takes, fastest first, with cuBLAS's time; all must give the same bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.kernel_cases import CLOSE, Ready, Shape, error
from bench.timing import buffers_for, time_calls
from sparsespec.kernels.linear.api import linear

QWEN3_8B = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate-up": (24576, 4096),
    "down": (4096, 12288),
    "head": (151936, 4096),
}
"""Rows and columns of each weight."""
TOKENS = (64, 128, 256, 2048)
SHARED_BYTES = 220 * 1024
"""Shared memory of a program, at most."""


@dataclass(frozen=True)
class Product:
    """`tokens` rows by a weight `[out, inner]`, bf16."""

    tokens: int
    out: int
    inner: int

    def __call__(self, _: Shape) -> Ready:
        """Allocate rows and weights."""
        n_bytes = 2 * (self.out * self.inner + self.tokens * (self.inner + self.out))
        sets = self.inputs()
        calls = [partial(linear, x, weight, impl="triton") for x, weight in sets]

        def wrong() -> str:
            x, weight = sets[0]
            rows = slice(0, None, max(1, self.tokens // 64))
            e = error(calls[0]()[rows], F.linear(x[rows].double(), weight.double()))
            return "" if e < CLOSE else f"out errs by {e:.2g}"

        cublas = lambda: [partial(F.linear, x, weight) for x, weight in sets]  # noqa: E731
        return Ready(calls, n_bytes, wrong, {"cuBLAS": cublas}, lambda got: error(got, calls[0]().double()) < CLOSE)

    def inputs(self) -> list[tuple[Tensor, Tensor]]:
        """Return rows and a weight, as often as the weights exceed the L2 cache."""
        real = partial(torch.randn, device="cuda", dtype=torch.bfloat16)
        n_sets = buffers_for(2 * self.out * self.inner)
        return [(real(self.tokens, self.inner), real(self.out, self.inner)) for _ in range(n_sets)]


def settings(case: Product, tiling: Any) -> Iterator[Any]:
    """Yield tiles that fit the registers and the shared memory of a Hopper GPU."""
    heights = (64,) if case.tokens <= 64 else (64, 128, 256)
    for height, width, warps, stages in product(heights, (64, 128, 256), (4, 8), (3, 4, 6, 8, 12)):
        held = height * width // (32 * warps)  # numbers of the sum that a thread holds
        if 16 <= held <= 128 and (height + width) * 128 * stages <= SHARED_BYTES:
            yield tiling.Tiles(height, width, warps, stages)


def sweep(case: Product) -> list[tuple[float, str]]:
    """Return the microseconds of each setting that runs and of cuBLAS, the fastest first; raises if bits differ."""
    from sparsespec.kernels.linear import triton, triton_tiles

    sets = case.inputs()
    taken = triton_tiles.tiles_for(case.tokens, case.out, 2)
    want = triton.product(*sets[0], None, taken)
    found = [(time_calls([partial(F.linear, *one) for one in sets]).p50, "cuBLAS")]
    for tiles in dict.fromkeys((taken, *settings(case, triton_tiles))):
        try:
            got = triton.product(*sets[0], None, tiles)
        except Exception as error:  # a setting that the compiler or the device refuses is only left out
            print(f"left out {tiles}: {type(error).__name__}")
            continue
        assert torch.equal(got, want), f"{tiles} gives other bits than {taken}"
        name = f"{tiles}{', which is taken' if tiles == taken else ''}"
        found.append((time_calls([partial(triton.product, *one, None, tiles) for one in sets]).p50, name))
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.kernel_cases_linear", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weight", choices=QWEN3_8B, help="only this weight")
    parser.add_argument("--tokens", type=int, help="only this number of rows")
    parser.add_argument("--best", type=int, default=6, help="how many settings to print")
    args = parser.parse_args()
    for name, tokens in product([args.weight] if args.weight else QWEN3_8B, [args.tokens] if args.tokens else TOKENS):
        found = sweep(Product(tokens, *QWEN3_8B[name]))
        print(f"{name}, {tokens} tokens")
        for i, (micros, what) in enumerate(found):
            if i < args.best or "cuBLAS" in what or "taken" in what:
                print(f"  {micros:8.1f} µs  {what}")


if __name__ == "__main__":
    main()
