"""An interrupt anywhere on a step's path loses no token, repeats none and changes none.

`KeyboardInterrupt` is raised at a chosen call of a function of the package, in adding, stepping and aborting; what the
next calls return, put together, is what dense decoding emits.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core.params import SamplingParams
from sparsespec.engine.engine import Engine
from sparsespec.engine.lazy import LazyDevice
from sparsespec.engine.outputs import Completion
from tests.engine.decoders import Late, letters
from tests.engine.running import LOOPS, NGRAM, SPARSE, assert_empty, compose, greedy, oracle, prompt_of, sampled
from tests.quick import quick_last

PARTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "ngram": {**NGRAM, "tiers": "gpu"},
    "tight gpu": {**SPARSE, "scheduler": "staggered", "num_gpu_blocks": 16},
    "reserve": {**SPARSE, "tiers": "reserve"},
    "tight host": {
        **SPARSE,
        "scheduler": "staggered",
        "tiers": "host(low=0.1,high=0.2,chunk=3)",
        "num_gpu_blocks": 16,
    },
}
WISHES: tuple[SamplingParams, ...] = (
    sampled(9, n=2),
    greedy(11),
    sampled(8, seed=5, logprobs=1),
    sampled(12, stop="AB"),
)
MOST_CALLS = 500
"""A step of these engines makes a few hundred calls."""


@contextmanager
def interrupted(at: int) -> Iterator[None]:
    """Raise `KeyboardInterrupt` at the `at`-th call of a function of the package inside."""
    left = at

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal left
        # what is raised while a generator is closed goes nowhere
        ours = "/sparsespec/" in frame.f_code.co_filename and not frame.f_code.co_flags & inspect.CO_GENERATOR
        if event == "call" and ours:
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


@dataclass
class Client:
    """Calls an engine, is interrupted now and then, and puts together what it is told."""

    engine: Engine
    dice: random.Random
    chance: float = 0.4
    most: int = 40
    survived: int = 0
    asked: dict[int, SamplingParams] = field(default_factory=dict[int, SamplingParams])
    tokens: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict[tuple[int, int], tuple[int, ...]])
    text: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    done: dict[tuple[int, int], Completion] = field(default_factory=dict[tuple[int, int], Completion])

    def call(self, fn: Callable[[], Any]) -> Any:
        """Return what `fn` returns; None if it was interrupted."""
        if self.survived >= self.most or self.dice.random() >= self.chance:
            return fn()
        try:
            with interrupted(self.dice.randint(1, MOST_CALLS)):
                return fn()
        except KeyboardInterrupt:
            self.survived += 1
            return None

    def add(self, shift: int, params: SamplingParams) -> None:
        """Add a request until it is there."""
        while (group := self.call(lambda: self.engine.add(prompt_of(14, shift), params))) is None:
            pass
        self.asked[group] = params

    def step(self) -> None:
        """Step once, and take the events."""
        result = self.call(self.engine.step)
        for event in result.events if result else ():
            key = event.request_id, event.sample_index
            assert key not in self.done, "something was said of a sample that had ended"
            self.tokens[key] = self.tokens.get(key, ()) + event.token_ids
            self.text[key] = self.text.get(key, "") + event.text
            if event.completion is not None:
                self.done[key] = event.completion

    def judge(self) -> None:
        """Raise unless everything that was asked for was said once, and is dense's."""
        assert self.done.keys() == {(g, i) for g, params in self.asked.items() for i in range(params.n)}
        for key, done in self.done.items():
            params = self.asked[key[0]]
            assert done.error is None
            assert self.tokens[key] == done.token_ids
            assert self.text[key] == done.text
            want = oracle(done, params)
            if done.finish_reason == "stop":
                assert done.token_ids == want[: len(done.token_ids)]
                assert done.text == letters(want).partition("AB")[0]
            else:
                assert done.token_ids == want
                assert "AB" not in done.text or not params.stop
            assert (done.logprobs is None) == (params.logprobs is None)
            assert done.logprobs is None or len(done.logprobs) == len(done.token_ids)


def serve(parts: str, loop: str, seed: int, *, chance: float = 0.4) -> int:
    """Serve a few requests under interrupts; return how many interrupts were survived."""
    dice = random.Random(f"{parts}/{loop}/{seed}")
    device = LazyDevice(dice.choice((0.0, 0.3, 1.0)), seed)
    engine = compose(loop=loop, device=device, decoder=Late, **PARTS[parts])
    client = Client(engine, dice, chance)
    wishes = list(dice.sample(WISHES, 3))
    for _ in range(4000):
        if wishes and dice.random() < 0.3:
            client.add(len(wishes), wishes.pop())
        elif engine.has_work:
            client.step()
        elif not wishes:
            break
    client.judge()
    assert_empty(engine)
    return client.survived


@pytest.mark.parametrize("loop", quick_last(LOOPS))
@pytest.mark.parametrize("parts", PARTS)
def test_interrupts_change_nothing(parts: str, loop: str) -> None:
    assert sum(serve(parts, loop, seed) for seed in range(3)) > 20


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from(sorted(PARTS)), st.sampled_from(LOOPS))
@pytest.mark.slow
def test_interrupts_anywhere_change_nothing(seed: int, parts: str, loop: str) -> None:
    serve(parts, loop, seed, chance=0.6)


def test_an_aborted_request_under_interrupts_keeps_what_it_said() -> None:
    engine = compose(loop="resident", decoder=Late, **PARTS["tight host"])
    client = Client(engine, random.Random(3), 0.5)
    client.add(0, sampled(30))
    client.add(1, sampled(10))
    while len(client.tokens.get((0, 0), ())) < 6:
        client.step()
    while (0, 0) not in client.done:
        client.call(lambda: engine.abort(0))
        client.step()
    while engine.has_work:
        client.step()
    done = client.done[0, 0]
    assert done.finish_reason == "abort"
    assert done.token_ids == client.tokens[0, 0] == oracle(done, sampled(30))[: len(done.token_ids)]
    assert client.done[1, 0].token_ids == oracle(client.done[1, 0], sampled(10))
    assert client.survived > 3
    assert_empty(engine)
