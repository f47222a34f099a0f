"""The only randomness there is: Philox4x32-10 as a function of (seed, sample, position, tag, token), on tensors.

Nothing here has state. The key of a block is the 64-bit seed, its counter is (token // 4, position, sample, tag), and
token t takes word t % 4; so a token's noise depends on what it is noise for, never on the batch it is computed in.
Words of 32 bits live in int64 tensors, where products wrap modulo 2**64 and masks bring back the low half.
Generator: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsespec.core.seeds import MASK32, MULTIPLIERS, ROUNDS, WEYL

NOISE_LOW, NOISE_HIGH = -2.82, 22.88
"""Bounds of all noise: -log(-log1p(-u)) for u in [2**-33, 1 - 2**-24]."""

DRAW, ACCEPT, RESIDUAL = 1, 2, 3
"""Purposes of `pack_tag`."""

LANES = 4
"""Tokens that share one Philox block."""


class Key(NamedTuple):
    """What a choice takes its noise from, one per row; two choices with equal keys see equal noise."""

    seed: Tensor  # [R] int64, all 64 bits count
    sample_index: Tensor  # [R] int64, index among the samples of one prompt, below 2**32
    position: Tensor  # [R] int64, position of the token being produced, below 2**32
    tag: Tensor  # [R] int64, 0 or from `pack_tag`


def pack_tag(c: Tensor, level: Tensor | int, purpose: int) -> Tensor:
    """Return the tag of a choice that is made once per round, never 0 and different for different arguments.

    Args:
        c: [R] int64, committed tokens at the start of the round, below 2**28.
        level: 0 for the full model, 1 for the sparse draft.
        purpose: `DRAW`, `ACCEPT` or `RESIDUAL`.
    """
    return (c << 4) | (level << 2) | purpose


def philox(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[Tensor]:
    """Return the four words of Philox4x32-10 blocks, int64 tensors of the operands' broadcast shape.

    Args:
        key: Low and high word.
        counter: Four words. All words are int64 in [0, 2**32).
    """
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        # Odd words and key words are only ever xor-ed into what is masked next: their high halves may stay.
        c0 = ((p1 >> 32) ^ (c1 ^ k0)) & MASK32
        c2 = ((p0 >> 32) ^ (c3 ^ k1)) & MASK32
        c1, c3 = p1, p0
        k0, k1 = k0 + WEYL[0], k1 + WEYL[1]
    return [c0, c1 & MASK32, c2, c3 & MASK32]


def block_bits(key: Key, blocks: Tensor) -> Tensor:
    """Return the noise bits of whole blocks of tokens.

    Args:
        key: Fields of a shape that broadcasts with `blocks`.
        blocks: int64, token // 4.

    Returns:
        int64 in [0, 2**32), shape of `blocks` and key broadcast, with a last axis of `LANES` tokens.
    """
    words = (key.seed & MASK32, (key.seed >> 32) & MASK32)
    return torch.stack(philox(words, (blocks, key.position, key.sample_index, key.tag)), -1)


def from_bits(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return Gumbel noise -log(E), E = -log1p(-u), u = min((bits + 1/2) / 2**32, 1 - 2**-24).

    Always finite and in [-2.82, 22.88]. The common -log(-log(u)) is infinite where u rounds to 1. In float32 `bits`
    is rounded first, and the half added then.

    Args:
        bits: int64 in [0, 2**32), any shape.
        dtype: float32, or float64 in float64 runs.
    """
    u = bits.to(dtype).add_(0.5).mul_(2.0**-32).clamp_(max=1 - 2.0**-24)
    return u.neg_().log1p_().neg_().log_().neg_()


def gumbel(
    seed: Tensor,
    sample_index: Tensor,
    position: Tensor,
    tag: Tensor,
    tokens: Tensor | int,
    dtype: torch.dtype,
) -> Tensor:
    """Return the noise of tokens, [R, n].

    Args:
        seed, sample, position, tag: [R] int64, the fields of `Key`.
        tokens: [R, n] or [n] int64 token ids; or the vocabulary's size, for all its tokens.
        dtype: float32, or float64 in float64 runs.
    """
    columns = Key(seed[:, None], sample_index[:, None], position[:, None], tag[:, None])
    if isinstance(tokens, int):
        blocks = torch.arange(-(-tokens // LANES), device=seed.device)
        return from_bits(block_bits(columns, blocks).flatten(1)[:, :tokens], dtype)
    bits = block_bits(columns, tokens // LANES)
    lanes = (tokens % LANES).expand(bits.shape[:-1]).unsqueeze(-1)
    return from_bits(bits.gather(-1, lanes).squeeze(-1), dtype)
