"""Whatever a part does wrong costs the requests it was done to, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sparsespec.core.errors import ContractBroken
from sparsespec.core.params import SamplingParams
from sparsespec.engine.engine import Engine
from tests.engine.culprits import (
    ILLEGAL,
    Faulty,
    ForgetsNot,
    JudgesNot,
    LearnsNot,
    ObservesNot,
    PlansIllegally,
    Poisoned,
    ProposesNot,
    SelectsNot,
)
from tests.engine.running import (
    EVERY,
    FULL,
    PILLAR,
    SPARSE,
    Done,
    add,
    assert_dense,
    assert_empty,
    compose,
    oracle,
    prompt_of,
    run,
    sampled,
)
from tests.quick import quick_last

PARAMS = sampled(6)


def _serve(engine: Engine, n: int = 3, params: SamplingParams = PARAMS) -> Done:
    add(engine, params, n, length=13)
    done = run(engine)
    assert_empty(engine)
    return done


def _broken(done: Done, error: str, params: SamplingParams = PARAMS) -> set[tuple[int, int]]:
    """Return who ended in `error`, having checked that they said nothing wrong and everybody else all of it."""
    broken = {key for key, completion in done.items() if completion.finish_reason == "error"}
    for key, completion in done.items():
        if key in broken:
            assert completion.error == error
            assert completion.token_ids == oracle(completion, params)[: len(completion.token_ids)]
        else:
            assert_dense(completion, params)
    return broken


def _serves_again(engine: Engine) -> None:
    engine.add(prompt_of(9), PARAMS)
    assert [c.finish_reason for c in run(engine).values()] == ["length"]
    assert_empty(engine)


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("after", [0, 15])
def test_a_length_that_cannot_propose_for_one_request_costs_that_one(loop: str, after: int) -> None:
    engine = compose(loop=loop, selector=PILLAR, length=ProposesNot(number=1, after=after))
    done = _serve(engine, params=sampled(10))
    assert _broken(done, "ValueError: no proposal", sampled(10)) == {(1, 0)}
    assert bool(done[1, 0].token_ids) == bool(after)
    _serves_again(engine)


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("phase", ["DRAFT", "VERIFY"])
def test_a_length_that_cannot_observe_one_row_costs_its_request(loop: str, phase: str) -> None:
    engine = compose(loop=loop, selector=PILLAR, length=ObservesNot(phase))
    done = _serve(engine)
    assert _broken(done, "KeyError: 'no observation'") == {(1, 0)}
    assert bool(done[1, 0].token_ids) == (phase == "VERIFY")
    _serves_again(engine)


DEVICE_FAULTS: dict[str, dict[str, Any]] = {
    "reset": {"selector": ForgetsNot(3), "length": "fixed(draft=4)"},
    "select": {"selector": SelectsNot(5), "length": "fixed(draft=4)"},
    "observe": {"selector": LearnsNot(5), "length": "fixed(draft=4)"},
    "verify": {**SPARSE, "verifier": JudgesNot(5)},
}


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("what", [*DEVICE_FAULTS, 1, 2, 4])
def test_a_part_or_a_forward_that_breaks_on_the_device_costs_those_aboard(what: str | int, loop: str) -> None:
    if isinstance(what, int):
        engine = compose(model=Faulty(what), loop=loop, max_num_seqs=2, **SPARSE)
    else:
        fresh = {shelf: type(p)(p.at) if hasattr(p, "at") else p for shelf, p in DEVICE_FAULTS[what].items()}
        engine = compose(loop=loop, max_num_seqs=2, scheduler="staggered", **fresh)
    broken = _broken(_serve(engine), "RuntimeError: the fuse blew")
    # two seats were taken; who waited is served as if nothing had been
    assert broken
    assert broken <= {(0, 0), (1, 0)}
    _serves_again(engine)


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("checked", [False, True])
def test_samples_that_took_over_pages_which_were_never_filled_are_lost_with_them(loop: str, checked: bool) -> None:
    # the first flight fills the prompt for all; in a loop that lags, the others have taken over before it is heard
    engine, params = compose(model=Faulty(1), loop=loop, checked=checked, **SPARSE), sampled(6, n=3)
    done = _serve(engine, 1, params)
    lost = [(0, 0)] if loop == "sync" else [(0, sample_index) for sample_index in range(3)]
    assert _broken(done, "RuntimeError: the fuse blew", params) == set(lost)
    _serves_again(engine)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("loop", EVERY)
def test_a_row_of_logits_that_is_not_finite_costs_its_own_request(loop: str, value: float) -> None:
    # call 3 of 3 requests in lockstep: their second drafts, one row each
    engine = compose(model=Poisoned(at=3, row=1, value=value), loop=loop, **FULL)
    error = "SparseSpecError: the model's logits were not finite"
    assert _broken(_serve(engine, 3), error) == {(1, 0)}
    _serves_again(engine)


def test_a_token_that_can_never_be_drawn_is_no_fault() -> None:
    model = Poisoned(at=0, row=0, value=0.0)
    plain = model.parameters.head

    def masked(hidden: Any) -> Any:
        logits = hidden @ plain.T
        logits[:, 7] = -float("inf")
        return logits

    model.logits = masked  # type: ignore[method-assign]
    engine = compose(model=model, **SPARSE)
    engine.add(prompt_of(18), sampled(40, temperature=2.0))
    (done,) = run(engine).values()
    assert done.error is None
    assert 7 not in done.token_ids


@pytest.mark.parametrize("how", ILLEGAL)
@pytest.mark.parametrize("loop", quick_last(("sync", "resident")))
def test_an_illegal_plan_raises_and_launches_nothing(how: str, loop: str) -> None:
    engine = compose(loop=loop, selector=PILLAR, length="fixed(draft=4)", scheduler=PlansIllegally(how))
    add(engine, PARAMS, 2, length=13)
    done, raised = Done(), 0
    while engine.has_work:
        out, free = len(engine._executor.in_flight), engine._parts.tiers.free_pages()
        try:
            events: Sequence[Any] = engine.step().events
        except ContractBroken as error:
            assert "the scheduler planned" in str(error)
            assert (len(engine._executor.in_flight), engine._parts.tiers.free_pages()) == (out, free)
            raised += 1
            continue
        done |= {(e.request_id, e.sample_index): e.completion for e in events if e.completion}
    assert raised == 1
    assert _broken(done, "") == set()
    assert len(done) == 2
    assert_empty(engine)


def test_a_length_that_breaks_its_promise_is_a_bug_and_says_so() -> None:
    class Boaster(ProposesNot):
        max_draft = 3  # type: ignore[assignment]

    engine = compose(selector=PILLAR, length=Boaster(number=-1))
    engine.add(prompt_of(3), PARAMS)
    with pytest.raises(ContractBroken, match="promised at most draft=3"):
        run(engine)
    engine.abort(0)
    assert run(engine)[0, 0].finish_reason == "abort"
    assert_empty(engine)
