"""Where an output ends, and what it says about why."""

from __future__ import annotations

from typing import Any

import pytest

from sparsespec.engine.outputs import Completion
from sparsespec.testing.cases import EOS
from tests.engine.decoders import Broken, Late, Letters, letters
from tests.engine.running import (
    COMPOSITIONS,
    EVERY,
    FULL,
    SPARSE,
    assert_dense,
    assert_empty,
    compose,
    prompt_of,
    run,
    sampled,
)

PROMPT = prompt_of(20)


def _said(params: Any = None, each: Any = None, **changes: Any) -> Completion:
    engine = compose(**changes)
    engine.add(PROMPT, params or sampled(16, seed=3))
    (done,) = run(engine, each).values()
    assert_empty(engine)
    return done


TOKENS = _said().token_ids


def _late_first(tokens: tuple[int, ...]) -> int:
    """Return the index of a token that is new, late, and not last."""
    return max(i for i in range(len(tokens) - 3) if tokens[i] not in tokens[:i])


@pytest.mark.parametrize("loop", EVERY)
def test_a_stop_token_inside_an_accepted_run_ends_the_output_there(loop: str) -> None:
    at, overshot = _late_first(TOKENS), list[int]()
    collected = 0

    def look(result: Any) -> None:
        nonlocal collected
        collected += sum(len(r.tokens) for r in result.info.collected if r.phase.name == "VERIFY")
        overshot.append(collected)

    done = _said(sampled(16, seed=3, stop_token_ids=(TOKENS[at],)), look, loop=loop, **FULL)
    assert overshot[-1] > at + 1, "no run went over the stop: this proves nothing"
    assert done.token_ids == TOKENS[: at + 1]
    assert (done.finish_reason, done.stop_reason) == ("stop", TOKENS[at])
    assert done.metrics.num_output_tokens == at + 1


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_the_first_of_many_stop_tokens_counts(composition: str) -> None:
    params = sampled(16, seed=3, stop_token_ids=TOKENS[4:])
    done = _said(params, loop="resident", **COMPOSITIONS[composition])
    assert_dense(done, params)
    assert done.finish_reason == "stop"
    assert done.stop_reason == done.token_ids[-1]


def test_the_models_own_end_counts_unless_it_is_ignored() -> None:
    end = TOKENS[_late_first(TOKENS)]
    stopped = _said(sampled(16, seed=3, ignore_eos=False), eos_ids=[end], **SPARSE)
    assert stopped.token_ids == TOKENS[: TOKENS.index(end) + 1]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", end)
    went_on = _said(eos_ids=[end], **SPARSE)
    assert (went_on.token_ids, went_on.finish_reason) == (TOKENS, "length")


def test_an_engine_takes_the_end_tokens_of_its_model_unless_others_are_given() -> None:
    assert compose()._eos_ids == {EOS}
    assert compose(eos_ids=())._eos_ids == set()


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("max_tokens", [1, 2, 5, 7])
def test_max_tokens_is_exact(composition: str, max_tokens: int) -> None:
    done = _said(sampled(max_tokens, seed=3), loop="resident", **COMPOSITIONS[composition])
    assert done.token_ids == TOKENS[:max_tokens]
    assert (done.finish_reason, done.stop_reason) == ("length", None)


def test_a_stop_at_the_last_token_is_a_stop() -> None:
    at = _late_first(TOKENS)
    done = _said(sampled(at + 1, seed=3, stop_token_ids=(TOKENS[at],)))
    assert (done.finish_reason, done.stop_reason) == ("stop", TOKENS[at])


@pytest.mark.parametrize("decoder", [Letters, Late])
@pytest.mark.parametrize("loop", EVERY)
def test_a_stop_string_across_tokens_cuts_the_text_and_is_named(loop: str, decoder: Any) -> None:
    at = _late_first(TOKENS)
    stop = letters(TOKENS[at : at + 3])
    params, shown = sampled(16, seed=3, stop=("never", stop)), list[str]()
    each = lambda result: shown.extend(event.text for event in result.events)  # noqa: E731
    done = _said(params, each, loop=loop, decoder=decoder, **SPARSE)
    assert (done.finish_reason, done.stop_reason) == ("stop", stop)
    assert done.text == "".join(shown) == letters(TOKENS[:at])
    # the output keeps the tokens that make up the stop; a late decoder needs one more to be certain
    assert done.token_ids == TOKENS[: at + 3 + (decoder is Late)]


def test_a_stream_never_shows_what_is_cut_later() -> None:
    at = _late_first(TOKENS)
    stop = letters(TOKENS[at : at + 3])
    engine, shown = compose(decoder=Letters), ""
    engine.add(PROMPT, sampled(16, seed=3, stop=stop))
    while engine.has_work:
        for event in engine.step().events:
            shown += event.text
            assert letters(TOKENS[:at]).startswith(shown)
    assert shown == letters(TOKENS[:at])


def test_text_that_was_held_back_is_shown_at_the_end() -> None:
    engine, shown = compose(decoder=Letters), list[str]()
    engine.add(PROMPT, sampled(16, seed=3, stop=letters(TOKENS) + "?"))
    done = run(engine, lambda result: shown.extend(event.text for event in result.events if event.token_ids))[0, 0]
    assert shown == [""] * 15 + [letters(TOKENS)]
    assert (done.text, done.finish_reason, done.stop_reason) == (letters(TOKENS), "length", None)


def test_a_stop_token_adds_no_text() -> None:
    at = _late_first(TOKENS)
    done = _said(sampled(16, seed=3, stop_token_ids=(TOKENS[at],)), decoder=Letters)
    assert done.token_ids == TOKENS[: at + 1]
    assert done.text == letters(TOKENS[:at])


def test_samples_have_texts_of_their_own() -> None:
    engine = compose(decoder=Late, **SPARSE)
    engine.add(PROMPT, sampled(9, n=3))
    texts = {letters(done.token_ids): done.text for done in run(engine).values()}
    assert len(texts) == 3
    assert all(text == said for text, said in texts.items())


@pytest.mark.parametrize("loop", EVERY)
def test_an_aborted_text_is_whole_as_far_as_it_got(loop: str) -> None:
    engine, shown = compose(loop=loop, decoder=Late, **SPARSE), ""
    request = engine.add(PROMPT, sampled(16, seed=3, stop="?!"))
    for _ in range(9):
        shown += "".join(event.text for event in engine.step().events)
    engine.abort(request)
    (event,) = engine.step().events
    assert event.completion is not None
    assert 0 < len(event.completion.token_ids) < 16
    assert event.completion.text == shown + event.text == letters(event.completion.token_ids)


@pytest.mark.parametrize("loop", EVERY)
def test_a_decoder_that_breaks_costs_its_own_request_only(loop: str) -> None:
    token = TOKENS[_late_first(TOKENS)]
    made = list[Any]()

    def decoder() -> Any:
        made.append(Letters() if made else Broken(token))
        return made[-1]

    engine = compose(loop=loop, decoder=decoder, **SPARSE)
    for _ in range(2):
        engine.add(PROMPT, sampled(16, seed=3))
    done = run(engine)
    assert done[0, 0].finish_reason == "error"
    assert done[0, 0].error == "ValueError: no letter"
    assert done[0, 0].text == letters(TOKENS[: TOKENS.index(token)])
    assert_dense(done[1, 0], sampled(16, seed=3))
    assert_empty(engine)
