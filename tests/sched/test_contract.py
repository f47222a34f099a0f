"""Every scheduler on the shelf, tested by being there."""

from __future__ import annotations

import pytest

from sparsespec.core import registry
from sparsespec.testing import check_scheduler

SCHEDULERS = ["lockstep(chunk=1)", "staggered(chunk=7)"]


@pytest.mark.parametrize(
    "spec", [*registry.names("scheduler"), *(pytest.param(spec, marks=pytest.mark.slow) for spec in SCHEDULERS)]
)
def test_is_a_scheduler(spec: str) -> None:
    check_scheduler(spec)
