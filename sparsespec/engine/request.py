"""A request: what was asked for, and what has become of it. What changes every step is in `engine/request_table.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

from sparsespec.core.params import SamplingParams
from sparsespec.engine.outputs import Completion
from sparsespec.metrics.speculation import SpecMetrics


@dataclass(slots=True, eq=False)
class Request:
    """One sample of one prompt; identity is the object, or its number, never the seat."""

    number: int  # order of arrival, and age
    group: int  # id that `add` returned; its samples share a prompt
    sample_index: int
    prompt: tuple[int, ...]
    params: SamplingParams
    seed: int
    limit: int  # tokens it may hold, prompt and output
    stop_ids: frozenset[int]
    stream: bool = True  # whether its tokens are reported as they come, or its completion only
    n_computed: int = 0  # positions of the prompt that count as filled when it takes a seat
    added_at: float = field(default_factory=perf_counter)
    seated_at: float | None = None
    seat: int = -1
    output: tuple[int, ...] = ()  # its output before it took its seat: none, but after a recovery
    completion: Completion | None = None  # set once, when it has ended
    metrics: SpecMetrics = field(default_factory=SpecMetrics)  # whole once it has left its seat

    @property
    def known(self) -> tuple[int, ...]:
        """Its tokens when it takes a seat: the prompt, and what was output before."""
        return self.prompt + self.output
