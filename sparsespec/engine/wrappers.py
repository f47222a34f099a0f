"""Engines around an engine: the same verbs, and something more on the way.

`CheckLossless` decodes every finished request again densely and raises where they part; `RecordTrace` writes down
what each step did. They compose: `CheckLossless(RecordTrace(engine))`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TextIO

from sparsespec.core.divergence import first_divergence
from sparsespec.core.errors import BadOption, NotLossless, show
from sparsespec.core.params import SamplingParams
from sparsespec.core.result import RowResult
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import Completion, StepResult


class AnyEngine(Protocol):
    """The verbs of an engine."""

    def add(self, prompt: Sequence[int], sampling_params: SamplingParams | None = None, *, stream: bool = True) -> int:
        """Queue a prompt and return its request id."""
        ...

    def step(self) -> StepResult:
        """Run one round."""
        ...

    def abort(self, request_id: int) -> None:
        """End a request."""
        ...

    def reset(self) -> None:
        """Forget all requests."""
        ...

    def close(self) -> None:
        """Drop everything."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether anything is left to do."""
        ...


_VERBS = ("add", "step", "abort", "reset", "close", "has_work")


class Wrapper:
    """Hands every verb on; the base of the two below."""

    def __init__(self, engine: AnyEngine) -> None:
        lacks = [verb for verb in _VERBS if not hasattr(type(engine), verb)]
        if lacks:
            raise BadOption(f"a wrapper goes around an engine, and {show(engine)} has no {', '.join(lacks)}")
        self.engine = engine

    def add(self, prompt: Sequence[int], sampling_params: SamplingParams | None = None, *, stream: bool = True) -> int:
        """Queue a prompt and return its request id."""
        return self.engine.add(prompt, sampling_params, stream=stream)

    def step(self) -> StepResult:
        """Run one round."""
        return self.engine.step()

    def abort(self, request_id: int) -> None:
        """End a request."""
        self.engine.abort(request_id)

    def reset(self) -> None:
        """Forget all requests."""
        self.engine.reset()

    def close(self) -> None:
        """Drop everything."""
        self.engine.close()

    @property
    def has_work(self) -> bool:
        """Whether anything is left to do."""
        return self.engine.has_work


class CheckLossless(Wrapper):
    """Raises `NotLossless` as soon as a finished output is not what dense decoding emits.

    Each request is decoded again alone by `dense`, which the caller composes over the same model and closes.

    Args:
        engine: The engine under test.
        dense: An engine of preset "dense" over the same model, with the same tokens ending an output; exact if the
            engine is, because one that is not rounds otherwise.

    Attributes:
        n_checked: Outputs that were compared and found identical.
    """

    def __init__(self, engine: AnyEngine, dense: Engine) -> None:
        super().__init__(engine)
        if not isinstance(dense, Engine) or dense is engine or dense.geometry.max_draft or dense.geometry.max_guess:
            raise BadOption("dense must be another engine over the same model, composed of the preset 'dense'")
        self._dense = dense
        self._params: dict[int, SamplingParams] = {}
        self._expected: dict[int, dict[int, Completion]] = {}
        self.n_checked = 0

    def add(self, prompt: Sequence[int], sampling_params: SamplingParams | None = None, *, stream: bool = True) -> int:
        """Queue a prompt and remember how it is to be decoded again."""
        request = self.engine.add(prompt, sampling_params, stream=stream)
        self._params[request] = sampling_params or self._dense.default_sampling_params
        return request

    def step(self) -> StepResult:
        """Run one round, and check the outputs that ended in it."""
        result = self.engine.step()
        for event in result.events:
            done = event.completion
            if done is not None and done.finish_reason in ("stop", "length"):
                self._check(done)
        return result

    def reset(self) -> None:
        """Forget all requests."""
        super().reset()
        self._params.clear()
        self._expected.clear()
        self.n_checked = 0

    def _check(self, done: Completion) -> None:
        if done.request_id not in self._expected:
            self._expected[done.request_id] = self._decode(done)
        expected = self._expected[done.request_id][done.sample_index]
        name = f"request {done.request_id}, sample {done.sample_index},"
        divergence = first_divergence(name, done.token_ids, expected.token_ids)
        if divergence:
            raise NotLossless(divergence.sentence)
        if done.text != expected.text:
            raise NotLossless(f"{name} has dense decoding's tokens and another text, {show(done.text)}")
        self.n_checked += 1

    def _decode(self, done: Completion) -> dict[int, Completion]:
        params = replace(self._params[done.request_id], seed=done.seed)
        self._dense.reset()
        self._dense.add(done.prompt_token_ids, params)
        outputs: dict[int, Completion] = {}
        while self._dense.has_work:
            for event in self._dense.step().events:
                if event.completion is not None:
                    outputs[event.sample_index] = event.completion
        return outputs


def _plain(result: RowResult) -> dict[str, Any]:
    """Return a collected row as JSON values: the phase by name, a confidence that is NaN as None."""
    confidence = None if result.confidence != result.confidence else result.confidence
    return result._asdict() | {"phase": result.phase.name, "confidence": confidence}


def _appended(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise BadOption(
            f"cannot write a trace to {path} ({error.strerror}); give a file in a folder that exists"
        ) from error


_SHOWN = ("step", "n_output", "n_waiting", "n_running", "free_pages", "host_pages", "moving_pages", "moves")
"""What a trace says of a step as it is; times are left out, so that runs can be compared."""


class RecordTrace(Wrapper):
    """Writes one JSON line per step: which rows were placed, in which phase, and what was collected.

    Args:
        engine: The engine to watch.
        path: File to append to; None keeps the trace in memory only.

    Attributes:
        steps: The trace so far, one plain dictionary per step.
    """

    def __init__(self, engine: AnyEngine, path: str | Path | None = None) -> None:
        super().__init__(engine)
        self._file = _appended(Path(path)) if path else None
        self.steps: list[dict[str, Any]] = []

    def step(self) -> StepResult:
        """Run one round and write it down."""
        result = self.engine.step()
        info = result.info
        shown = {name: getattr(info, name) for name in _SHOWN}
        step = shown | {
            "placed": [
                {"seat": r.seat, "phase": r.phase.name, "n_query": r.n_query, "k": r.k} for r in info.placed.rows
            ],
            "preempted": list(info.placed.preempted),
            "collected": [_plain(r) for r in info.collected],
        }
        self.steps.append(step)
        if self._file:
            self._file.write(json.dumps(step) + "\n")
        return result

    def reset(self) -> None:
        """Forget all requests and the trace."""
        super().reset()
        self.steps.clear()

    def close(self) -> None:
        """Drop everything; a file keeps what was written."""
        super().close()
        if self._file:
            self._file.close()
            self._file = None
