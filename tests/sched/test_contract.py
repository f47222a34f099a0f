"""Every scheduler on the shelf, tested by being there."""

from __future__ import annotations

import pytest

from sparsespec.core import registry
from sparsespec.testing import check_scheduler


@pytest.mark.parametrize("spec", [*registry.names("scheduler"), "lockstep(chunk=1)", "staggered(chunk=7)"])
def test_is_a_scheduler(spec: str) -> None:
    check_scheduler(spec)
