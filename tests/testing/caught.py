from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sparsespec.core.errors import ContractBroken


def caught(check: Callable[[object], None], part: object, sentence: str) -> None:
    """Assert that the check refuses the part with such a sentence."""
    with pytest.raises(ContractBroken, match=sentence) as broken:
        check(part)
    assert type(part).__name__ in str(broken.value) or "scheduler" in str(broken.value)


def variant(name: str, base: type, **members: Any) -> type:
    """Return a subclass of `base` with other members: a part that differs from a sound one in one verb."""
    return type(name, (base,), members)
