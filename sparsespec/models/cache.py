"""Where converted and downloaded models are kept; the environment is read when asked."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "SPARSESPEC_CACHE"


def cache_folder(cache: str | Path | None = None) -> Path:
    """Return the argument if given, else `$SPARSESPEC_CACHE`, else `~/.cache/sparsespec`.

    The folder need not exist.
    """
    chosen = chosen_cache(cache)
    return Path.home() / ".cache" / "sparsespec" if chosen is None else chosen


def chosen_cache(cache: str | Path | None = None) -> Path | None:
    """Return the folder that the caller or the environment asks for, None if neither does."""
    asked = cache or os.environ.get(VARIABLE)
    return Path(asked).expanduser() if asked else None
