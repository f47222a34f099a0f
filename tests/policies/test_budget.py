from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsespec.core.config import kv_budget
from sparsespec.core.errors import BadOption
from sparsespec.policies.selectors.budget import allowed, check_groups
from sparsespec.policies.selectors.oracle import Oracle
from sparsespec.policies.selectors.pillar import Pillar
from sparsespec.policies.selectors.random import RandomSelector


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=5), st.floats(0.001, 1.0), st.integers(1, 300))
def test_device_and_host_agree_on_the_budget(c: list[int], budget: float, least: int) -> None:
    assert allowed(torch.tensor(c), budget, least).tolist() == [kv_budget(n - 1, budget, least) for n in c]


@pytest.mark.parametrize(
    ("c", "budget", "least", "reads"),
    [
        (1, 0.5, 8, 0),
        (2, 0.5, 8, 1),
        (9, 0.5, 8, 8),
        (10, 0.5, 8, 8),
        (101, 0.05, 8, 8),
        (102, 0.5, 8, 51),
        (41, 1.0, 1, 40),
    ],
)
def test_a_list_reads_its_share_rounded_up_but_no_less_than_the_minimum(
    c: int, budget: float, least: int, reads: int
) -> None:
    assert allowed(torch.tensor([c]), budget, least).tolist() == [reads]


@pytest.mark.parametrize(("groups", "heads", "number"), [(1, 8, 1), (2, 8, 2), (8, 8, 8), ("heads", 3, 3), (3, 3, 3)])
def test_groups_are_a_number_per_layer(groups: int | str, heads: int, number: int) -> None:
    assert check_groups(groups, heads) == number
    for make in (RandomSelector, Oracle, Pillar):
        assert make(groups=groups).num_groups(heads) == number


@pytest.mark.parametrize("groups", [0, -1, 3, 16, "all", 1.0])
def test_groups_that_do_not_divide_the_heads_raise(groups: int | str) -> None:
    with pytest.raises(BadOption, match="must divide the 8 KV heads"):
        check_groups(groups, 8)
