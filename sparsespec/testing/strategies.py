"""Hypothesis strategies over engines and requests.

Hypothesis draws few distinct compositions when it draws them axis by axis, so a large number is drawn and hashed into
the composition; sizes are drawn beside it, so that a failing case shrinks to few and short requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from sparsespec.testing.cases import VERIFIERS, Case, case_of

__all__ = ["Case", "case_of", "cases"]


def cases(
    *, verifiers: Sequence[str] = VERIFIERS, most_requests: int = 4, longest: int = 60, max_tokens: int = 24
) -> st.SearchStrategy[Case]:
    """Return a strategy of cases; see `case_of` for what its arguments mean."""
    # one by one: of a number drawn whole, Hypothesis repeats most draws while it varies the sizes beside it
    seeds = st.lists(st.integers(0, 255), min_size=16, max_size=16).map(lambda raw: int.from_bytes(bytes(raw), "big"))
    return st.builds(
        case_of,
        seeds,
        verifiers=st.just(tuple(verifiers)),
        n_requests=st.integers(1, most_requests),
        # long prompts by default: below the budget a sparse draft reads everything
        longest=st.integers(0, longest - 1).map(lambda cut: longest - cut if cut % 4 == 0 else longest),
        max_tokens=st.integers(max(1, max_tokens // 2), max_tokens),
    )
