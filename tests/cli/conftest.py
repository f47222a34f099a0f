"""A model that talks on and on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.folders import tiny_folder


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that goes on for thousands of tokens."""
    return tiny_folder(tmp_path_factory.mktemp("endless") / "tiny", context=4_000)
