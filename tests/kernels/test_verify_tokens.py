from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core.errors import ContractBroken, UnknownName
from sparsespec.kernels.verify_tokens.api import verify_tokens

ROWS = st.lists(st.tuples(st.integers(-1, 4), st.lists(st.booleans(), min_size=5, max_size=5)), max_size=6)


@settings(max_examples=100)
@given(ROWS, st.integers(0, 2))
def test_equals_the_obvious_loop(rows: list, gap: int) -> None:
    first, sampled, is_accepted, expected = [], [], [], []
    for count, verdicts in rows:
        first.append(len(sampled) if count >= 0 else 10_000)  # where a dead row points does not matter
        tokens = [10 + len(sampled) + j for j in range(count + 1)]
        sampled += tokens + [0] * gap
        is_accepted += verdicts[: count + 1] + [True] * gap
        accepted = next((j for j in range(count) if not verdicts[j]), max(count, 0))
        expected.append((tokens[: accepted + 1], accepted))
    got = verify_tokens(
        torch.tensor(sampled).long(),
        torch.tensor(is_accepted).bool(),
        torch.tensor(first).long(),
        torch.tensor([count for count, _ in rows]).long(),
        width=5,
    )
    for r, (tokens, accepted) in enumerate(expected):
        assert got.tokens[r].tolist() == tokens + [0] * (5 - len(tokens))
        assert (got.emitted[r], got.accepted[r]) == (len(tokens), accepted)


def test_errors_say_what_would_have_worked() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(UnknownName, match="did you mean 'reference'"):
        verify_tokens(none, none.bool(), none, none, width=1, impl="referense")
    with pytest.raises(ContractBroken, match="verify_tokens needs shapes"):
        verify_tokens(none, none.bool(), none, torch.zeros(2), width=1)
