"""What callers bring along from vLLM is answered with one sentence, wherever they type it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest

from sparsespec import LLM, Engine, EngineSpec, SamplingParams
from sparsespec.cli import app as cli
from sparsespec.core.errors import UnknownName
from sparsespec.core.spec import SHELVES
from sparsespec.core.vllm_names import _GROUPS, VLLM_NAMES, sentence_for
from sparsespec.engine.compose import OPTIONS
from sparsespec.models.tiny import tiny
from tests.cli.mistakes import Capture, one_sentence
from tests.engine.running import is_sentence

MODEL = tiny()
MESSAGES: Any = [{"role": "user", "content": "the fox"}]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(MODEL, "dense") as llm:
        yield llm


DOORS: dict[str, Callable[[LLM, dict[str, Any]], object]] = {
    "LLM": lambda llm, given: LLM(MODEL, **given),
    "LLM of a model that is not here": lambda llm, given: LLM("nobody/nothing", **given),
    "Engine.compose": lambda llm, given: Engine.compose(MODEL, **given),
    "a stored spec": lambda llm, given: Engine.compose(MODEL, EngineSpec(engine=given)),
    "EngineSpec.of": lambda llm, given: EngineSpec.of(**given),
    "EngineSpec.from_json": lambda llm, given: EngineSpec.from_json(json.dumps(given)),
    "SamplingParams": lambda llm, given: SamplingParams(**given),
    "SamplingParams.from_dict": lambda llm, given: SamplingParams.from_dict(given),
    "SamplingParams.from_json": lambda llm, given: SamplingParams.from_json(json.dumps(given)),
    "generate": lambda llm, given: llm.generate([1, 2], **given),
    "chat": lambda llm, given: llm.chat(MESSAGES, **given),
    "stream": lambda llm, given: list(llm.stream([1, 2], **given)),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_name_is_answered_with_its_sentence(door: str, llm: LLM) -> None:
    for name in VLLM_NAMES:
        with pytest.raises(UnknownName) as caught:
            DOORS[door](llm, {name: 1})
        assert str(caught.value) == sentence_for(name)
    assert not llm.engine.has_work


@pytest.mark.parametrize("command", ["generate", "chat", "compare"])
def test_the_command_line_answers_likewise(command: str, capsys: Capture) -> None:
    for name in VLLM_NAMES:
        option = f"--{name.replace('_', '-')}"
        one_sentence(cli.run([command, option]), capsys, f"no such option {option}: {sentence_for(name)}")


@pytest.mark.parametrize("name", VLLM_NAMES)
def test_a_sentence_says_what_it_is_called_here_or_why_not(name: str) -> None:
    sentence = sentence_for(name)
    assert sentence is not None and is_sentence(sentence)
    answers = ("not supported: ", "called ", "a part here: ", "an option of ", "a preset here, ", "the loop here: ")
    assert sentence.startswith(tuple(f"{name} is {answer}" for answer in answers))


def test_no_name_is_said_twice_and_none_is_ours() -> None:
    assert sum(len(names.split()) for names, _ in _GROUPS) == len(VLLM_NAMES) >= 100
    ours = {*SHELVES, "loop", *OPTIONS, *(field.name for field in fields(SamplingParams))}
    ours |= {"model", "preset", "dtype", "device", "tokenizer", "cache", "prompts", "messages", "sampling_params"}
    assert not ours & VLLM_NAMES.keys()


def test_any_other_name_is_answered_with_what_exists(llm: LLM) -> None:
    for call in DOORS.values():
        with pytest.raises(UnknownName, match=r"^unknown .* 'frobnicate'; have: "):
            call(llm, {"frobnicate": 1})
