"""What the benchmarks share: the machine in words, real text, and rows that are printed as soon as they are known."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch

# Modules whose sources are mostly prose: the text that is at hand on every machine.
PROSE = (
    "argparse",
    "decimal",
    "difflib",
    "doctest",
    "fractions",
    "heapq",
    "random",
    "statistics",
    "textwrap",
    "typing",
)
PIECE = 4000
"""Characters of text that are tokenised at once."""
QUESTIONS = (
    "Find the remainder when 2^100 is divided by 7.",
    "How many ways are there to place 8 rooks on a chessboard so that no two attack each other?",
    "Let x and y be positive numbers with x + y = 10. Find the largest possible value of x^2 * y.",
    "A fair die is rolled four times. What is the probability that the four numbers increase strictly?",
    "Find all integers n such that n^2 + 3n + 5 is divisible by 121.",
    "The sides of a triangle are 13, 14 and 15. Find the radius of its inscribed circle.",
    "Prove that the square root of 2 is irrational.",
    "What is the sum of the first 50 odd numbers? Show each step.",
    "In how many zeros does 1000! end?",
    "A train travels 180 km in 2.5 hours. Find its mean speed in metres per second.",
)


def machine() -> dict[str, Any]:
    """Return what figures depend on: device, threads, versions, date."""
    versions = {name: version_of(name) for name in ("torch", "transformers", "numpy")}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{platform.machine()} CPU, {len(os.sched_getaffinity(0))} cores",
        "load": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "sparsespec": importlib.import_module("sparsespec").__version__,
        **versions,
    }


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None of one that is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def problems(path: Path | None) -> list[tuple[str, str]]:
    """Return (question, solution) pairs of a JSONL file; without one, the questions above and no solutions.

    The question is in the field `question` or `problem`, the solution in `solution` or `answer`.
    """
    if path is None:
        return [(question, "") for question in QUESTIONS]
    found: list[tuple[str, str]] = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        solution = row.get("solution") or row.get("answer") or ""
        found.append(
            (row.get("problem") or row["question"], solution if isinstance(solution, str) else "\n".join(solution))
        )
    return found


def prose(path: Path | None, skip: int) -> Iterator[str]:
    """Yield pieces of real text: solved problems from the `skip`-th on, or the standard library's own documentation."""
    if path is not None:
        yield from (f"{question}\n\n{solution}\n\n" for question, solution in problems(path)[skip:])
        return
    for name in PROSE:
        source = inspect.getsource(importlib.import_module(name))
        yield from (source[at : at + PIECE] for at in range(0, len(source), PIECE))


class Report:
    """Prints rows of a table as they come and appends them, as JSON lines, to a file."""

    def __init__(self, out: Path | None, **header: Any) -> None:
        self._file = out.open("a", encoding="utf-8") if out else None
        self.header = header
        print("  ".join(f"{key}={value}" for key, value in header.items()), flush=True)
        self._write({"kind": "header", **header})

    def row(self, line: str, **values: Any) -> None:
        """Print `line` and store `values`."""
        print(line, flush=True)
        self._write({"kind": "row", **values})

    def _write(self, values: dict[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
