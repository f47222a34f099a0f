from __future__ import annotations

from collections.abc import Callable

import pytest

from sparsespec.core.errors import ContractBroken


def caught(check: Callable[[object], None], part: object, sentence: str) -> None:
    """Assert that the check refuses the part with such a sentence."""
    with pytest.raises(ContractBroken, match=sentence) as broken:
        check(part)
    assert type(part).__name__ in str(broken.value) or "scheduler" in str(broken.value)
