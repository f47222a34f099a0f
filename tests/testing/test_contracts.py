"""Every scheduler, tier manager and verifier on the shelves, tested by being there."""

from __future__ import annotations

import pytest

from sparsespec.core import registry
from sparsespec.testing import check_scheduler, check_tiers, check_verifier

SCHEDULERS = ["lockstep(chunk=1)", "staggered(chunk=7)"]


@pytest.mark.parametrize(
    "spec", [*(pytest.param(spec, marks=pytest.mark.slow) for spec in SCHEDULERS), *registry.names("scheduler")]
)
def test_is_a_scheduler(spec: str) -> None:
    check_scheduler(spec)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "reserve" else n for n in registry.names("tiers")]
)
def test_is_a_tier_manager(name: str) -> None:
    check_tiers(name, examples=40)


@pytest.mark.parametrize("name", registry.names("verifier"))
def test_is_a_verifier(name: str) -> None:
    check_verifier(name)
