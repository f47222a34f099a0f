"""Every verifier on the shelf, tested by being there."""

from __future__ import annotations

import pytest

from sparsespec.core import registry
from sparsespec.testing import check_verifier


@pytest.mark.parametrize("name", registry.names("verifier"))
def test_is_a_verifier(name: str) -> None:
    check_verifier(name)
