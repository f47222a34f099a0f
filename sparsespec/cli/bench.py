"""`sparsespec bench`: the throughput benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from sparsespec.benchmarks.throughput import main


def run(arguments: Sequence[str]) -> int:
    """Run the benchmark with `arguments`, which it reads itself, and return its exit status."""
    return main(list(arguments))
