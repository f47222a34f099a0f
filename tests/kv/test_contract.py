"""Every tier manager on the shelf, tested by being there."""

from __future__ import annotations

import pytest

from sparsespec.core import registry
from sparsespec.testing import check_tiers


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "reserve" else n for n in registry.names("tiers")]
)
def test_is_a_tier_manager(name: str) -> None:
    check_tiers(name, examples=40)
