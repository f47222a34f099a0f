"""`sparsespec chat`: turns, pipes, interrupts, and a conversation that outgrows its context."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsespec import LLM, SamplingParams
from sparsespec.cli import app as cli
from tests.cli.mistakes import Capture, one_sentence
from tests.cli.terminal import Terminal


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """Talk with lines of input; returns the exit code."""

    def talk(*lines: str, options: tuple[str, ...] = ()) -> int:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return cli.run(["chat", "-m", str(folder), "--max-tokens", "6", *options])

    return talk


def turns(capsys: Capture) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_turn_knows_those_before_it(say: Any, folder: Path, capsys: Capture) -> None:
    assert say("the fox", "", "and then?", options=("--json", "--temperature", "0.8", "--seed", "5")) == 0
    said = turns(capsys)
    assert [turn["user"] for turn in said] == ["the fox", "and then?"]
    messages: list[dict[str, str]] = []
    params = SamplingParams(temperature=0.8, seed=5, max_tokens=6)
    with LLM(folder, "dense") as dense:
        for turn in said:
            messages.append({"role": "user", "content": turn["user"]})
            (output,) = dense.chat(messages, params)
            assert turn["assistant"] == output.outputs[0].text
            messages.append({"role": "assistant", "content": turn["assistant"]})
    assert said[0]["metrics"]["num_output_tokens"] == 6


def test_reset_forgets_and_exit_ends(say: Any, capsys: Capture) -> None:
    options = ("--json", "--temperature", "0")
    assert say("the fox", "/reset", "the fox", "/exit", "never read", options=options) == 0
    first, second = turns(capsys)
    assert first["assistant"] == second["assistant"]


def test_a_system_message_stands_first(say: Any, capsys: Capture) -> None:
    said = []
    for options in ((), ("--system", "jump over the lazy dog")):
        assert say("the fox", options=(*options, "--json", "--temperature", "0")) == 0
        said.append(turns(capsys)[0]["assistant"])
    assert said[0] != said[1]


def test_the_default_temperature_is_that_of_the_model(say: Any, folder: Path, capsys: Capture) -> None:
    assert say("the fox", options=("--json", "--seed", "3")) == 0
    (turn,) = turns(capsys)
    with LLM(folder, "dense") as dense:
        params = replace(dense.default_sampling_params, max_tokens=6, seed=3)
        (output,) = dense.chat([{"role": "user", "content": "the fox"}], params)
    assert params.temperature == 1.0
    assert turn["assistant"] == output.outputs[0].text


def test_in_words_a_turn_ends_with_what_speculation_did(say: Any, capsys: Capture) -> None:
    assert say("the fox") == 0
    out = capsys.readouterr().out
    assert "6 tokens, " in out
    assert "tokens a round, drafts read" in out


def test_a_turn_that_does_not_fit_costs_no_other(say: Any, capsys: Capture) -> None:
    assert say("the fox " * 30, "fox", "/nothing", options=("--json", "--max-model-len", "64")) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["user"] for line in out.splitlines()] == ["fox"]
    assert "/reset starts again" in err
    assert "there is no /nothing" in err


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (("--preset", "magic"), "did you mean 'magicdec'"),
        (("--selector", "pillar(budget=7)"), "in (0, 1], got 7"),
        (("--temperature", "-1"), "temperature must be"),
        (("--max-model-len", "1"), "max_model_len is a whole number of 2 or more"),
        (("--max-model-len", "long"), "--max-model-len"),
        (("--model", "tiny"), "has no tokenizer"),
        (("--n", "2"), "No such option"),
        (("--enable-prefix-caching",), "the samples of one request share the KV of their prompt"),
        (("hello",), "unexpected extra argument"),
    ],
)
def test_a_mistake_is_one_sentence(say: Any, options: tuple[str, ...], fragment: str, capsys: Capture) -> None:
    one_sentence(say("the fox", options=options), capsys, fragment)


@pytest.mark.slow
def test_at_a_terminal_ctrl_c_ends_an_answer_and_the_talk_goes_on(endless: Path) -> None:
    terminal = Terminal("chat", "-m", str(endless), "--max-tokens", "2000", "-p", "dense")
    terminal.until("/reset forgets")
    terminal.until("> ")
    terminal.type("the quick brown fox\n")
    terminal.until("100%")  # the prompt was read
    terminal.interrupt()
    terminal.until("interrupted")
    terminal.until("> ")
    terminal.type("/exit\n")
    shown, code = terminal.end()
    assert code == 0
    assert "Traceback" not in shown
