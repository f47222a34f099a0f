"""Philox4x32-10 on plain integers, and the seeds of requests that were given none.

The control plane needs a seed per request and has no torch; `core/noise.py` is the same generator on tensors. Both are
Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

MASK32 = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

SEED_TAG = MASK32
"""Fourth counter word of `derive_seed`; no token's noise has it, for `pack_tag` knows levels 0 and 1 only."""

Words = tuple[int, int, int, int]


def philox(key: tuple[int, int], counter: Words) -> Words:
    """Return the four 32-bit words of one Philox4x32-10 block."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK32, (p0 >> 32) ^ c3 ^ k1, p0 & MASK32
        k0, k1 = (k0 + WEYL[0]) & MASK32, (k1 + WEYL[1]) & MASK32
    return c0, c1, c2, c3


def derive_seed(engine_seed: int, number: int) -> int:
    """Return the seed of request `number` of an engine, in [0, 2**63).

    Depends on nothing else, so a request's seed does not change with the order in which seats were given out. It has
    63 bits because seeds live in int64 tensors; given back as a request's own seed it reproduces the request.

    Args:
        engine_seed: Any integer; its lowest 64 bits count.
        number: The request's number, 0 or more; its lowest 64 bits count.
    """
    key = (engine_seed & MASK32, engine_seed >> 32 & MASK32)
    low, high, _, _ = philox(key, (number & MASK32, number >> 32 & MASK32, 0, SEED_TAG))
    return (high << 32 | low) >> 1
