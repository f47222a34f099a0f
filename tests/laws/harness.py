"""Runs a drawn case through the engine and holds it to the laws while it runs.

Each law has a name, and breaking it raises `LawBroken` with that name: so a test of the tests can ask not only
whether a mutant was caught, but by which law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import torch

from sparsespec.core.errors import ContractBroken
from sparsespec.core.params import SamplingParams
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import Completion
from sparsespec.metrics.speculation import SpecMetrics
from sparsespec.models.transformer import Transformer
from sparsespec.testing.cases import EOS, Ask, Case, ModelKey, engine_of, model_of
from sparsespec.testing.oracle import dense_tokens, keys_and_values


class LawBroken(AssertionError):
    """A law was broken; `law` is its name."""

    def __init__(self, law: str, message: str) -> None:
        super().__init__(f"{law}: {message}")
        self.law = law


@dataclass
class Seen:
    """What a run showed, for tests that must not be vacuous."""

    steps: int = 0
    finished: int = 0
    tokens: int = 0
    preemptions: int = 0
    spilled: int = 0
    restored: int = 0
    shared: int = 0
    kv_checks: int = 0
    metrics: SpecMetrics = field(default_factory=SpecMetrics)

    def add(self, other: Seen) -> None:
        """Add what another run showed."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


def run(
    case: Case,
    *,
    kv_every: int = 0,
    seen: Seen | None = None,
    on_done: Callable[[Completion], None] | None = None,
    **changes: Any,
) -> Seen:
    """Decode a case with a fresh engine; raises `LawBroken` where a law does not hold.

    Args:
        case: What to run.
        kv_every: Compare the cache with a clean prefill every so many steps; 0 is never.
        seen: Counts to add to.
        on_done: Called with every completion.
        changes: Parts of the engine to replace.
    """
    seen = seen or Seen()
    engine = engine_of(case, **changes)
    waiting, ids = list(case.requests), dict[int, Ask]()
    bound, step = step_bound(case), 0
    while waiting or engine.has_work:
        while waiting and waiting[0].at <= step:
            ask = waiting.pop(0)
            ids[engine.add(ask.prompt, ask.params)] = ask
        for request, ask in ids.items():
            if ask.abort == step:
                engine.abort(request)
        for event in _step(engine, seen):
            if event.completion is not None:
                _judge(case, ids[event.request_id], event.completion, seen)
                if on_done:
                    on_done(event.completion)
        step += 1
        seen.steps += 1
        if kv_every and step % kv_every == 0:
            check_kv(model_of(case.model_key), engine, seen)
        if step > bound:
            raise LawBroken("bounded steps", f"more than {bound} steps for {case}")
    _check_empty(engine)
    return seen


def step_bound(case: Case) -> int:
    """Return how many steps a run may take at most: generous, and in proportion to the work."""
    work = sum(a.params.n * (a.params.max_tokens + len(a.prompt)) for a in case.requests)
    return 300 + 20 * work + max(a.at for a in case.requests)


def _step(engine: Engine, seen: Seen) -> Any:
    try:
        result = engine.step()
        seen.spilled += result.info.n_spilled
        seen.restored += result.info.n_restored
        return result.events
    except ContractBroken as error:
        raise LawBroken(_law_of(str(error)), str(error)) from error
    except AssertionError as error:
        raise LawBroken("assertion", str(error)) from error


def _law_of(message: str) -> str:
    """Name the law behind a message of one of our own parts."""
    for words, law in (
        ("live queries", "capacity"),
        ("tail_from", "selection contract"),
        ("not finite", "NaN poison"),
        ("not probabilities", "NaN poison"),
        ("finite best logit", "NaN poison"),
        ("page", "page books"),
    ):
        if words in message:
            return law
    return "assertion"


def _judge(case: Case, ask: Ask, done: Completion, seen: Seen) -> None:
    if done.error:
        raise LawBroken(_law_of(done.error), done.error)
    expected = _expected(case.model_key, ask.prompt, replace(ask.params, n=1), done.seed, done.sample_index)
    got = done.token_ids
    if got != (expected[: len(got)] if done.finish_reason == "abort" else expected):
        raise LawBroken("exact tokens", f"{got} instead of {expected} for {ask} in {case}")
    seen.finished += 1
    seen.tokens += len(got)
    seen.preemptions += done.metrics.num_preemptions
    seen.metrics = seen.metrics + done.metrics


@cache
def _expected(
    model_key: ModelKey, prompt: tuple[int, ...], params: SamplingParams, seed: int, sample_index: int
) -> tuple[int, ...]:
    """Return what the oracle emits; remembered, because laws that vary the engine ask again."""
    return tuple(
        dense_tokens(model_of(model_key), prompt, params, seed=seed, sample_index=sample_index, eos_ids=(EOS,))
    )


def check_kv(model: Transformer, engine: Engine, seen: Seen) -> None:
    """Compare the cache of every seat's true positions with a clean prefill of its text."""
    executor, pool = engine._executor, engine._pool
    # a test may look at device state once everything launched has run
    engine._device.wait(engine._device.launch(lambda: None))
    state = executor._state
    away = engine._parts.tiers.away()
    for seat in engine._table.requests:
        filled = int(state.n_computed[seat])
        if seat in away or engine._table.preempted[seat] or not filled or not engine._parts.tiers.pages(seat):
            continue
        text = state.tokens[seat, :filled].tolist()
        positions = torch.arange(filled)
        size = engine.geometry.block_size
        slots = state.table[seat, positions // size] * size + positions % size
        for name, pages, truth in zip("kv", (pool.k, pool.v), keys_and_values(model, text), strict=True):
            held = pages.flatten(1, 2)[:, slots]
            if not torch.allclose(held, truth, rtol=1e-7, atol=1e-9, equal_nan=False):
                layer, position = (held - truth).abs().amax((2, 3)).nan_to_num(1e9).gt(1e-9).nonzero()[0].tolist()
                raise LawBroken("KV truth", f"{name} of layer {layer}, position {position} is not a clean prefill's")
        seen.kv_checks += 1
        seen.shared += engine._parts.tiers.shared_pages(seat) > 0


def _check_empty(engine: Engine) -> None:
    tiers = engine._parts.tiers
    tiers.check()
    if tiers.free_pages() != engine.geometry.num_gpu_blocks - 1:
        raise LawBroken("page books", "pages are still held after the last request ended")
