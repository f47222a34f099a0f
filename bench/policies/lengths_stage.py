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

import numpy as np
import torch

from sparsespec.benchmarks.run import FillFirst, clear, fill_randomly, filled_in
from sparsespec.core.errors import SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import VERIFY
from sparsespec.core.spec import preset
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import StepInfo, StepResult
from sparsespec.kv.pool import KVPool
from sparsespec.models.transformer import Transformer
from sparsespec.testing.simulated_acceptance import SimulatedAcceptance

CHUNK = 2048
"""Prompt tokens that are filled in a step, outside of all figures."""
ROOM = 8
"""An output grows by an eighth of its context in a window at most, or by `LEAST` tokens."""
LEAST = 256
YIELDS = 5
"""Steps that yield tokens in a window, at least, however long that takes."""
SLACK = 64
"""Tokens that an output may have beyond that, so that no round is cut short by its end."""


@dataclass(frozen=True)
class Start:
    """Where a window begins: requests with these prompts, whose outputs may have `room` tokens."""

    prompts: Sequence[list[int]]
    room: int
    seed: int
    temperature: float


@dataclass(frozen=True)
class Window:
    """What was collected between two steps that both yielded tokens."""

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
    """Return how many tokens an output may grow by in a window."""
    return max(LEAST, context // ROOM)


class Stage:
    """An engine on which windows begin over and over.

    Args:
        model: The model.
        base: The preset.
        changes: What is different, for `Engine.compose`.
        random: Whether the weights are random: then prompts count as filled, with random numbers.
        pool: A pool of random numbers to share; None allocates one.
    """

    def __init__(
        self, model: Transformer, base: str, changes: dict[str, Any], *, random: bool, pool: KVPool | None = None
    ) -> None:
        self._scheduler = FillFirst(str(preset(base).spec.scheduler), CHUNK)
        self._verifier = changes.get("verifier")
        self.engine = Engine.compose(model, base, eos_ids=(), pool=pool, scheduler=self._scheduler, **changes)
        self.engine.warm_up()
        self._model, self._random = model, random
        if random and pool is None:
            fill_randomly(self.engine.pool, 0)
        self._requests: list[int] = []
        gc.collect()
        gc.freeze()

    def aim(self, mean: float, k: int) -> None:
        """Simulate that `mean` of `k` drafts are accepted."""
        self.clear()
        assert isinstance(self._verifier, SimulatedAcceptance)
        self._wait()
        self._verifier.aim(mean, k)
        self._wait()

    def clear(self) -> None:
        """End all requests."""
        for request in self._requests:
            self.engine.abort(request)
        self._requests = []
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
            # the last position that is filled is enough to warm a selection up
            n_computed = max(0, len(prompt) - 2) if self._random else 0
            self._requests.append(self.engine.add(prompt, params, stream=False, n_computed=n_computed))
        self._scheduler.filling = True
        while filled_in(self._step()):
            pass
        self._scheduler.filling = False
        return self._measure(start, warmup, seconds)

    def close(self) -> None:
        """Release the engine's memory."""
        gc.unfreeze()
        self.engine.close()
        del self.engine
        clear(self._model)

    def _measure(self, start: Start, warmup: int, seconds: float) -> Window:
        n_output = np.zeros(self.engine.geometry.n_seats, dtype=np.int64)
        steps: list[tuple[float, StepInfo]] = []
        begin, n, yields = perf_counter(), 0, 0
        while n_output.max() < start.room and (perf_counter() - begin < seconds or yields < YIELDS):
            info = self._step().info
            now, n = perf_counter(), n + 1
            rows = info.collected
            verify = rows.phase == VERIFY
            n_output[rows.seat[verify]] += rows.n_emitted[verify]
            if n <= warmup:
                begin = now
            else:
                steps.append((now, info))
                yields += bool(info.n_output)
        return _window(steps)

    def _step(self) -> StepResult:
        result = self.engine.step()
        for event in result.events:
            if event.completion is not None and event.completion.error:
                raise SparseSpecError(f"a request broke off: {event.completion.error}")
        return result

    def _wait(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()


def _window(steps: Sequence[tuple[float, StepInfo]]) -> Window:
    """Count from the first step that yielded tokens to the last one: elsewhere a round would be cut in two."""
    yielded = [i for i, (_, info) in enumerate(steps) if info.n_output]
    if len(yielded) < 2:
        raise SparseSpecError("a window yielded tokens once or never, which is too little to measure; lower --warmup")
    first, last = yielded[0], yielded[-1]
    counted = [info for _, info in steps[first + 1 : last + 1]]
    verify = [info.collected.phase == VERIFY for info in counted]
    n_candidates, n_accepted, kv_full = (
        np.concatenate([getattr(info.collected, name)[rows] for info, rows in zip(counted, verify, strict=True)])
        for name in ("n_candidates", "n_accepted", "kv_full")
    )
    return Window(
        tokens=sum(info.n_output for info in counted),
        seconds=steps[last][0] - steps[first][0],
        steps=last - first,
        rounds=len(n_candidates),
        drafted=int(n_candidates.sum()),
        accepted=int(n_accepted.sum()),
        plain=int((n_candidates == 0).sum()),
        context=float(kv_full.mean()),
    )
