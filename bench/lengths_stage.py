"""An engine on which windows begin over and over: requests are seated, warm up, and are timed for a while.

It is made once for a batch size and serves all contexts, because what is seated decides how long they are; its graphs
are recorded once.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from bench.engine_fill import Inside, draw_kv, filling_first
from bench.engine_run import clear
from bench.synthetic import Synthetic
from sparsespec.core.errors import SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Phase
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import StepResult
from sparsespec.kv.pool import KVPool
from sparsespec.models.transformer import Transformer

CHUNK = 2048
"""Prompt tokens that are filled in a step, outside of all figures."""
ROOM = 8
"""A request says an eighth of its context in a window at most, or `LEAST` tokens."""
LEAST = 256
YIELDS = 5
"""Steps that yield tokens in a window, at least, however long that takes."""
SLACK = 64
"""Tokens that a request may say beyond that, so that no round is cut short by its end."""


@dataclass(frozen=True)
class Start:
    """Where a window begins: requests with these prompts, of which each may say `room` tokens."""

    prompts: Sequence[list[int]]
    room: int
    seed: int
    temperature: float


@dataclass(frozen=True)
class Window:
    """What was heard between two steps that both yielded tokens."""

    tokens: int
    seconds: float
    steps: int
    rounds: int
    drafted: int
    accepted: int
    plain: int
    context: float

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def room_for(context: int) -> int:
    """Return how many tokens a request may say in a window."""
    return max(LEAST, context // ROOM)


class Stage:
    """An engine on which windows begin over and over."""

    def __init__(
        self, model: Transformer, preset: str, changes: dict[str, Any], *, random: bool, drawn: KVPool | None = None
    ) -> None:
        self.engine = Engine.compose(model, preset, eos_ids=(), **changes)
        self.engine.warm_up()
        self._model, self._inside = model, Inside.of(self.engine)
        if random and drawn is None:
            draw_kv(self._inside, 0)
        # what is left of a prompt is enough to warm a selection up
        self._inside.seat_filled().leave = 1 if random else None
        self._groups: list[int] = []
        gc.collect()
        gc.freeze()

    @property
    def pool(self) -> KVPool:
        """The engine's KV."""
        return self._inside.pool

    def aim(self, mean: float, k: int) -> None:
        """Let made-up coins fall so that `mean` of `k` drafts stand."""
        self.clear()
        verifier = self._inside.parts.verifier
        assert isinstance(verifier, Synthetic)
        self._wait()
        verifier.aim(mean, k)
        self._wait()

    def clear(self) -> None:
        """End all requests."""
        for group in self._groups:
            self.engine.abort(group)
        self._groups = []
        while self.engine.has_work:
            self.engine.step()

    def window(self, start: Start, *, warmup: int, seconds: float) -> Window:
        """Seat requests, let them run for a while, and return what the time after that yielded."""
        self.clear()
        for i, prompt in enumerate(start.prompts):
            params = SamplingParams(
                temperature=start.temperature, max_tokens=start.room + SLACK, ignore_eos=True,
                seed=start.seed * len(start.prompts) + i,
            )  # fmt: skip
            self._groups.append(self.engine.add(prompt, params))
        with filling_first(self._inside, CHUNK):
            while any(row.phase is Phase.PREFILL for row in self._step().info.placed.rows):
                pass
        said = dict.fromkeys(self._groups, 0)
        steps: list[tuple[float, StepResult]] = []
        begin, n, yields = perf_counter(), 0, 0
        while max(said.values()) < start.room and (perf_counter() - begin < seconds or yields < YIELDS):
            result = self._step()
            now, n = perf_counter(), n + 1
            for event in result.events:
                said[event.request_id] += len(event.token_ids)
            if n <= warmup:
                begin = now
            else:
                steps.append((now, result))
                yields += bool(result.events)
        return _window(steps)

    def close(self) -> None:
        """Release the engine's memory."""
        gc.unfreeze()
        self.engine.close()
        del self.engine, self._inside
        clear(self._model)

    def _step(self) -> StepResult:
        result = self.engine.step()
        for event in result.events:
            if event.completion is not None and event.completion.error:
                raise SparseSpecError(f"a request broke off: {event.completion.error}")
        return result

    def _wait(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()


def _window(steps: Sequence[tuple[float, StepResult]]) -> Window:
    """Count from the first step that yielded tokens to the last one: elsewhere a round would be cut in two."""
    yielded = [i for i, (_, result) in enumerate(steps) if result.events]
    if len(yielded) < 2:
        raise SparseSpecError("a window yielded tokens once or never, which says nothing; lower --warmup")
    first, last = yielded[0], yielded[-1]
    counted = [result for _, result in steps[first + 1 : last + 1]]
    rows = [row for result in counted for row in result.info.collected if row.phase is Phase.VERIFY]
    return Window(
        tokens=sum(len(event.token_ids) for result in counted for event in result.events),
        seconds=steps[last][0] - steps[first][0],
        steps=last - first,
        rounds=len(rows),
        drafted=sum(row.n_candidates for row in rows),
        accepted=sum(row.n_accepted for row in rows),
        plain=sum(not row.n_candidates for row in rows),
        context=sum(row.kv_full for row in rows) / len(rows),
    )
