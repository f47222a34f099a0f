"""What the engine says to its caller: pieces of text as they come, and a completion at the end of each sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal, NamedTuple

from sparsespec.core.plan import Move, Placed
from sparsespec.core.result import Logprobs, RowResults
from sparsespec.metrics.speculation import SpecMetrics

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished sample of one prompt.

    Attributes:
        request_id: What `add` returned.
        sample_index: Index among the samples of the prompt, 0 … n - 1.
        token_ids: Output tokens, the stopping one included.
        text: Output text, cut before a stop string; empty for an engine without a tokenizer.
        finish_reason: "stop" (a stop token or string), "length", "abort" or "error".
        stop_reason: The stop token or string, or None.
        error: One sentence, where `finish_reason` is "error".
        seed: The seed that was used, whether given or derived.
        logprobs: For each token ((token, logprob), …), the emitted one first; None unless asked for.
        metrics: What speculation did.
        queue_seconds: From when it was added until it took its seat, or ended without one.
    """

    request_id: int
    sample_index: int
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    stop_reason: int | str | None
    error: str | None
    seed: int
    logprobs: tuple[Logprobs, ...] | None
    metrics: SpecMetrics
    queue_seconds: float = 0.0


class TokenEvent(NamedTuple):
    """Tokens a sample gained in a step, the text that became certain, and the completion if it ended."""

    request_id: int
    sample_index: int
    token_ids: tuple[int, ...]
    text: str
    completion: Completion | None = None


class StepSeconds(NamedTuple):
    """What the lines of a step took of the host's time, seconds; `waited` is the part of `collect` spent waiting."""

    view: float = 0.0
    plan: float = 0.0
    place: float = 0.0
    launch: float = 0.0
    collect: float = 0.0
    process: float = 0.0
    waited: float = 0.0

    @property
    def host(self) -> float:
        """Return the host's own work, which is all but waiting."""
        return sum(self[:-1]) - self.waited


class StepClock:
    """Measures the lines of one step.

    Args:
        waited: Seconds that collecting has waited for the device before the step.
    """

    def __init__(self, waited: float) -> None:
        self._waited = waited
        self._laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, line: str) -> None:
        """Say that a line of the step has ended."""
        now = perf_counter()
        self._laps[line], self._last = now - self._last, now

    def seconds(self, waited: float) -> StepSeconds:
        """Return what each line took; `waited` is what collecting has waited in all by now."""
        return StepSeconds(**self._laps, waited=waited - self._waited)


class Mark(NamedTuple):
    """How far an engine has come without being interrupted.

    Attributes:
        call: The last call that changed it and ended, by number.
        step: The last step that ended.
    """

    call: int = 0
    step: int = -1


NO_RESULTS = RowResults.of(())
NO_SECONDS = StepSeconds()


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a step did, for wrappers, traces and benchmarks.

    Attributes:
        step: Its number.
        placed: The rows that ran, and what finding pages for them took.
        collected: Outcomes of rows that came back, of requests that still had their seats.
        n_output: Tokens that became output.
        n_waiting: Requests without a seat.
        n_running: Requests on seats, those that were spilled among them.
        free_pages: Pages of the device that nobody holds.
        host_pages: Pages in the host tier.
        moving_pages: Pages of the device that are being copied.
        moves: Copies that began.
        seconds: What the step took of the host's time, by line.
    """

    step: int
    placed: Placed = field(default_factory=Placed)
    collected: RowResults = NO_RESULTS
    n_output: int = 0
    n_waiting: int = 0
    n_running: int = 0
    free_pages: int = 0
    host_pages: int = 0
    moving_pages: int = 0
    moves: tuple[Move, ...] = ()
    seconds: StepSeconds = NO_SECONDS

    @property
    def n_spilled(self) -> int:
        """Pages that began to be copied to the host."""
        return sum(move.out for move in self.moves)

    @property
    def n_restored(self) -> int:
        """Pages that began to be copied back."""
        return len(self.moves) - self.n_spilled


@dataclass(frozen=True, slots=True)
class StepResult:
    """What `Engine.step` returns; `idle` means that nothing is left to do."""

    events: tuple[TokenEvent, ...]
    idle: bool
    info: StepInfo
