"""Where does a composition first part from dense decoding on a GPU, and do the kernels' own errors explain it?

    python -m bench.divergence smollm2 [--preset sparsespec] [--data problems.jsonl] [--out results.jsonl] [--exact]

All of it is in `sparsespec.testing.divergence`.
"""

from __future__ import annotations

from sparsespec.benchmarks.report import exit_with
from sparsespec.testing.divergence.command import main

if __name__ == "__main__":
    exit_with(main)
