from __future__ import annotations

import pytest

from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Lengths
from sparsespec.policies.lengths.fixed import Fixed
from sparsespec.policies.lengths.zero import Zero
from tests.policies.streams import propose


def test_zero_does_nothing() -> None:
    assert propose(Zero()) == Lengths(0, 0)
    assert (Zero.max_draft, Zero.max_guess) == (0, 0)


def test_fixed_does_the_same_in_every_round() -> None:
    fixed = Fixed(draft=5, guess=2)
    assert propose(fixed) == Lengths(5, 2, 0.0)
    assert (fixed.max_draft, fixed.max_guess) == (5, 2)


@pytest.mark.parametrize("options", [{"draft": -1}, {"guess": -2}])
def test_negative_lengths_raise(options: dict[str, int]) -> None:
    with pytest.raises(BadOption, match="numbers of tokens"):
        Fixed(**options)
