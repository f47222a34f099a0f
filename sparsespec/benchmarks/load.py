"""The work that all compositions of a run are given: requests, their lengths, and the pool that holds them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparsespec.benchmarks.entries import Entry

PAGE = 16
PROFILED = 20
"""Steps of a breakdown."""


@dataclass(frozen=True)
class Load:
    """What the engines are given to do.

    Attributes:
        batch: Requests that run at once.
        context: Tokens of the prompts, least and most; uniform between them.
        output: Tokens of a request's output, least and most.
        steps: Steps to measure, at most.
        warmup: Steps before them.
        windows: Parts of equal length that throughput is also given for.
        seconds: Measure no longer than this.
        seed: Of lengths, prompts and draws.
        temperature: 0 is greedy.
        turnover: Finished requests are followed by others; else measuring ends with the first that finishes.
        prefill: Requests that come later are prefilled, though weights are random.
    """

    batch: int
    context: tuple[int, int]
    output: tuple[int, int]
    steps: int
    warmup: int
    windows: int
    seconds: float
    seed: int
    temperature: float
    turnover: bool
    prefill: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def lengths(self, entry: Entry) -> list[tuple[int, int]]:
        """Return (prompt tokens, output tokens) of all requests in order; the first `batch` of them start together."""
        draw = random.Random(self.seed)
        n = self.batch
        if self.turnover:
            per_step = 1 + (0 if entry.draft else entry.guess)
            produced = self.batch * per_step * (self.warmup + self.steps + PROFILED)
            n += self.batch + math.ceil(2 * produced / sum(self.output))
        found = []
        for i in range(n):
            context, output = draw.randint(*self.context), draw.randint(*self.output)
            # as in the middle of a long run, the first requests are at different places of their outputs
            left = draw.randint(1, output) if self.turnover and i < self.batch else output
            found.append((context, left))
        return found


def sizes(load: Load, lengths: Sequence[tuple[int, int]], room: int) -> dict[str, int]:
    """Return the engine's options that hold the load, `room` tokens more for each request."""
    pages = [-(-(context + output + room) // PAGE) for context, output in lengths]
    # requests that can run at once; a twentieth more is for those that overtake
    most = max(sum(pages[i : i + load.batch]) for i in range(len(pages) - load.batch + 1))
    return {
        "max_num_seqs": load.batch,
        "max_model_len": sum((load.context[1], load.output[1], room)),
        "block_size": PAGE,
        "num_gpu_blocks": 1 + most + (most // 20 if load.turnover else 0),
        "seed": load.seed,
    }
