"""Parameters of which only one is quick: `-m "not slow"` runs that one, and the whole suite all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def quick_last(values: Sequence[object]) -> list[Any]:
    """Return values as parameters, all but the last of them slow."""
    return [*(pytest.param(value, marks=pytest.mark.slow) for value in values[:-1]), values[-1]]
