"""Small kernels that show what the noise of `kernels/sample/triton_noise.py` is, before it is added to anything."""

# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsespec.kernels.sample.triton_blocks import _tokens
from sparsespec.kernels.sample.triton_noise import gumbel, most_gumbel, noise_bits, quick_gumbel


@triton.jit
def _show_bits(seeds, words, out, start, n_rows, N: tl.constexpr):
    row = tl.program_id(0)
    sample_index, position = tl.load(words + row), tl.load(words + n_rows - 1 - row)
    tag = tl.load(words + (row + n_rows - 1) % n_rows)
    bits = noise_bits(tl.load(seeds + row), sample_index, position, tag, start, N // 4)
    tl.store(out + row * N + _tokens(0, N // 4), bits.to(tl.int64))


@triton.jit
def _show_noise(bits, exact, quick, most, n, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    some = tl.load(bits + at, mask=at < n, other=0).to(tl.uint32)
    tl.store(exact + at, gumbel(some), mask=at < n)
    tl.store(quick + at, quick_gumbel(some), mask=at < n)
    tl.store(most + at, most_gumbel(some), mask=at < n)


def bits(seeds: Tensor, words: Tensor, start: int, n: int) -> Tensor:
    """Return the bits [R, n] from token `start` on; row r's key has `words` at r, at its mirror and before r."""
    out = torch.empty((len(seeds), n), dtype=torch.int64, device=seeds.device)
    _show_bits[(len(seeds),)](seeds, words, out, start, len(seeds), N=n)
    return out


def noise(bits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the noise of `bits`, the quick one, and the bound."""
    exact, quick, most = torch.empty((3, len(bits)), dtype=torch.float32, device=bits.device)
    _show_noise[(-(-len(bits) // 1024),)](bits, exact, quick, most, len(bits), N=1024)
    return exact, quick, most
