"""`sparsespec bench`: the engine's benchmark, where it is at hand.

The benchmarks are a folder beside the package, which is not installed with it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import sparsespec
from sparsespec.core.errors import BadOption


def run(arguments: Sequence[str]) -> int:
    """Hand `arguments` to `bench.engine` and return its exit code; raises `BadOption` where there are no sources."""
    root = Path(sparsespec.__file__).resolve().parents[1]
    if not (root / "bench" / "engine.py").is_file():
        raise BadOption(
            "the benchmarks come with the sources and not with the installed package; "
            "install a checkout with: pip install -e ."
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return import_module("bench.engine").main(list(arguments), prog="sparsespec bench")
