"""How everything public must answer wrong input: one sentence that shows what it got and says what would work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sparsespec.core.errors import SparseSpecError
from tests.engine.running import is_sentence

LONGEST = 300
"""Characters of a message at most."""


def assert_refused(call: Callable[[], object], kind: type[SparseSpecError], got: str, works: str) -> None:
    """Assert that the call raises an error of exactly this kind, whose sentence has `got` and `works` in it."""
    with pytest.raises(SparseSpecError) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert is_sentence(message), message
    assert len(message) < LONGEST
    assert got in message
    assert works in message
