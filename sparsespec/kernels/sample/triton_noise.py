"""The noise of `core/noise.py`, bit by bit, on a GPU.

Logarithms are taken in float64 and rounded to float32, twice, as the reference rounds; torch's float32 logarithms on a
CPU are within an ulp of that, and so is the noise (near a noise of 0, within an ulp of 1).
"""

# Triton's kernels are no Python that a type checker could follow.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportInvalidTypeForm=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from sparsespec.core.seeds import MULTIPLIERS, ROUNDS, WEYL

_ROUNDS = tl.constexpr(ROUNDS)
_MULTIPLIER0, _MULTIPLIER1 = (tl.constexpr(x) for x in MULTIPLIERS)
_WEYL0, _WEYL1 = (tl.constexpr(x) for x in WEYL)


@triton.jit
def uniform(bits):
    """Return min((bits + 1/2) / 2**32, 1 - 2**-24), float32, `bits` rounded first."""
    return tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994039535522)


@triton.jit
def quick_gumbel(bits):
    """Return the noise of 32 random bits with an error below 0.001, by the fast logarithm."""
    u = uniform(bits)
    small = u * (1.0 + u * (0.5 + u * (0.33333334 + u * 0.25)))
    return -tl.log(tl.where(u < 0.03125, small, -tl.log(1.0 - u)))


@triton.jit
def most_gumbel(bits):
    """Return a bound of the noise of 32 random bits, or more; too high by 0.06 or less where the noise is large.

    Noise is at most -log(u), and the logarithm of u at least what the bits of a float are when read as a number of
    exponents: its mantissa m, from 0 to 1, means log2(1 + m), which is no less.
    """
    exponent = bits.to(tl.float32).to(tl.int32, bitcast=True).to(tl.float32) * 1.1920928955078125e-07
    return (159.0 - exponent) * 0.6931472


@triton.jit
def gumbel(bits):
    """Return the noise of 32 random bits, float32; see `core.noise.from_bits`."""
    u = uniform(bits).to(tl.float64)
    # the rounding of 1 - u cancels in the quotient
    w = 1.0 - u
    e = -tl.log(w) * (u / (1.0 - w))
    return (-tl.log(e.to(tl.float32).to(tl.float64))).to(tl.float32)


@triton.jit
def words(seed, sample_index, position, tag, start, QUADS: tl.constexpr):
    """Return the four noise words [QUADS] of blocks; `start` is a token, a multiple of four, or one a block."""
    c0 = (start // 4 + tl.arange(0, QUADS)).to(tl.uint32)
    c1, c2, c3 = position.to(tl.uint32), sample_index.to(tl.uint32), tag.to(tl.uint32)
    k0, k1 = (seed & 0xFFFFFFFF).to(tl.uint32), ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    for _ in tl.static_range(_ROUNDS):
        # one multiplication that gives both halves; Triton's own Philox has two
        p0, p1 = c0.to(tl.uint64) * _MULTIPLIER0, c2.to(tl.uint64) * _MULTIPLIER1
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = p1.to(tl.uint32), p0.to(tl.uint32)
        k0, k1 = k0 + _WEYL0, k1 + _WEYL1
    return c0, c1, c2, c3


@triton.jit
def noise_bits(seed, sample_index, position, tag, start, QUADS: tl.constexpr):
    """Return the noise bits [QUADS, 4] of the tokens of blocks; `start` as in `words`."""
    w0, w1, w2, w3 = words(seed, sample_index, position, tag, start, QUADS)
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (QUADS, 4))
