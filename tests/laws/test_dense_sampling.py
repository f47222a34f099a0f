"""Plain drawing has the law softmax(processed logits), by chi-square and by the bits that matter.

No equality of two runs can see a wrong noise formula, for both runs share it. The mutant `-log(-log(u))` gives +inf for
128 of 2**32 patterns in float32; it is caught here where bits are extreme, by force and at real positions.
"""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from sparsespec.core.noise import Key, block_bits
from sparsespec.kernels.sample import reference
from sparsespec.kernels.sample.api import process, sample
from tests.quick import quick_last

ALPHA = 1e-4
"""p-values below this fail; seeds are fixed, so a test that passes once passes always."""

PLAIN = (1.0, 0, 1.0, 0.0)
"""Temperature 1, and no filter."""


def p_value(counts: torch.Tensor, probs: torch.Tensor) -> float:
    """Return the chi-square p-value of `counts` [V] under `law` [V]; tokens expected less than 5 times are pooled."""
    expected = probs.double() * counts.sum()
    common = expected >= 5
    observed = torch.cat([counts[common].double(), counts[~common].double().sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    if expected[-1] < 1:
        if observed[-1] > 5:
            return 0.0  # tokens of next to no probability were drawn
        observed, expected = observed[:-1], expected[:-1]
    assert len(expected) >= 3, "too few tokens for a test with power"
    chi = ((observed - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2, dtype=torch.float64), chi / 2))


def sampled(logits: torch.Tensor, filters: tuple, n: int, seed: int, first: int = 0) -> torch.Tensor:
    """Return n draws at n positions, from `first` on, from one row of logits [V]."""
    draws = []
    for start in range(first, first + n, 4096):
        size = min(4096, first + n - start)
        rows = logits.expand(size, -1)
        real = [torch.full((size,), value, dtype=torch.float64) for value in filters]
        zero = torch.zeros(size, dtype=torch.int64)
        key = (zero + seed, zero, torch.arange(start, start + size), zero)
        draws.append(sample(rows, real[0], real[1].long(), real[2], real[3], *key))
    return torch.cat(draws)


def probs_of(logits: torch.Tensor, filters: tuple) -> torch.Tensor:
    real = [torch.tensor([value], dtype=torch.float64) for value in filters]
    return process(logits[None].double(), real[0], real[1].long(), real[2], real[3]).softmax(-1)[0]


@pytest.mark.parametrize("dtype", quick_last([torch.float64, torch.float32]))
@pytest.mark.parametrize(
    ("vocab", "filters"),
    [
        (4, (1.0, 0, 1.0, 0.0)),
        (7, (0.6, 0, 1.0, 0.0)),
        (61, (1.0, 0, 1.0, 0.0)),
        (61, (1.5, 9, 1.0, 0.0)),
        (61, (1.0, 0, 0.8, 0.0)),
        (61, (0.8, 0, 1.0, 0.05)),
        (61, (1.2, 20, 0.9, 0.02)),
    ],
)
def test_draws_have_the_processed_law(vocab: int, filters: tuple, dtype: torch.dtype) -> None:
    logits = (torch.randn(vocab, generator=torch.Generator().manual_seed(vocab)) * 1.5).to(dtype)
    # A nucleus costs a sort per row.
    probs, draws = probs_of(logits, filters), sampled(logits, filters, 20_000 if filters[2] == 1 else 4_000, seed=vocab)
    counts = draws.bincount(minlength=vocab)
    assert not counts[probs == 0].any(), "a masked token was emitted"
    assert p_value(counts, probs) > ALPHA
    # Neighbouring positions are independent: pairs have the product law.
    pairs = (draws[:-1:2] * vocab + draws[1::2]).bincount(minlength=vocab * vocab)
    assert p_value(pairs, torch.outer(probs, probs).flatten()) > ALPHA


def test_samples_of_one_prompt_are_independent() -> None:
    logits, n = torch.tensor([0.0, 1.0, 0.5, -0.5]), 10_000
    one, zero = torch.ones(n, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    rows, at = logits.expand(n, -1), torch.arange(n)
    first, second = (sample(rows, one, zero, one, one * 0, zero, zero + i, at, zero) for i in (0, 1))
    probs = probs_of(logits, PLAIN)
    assert p_value((first * 4 + second).bincount(minlength=16), torch.outer(probs, probs).flatten()) > ALPHA


def test_shared_position_couples_different_laws() -> None:
    # Two laws that are close must mostly draw alike, or drafts would be accepted no more often than by chance.
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    near = logits + 0.05 * torch.randn(50, generator=torch.Generator().manual_seed(1))
    same = sampled(logits, PLAIN, 4000, 0) == sampled(near, PLAIN, 4000, 0)
    assert same.double().mean() > 0.9


def obvious(bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the noise everyone writes first."""
    u = bits.to(dtype).add(0.5).mul(2.0**-32)
    return -torch.log(-torch.log(u))


def among_extreme_bits(key: Key, block: torch.Tensor) -> torch.Tensor:
    """Return bits whose token 3 has one of the 4,096 largest patterns, evenly, and all others their own."""
    own = block_bits(key, block)
    own[..., 3] = torch.where(block == 0, 2**32 - 4096 + (own[..., 3] >> 20), own[..., 3])
    return own


def p_value_among_extreme_bits() -> float:
    """Return the p-value of 40 equal tokens, given that token 3 has next to the least noise there is."""
    probs = torch.ones(40).index_fill(0, torch.tensor(3), 0) / 39
    with mock.patch.object(reference, "block_bits", among_extreme_bits):
        draws = sampled(torch.zeros(40), PLAIN, 4_000, seed=0)
    return p_value(draws.bincount(minlength=40), probs)


def test_chi_square_where_the_bits_are_extreme() -> None:
    assert p_value_among_extreme_bits() > ALPHA


def test_chi_square_falsifies_the_obvious_formula() -> None:
    with mock.patch.object(reference, "from_bits", obvious):
        assert p_value_among_extreme_bits() < 1e-12


LARGE = 152_064
UNLUCKY = [(454, 48_947), (1239, 71_466), (1292, 150_212)]
"""Positions of seed 0 at which a token's bits are among the last 128 patterns: 0.45 % of positions have one."""


def draw_at(logits: torch.Tensor, position: int) -> int:
    return int(sampled(logits, PLAIN, 1, seed=0, first=position))


@pytest.mark.parametrize(("position", "token"), UNLUCKY)
def test_the_obvious_formula_emits_garbage_in_a_large_vocabulary(position: int, token: int) -> None:
    logits = torch.zeros(LARGE)
    logits[token] = -20.0  # a probability of 1e-14
    assert draw_at(logits, position) != token
    with mock.patch.object(reference, "from_bits", obvious):
        assert draw_at(logits, position) == token


@pytest.mark.slow
def test_a_large_vocabulary_is_drawn_by_its_law() -> None:
    logits = torch.zeros(LARGE)
    logits[: LARGE // 2] += 1.0
    logits[::3] -= 2.0
    kind = (torch.arange(LARGE) < LARGE // 2).long() * 2 + (torch.arange(LARGE) % 3 == 0).long()
    mass = torch.zeros(4, dtype=torch.float64).scatter_add_(0, kind, probs_of(logits, PLAIN))
    draws = torch.tensor([draw_at(logits, position) for position in range(200)])
    assert p_value(kind[draws].bincount(minlength=4), mass) > ALPHA
