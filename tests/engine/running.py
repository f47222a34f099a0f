"""Small engines over the tiny model, ways to run them to an end, and what they should have said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Row
from sparsespec.core.spec import EngineSpec, PartSpec, preset
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import Completion, StepResult
from sparsespec.engine.request import Request
from sparsespec.engine.request_table import Bounds
from sparsespec.models.transformer import Transformer
from sparsespec.testing.cases import EOS, model_of
from sparsespec.testing.oracle import dense_tokens
from tests.quick import quick_last

KEY = ("qwen3", 1)
LOOPS = ("sync", "delayed", "resident")
EVERY = quick_last(LOOPS)
"""All loops; the quick one is `resident`, in which nobody waits and everything may be late."""
PILLAR = "pillar(budget=0.3,min_budget=8)"
SPARSE = {"selector": PILLAR, "length": "fixed(draft=4)"}
FULL = {"selector": "full", "length": "fixed(draft=4)"}
NGRAM = {"proposer": "ngram", "length": "fixed(draft=0,guess=4)"}
TRIFORCE = {**SPARSE, "proposer": "ngram", "length": "fixed(draft=4,guess=3)"}
COMPOSITIONS: dict[str, dict[str, Any]] = {
    "dense": {},
    "full": FULL,
    "sparse": SPARSE,
    "ngram": NGRAM,
    "triforce": TRIFORCE,
}
STEPS = 2000

Done = dict[tuple[int, int], Completion]


def greedy(max_tokens: int = 12, **changes: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_tokens": max_tokens, "ignore_eos": True, **changes})


def sampled(max_tokens: int = 12, **changes: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.9, "max_tokens": max_tokens, "ignore_eos": True, **changes})


def prompt_of(length: int = 20, shift: int = 0) -> tuple[int, ...]:
    return tuple((j * j + 5 * shift) % 13 for j in range(length))


def compose(base: str | EngineSpec = "dense", model: Transformer | None = None, **changes: Any) -> Engine:
    """Return a checked engine with small pages; outside parts go in by shelf."""
    sizes: dict[str, Any] = {"max_num_seqs": 3, "block_size": 4, "checked": True}
    return Engine.compose(
        model or model_of(KEY), base, **(changes if isinstance(base, EngineSpec) else sizes | changes)
    )


def small(name: str) -> EngineSpec:
    """Return a preset whose drafts are few and read little of a short context, in a small checked engine."""
    spec = preset(name).spec
    if spec.selector.name != "none":
        options = {**spec.selector.options, "min_budget": 8, "budget": 0.2}
        few = PartSpec("length", spec.length.name, {**spec.length.options, "draft": 4})
        spec = spec.replace(selector=PartSpec("selector", spec.selector.name, options), length=few)
    return spec.replace(engine={"max_num_seqs": 3, "block_size": 4, "checked": True})


def add(engine: Engine, params: SamplingParams, n: int = 3, length: int = 20) -> None:
    """Add prompts of one length."""
    for shift in range(n):
        engine.add(prompt_of(length, shift), params)


def run(engine: Any, each: Callable[[StepResult], None] | None = None) -> Done:
    """Step until nothing is left, and return completions by (request, sample)."""
    done: Done = {}
    for _ in range(STEPS):
        if not engine.has_work:
            return done
        result = engine.step()
        for event in result.events:
            if event.completion is not None:
                assert (event.request_id, event.sample_index) not in done, "a sample ended twice"
                done[event.request_id, event.sample_index] = event.completion
        if each:
            each(result)
    raise AssertionError(f"still at work after {STEPS} steps")


def until(engine: Engine, reached: Callable[[StepResult], bool]) -> Done:
    """Step until `reached`, and return the completions so far."""
    done: Done = {}
    for _ in range(STEPS):
        assert engine.has_work, "the work ended first"
        result = engine.step()
        done |= {(e.request_id, e.sample_index): e.completion for e in result.events if e.completion is not None}
        if reached(result):
            return done
    raise AssertionError(f"not reached in {STEPS} steps")


def requests_of(engine: Engine, request_id: int) -> list[Request]:
    """Return the samples of a request that wait or run, in order."""
    alive = [*engine._queue.waiting, *engine._table.requests.values()]
    return sorted((r for r in alive if r.group == request_id), key=lambda r: r.sample_index)


def said(engine: Engine, request: Request) -> tuple[int, ...]:
    """Return the output of a request so far."""
    processor = engine._output_processor
    return processor._output(request, 0, processor._n(request))


class Known:
    """What an engine's table says of a seated request."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self.engine, self.request = engine, request

    def __getattr__(self, name: str) -> Any:
        if self.request.seat < 0:
            return 0
        return getattr(self.engine._table, name)[self.request.seat].item()

    @property
    def in_flight(self) -> list[Row]:
        """Its decoding rows that were launched and not collected, oldest first."""
        return [
            row
            for step in self.engine._executor.in_flight
            for row, number in zip(step.decoding, step.number.tolist(), strict=False)
            if number == self.request.number
        ]

    @property
    def bounds(self) -> Bounds:
        """Its bounds, as plain numbers."""
        bounds = self.engine._table.bounds(self.engine._executor.in_flight)
        return Bounds(*(column[self.request.seat].item() for column in bounds))


def oracle(done: Completion, params: SamplingParams, eos_ids: tuple[int, ...] = (EOS,)) -> tuple[int, ...]:
    """Return what dense decoding emits for a completion's prompt, seed and sample."""
    return _oracle(
        done.prompt_token_ids, replace(params, n=1, stop=(), logprobs=None), done.seed, done.sample_index, eos_ids
    )


@cache
def _oracle(
    prompt: tuple[int, ...], params: SamplingParams, seed: int, sample_index: int, eos_ids: tuple[int, ...]
) -> tuple[int, ...]:
    return tuple(dense_tokens(model_of(KEY), prompt, params, seed=seed, sample_index=sample_index, eos_ids=eos_ids))


def assert_dense(done: Completion, params: SamplingParams) -> None:
    assert done.error is None
    assert done.token_ids == oracle(done, params)


def assert_empty(engine: Engine) -> None:
    """Raise unless nobody is left anywhere and every page is free, in both tiers."""
    tiers = engine._parts.tiers
    assert not engine.has_work
    tiers.check()
    assert tiers.free_pages() == engine.geometry.num_gpu_blocks - 1
    assert (tiers.host_pages(), tiers.moving_pages()) == (0, 0)
    assert not any(tiers.pages(seat) for seat in range(engine.geometry.n_seats))
    assert not set(tiers.away())
    assert not engine._executor.is_busy
    assert all(request.completion for request in engine._output_processor._samples)


def finish(
    engine: Engine,
    params: SamplingParams,
    each: Callable[[StepResult], None] | None = None,
    done: Done | None = None,
) -> Done:
    """Run all to their ends; raise unless they and those in `done` say what dense decoding says and nothing is left."""
    done = {**(done or {}), **run(engine, each)}
    for completion in done.values():
        assert_dense(completion, params)
    assert_empty(engine)
    return done


def is_sentence(message: str) -> bool:
    """Say whether a message is one line and one sentence."""
    return "\n" not in message and ". " not in message and len(message) > 20
