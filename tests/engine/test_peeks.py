"""A step's own device code looks at no value from the host, so that it can be captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sparsespec.attention.reference import ReferenceAttention
from sparsespec.engine import graph_runner
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.testing.checks.peeks import Guard, without_peeks
from tests.engine.running import compose, greedy, prompt_of, run, sampled
from tests.quick import quick_last

PILLAR = "pillar(budget=0.1,min_budget=8,smooth=0.5,pool=3)"
COMPOSITIONS: dict[str, dict[str, Any]] = {
    "dense": {},
    "pillar": {"selector": PILLAR, "length": "fixed(draft=4)", "scheduler": "staggered"},
    "triforce": {
        "selector": "window(budget=0.1,min_budget=8)",
        "proposer": "ngram",
        "length": "fixed(draft=4,guess=3)",
    },
    "guesses": {"proposer": "ngram", "length": "fixed(draft=0,guess=3)"},
}
"""Parts that say they can be captured; the reference kernels, which do not, are let off below."""


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Guard]:
    """Watch every step of every engine; returns a list that gains a guard in each."""
    guards: list[Guard] = []
    honest = graph_runner.GraphRunner.run

    def run(*args: Any) -> None:
        with without_peeks("a step") as guard:
            guards.append(guard)
            honest(*args)

    def off_duty(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with guards[-1].off_duty():
                return function(*args, **options)

        return call

    monkeypatch.setattr(graph_runner.GraphRunner, "run", run)
    for verb in ("plan", "run", "read"):
        monkeypatch.setattr(ReferenceAttention, verb, off_duty(getattr(ReferenceAttention, verb)))
    monkeypatch.setattr(SharedNoise, "sample", off_duty(SharedNoise.sample))
    monkeypatch.setattr(graph_runner, "logprobs", off_duty(graph_runner.logprobs))
    return guards


@pytest.mark.parametrize("name", quick_last(["dense", "guesses", "pillar", "triforce"]))
def test_a_step_peeks_at_nothing(name: str, watched: list[Guard]) -> None:
    engine = compose(**COMPOSITIONS[name], checked=False)
    for i in range(3):
        engine.add(prompt_of(30 + 7 * i, i), sampled(8, seed=i, logprobs=2 if i else None))
    done = run(engine)
    assert [completion.error for completion in done.values()] == [None] * 3
    assert len(watched) > 8


def test_a_peek_would_be_noticed(watched: list[Guard], monkeypatch: pytest.MonkeyPatch) -> None:
    honest = graph_runner.lay_out
    monkeypatch.setattr(graph_runner, "lay_out", lambda batch, *sizes: (batch.live.tolist(), honest(batch, *sizes)))
    engine = compose(checked=False)
    engine.add(prompt_of(3), greedy(2))
    (done,) = run(engine).values()
    assert done.error is not None
    assert "ContractBroken: a step looks at a tensor's value from the host (tolist)" in done.error
