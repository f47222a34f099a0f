"""`sparsespec generate`: what it prints, and how it ends, whatever it is given."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from sparsespec import PRESETS, __version__
from sparsespec.cli import app as cli
from tests.arch import fresh
from tests.cli.mistakes import Capture, answer, one_sentence
from tests.cli.terminal import Terminal
from tests.folders import CONTEXT
from tests.models.checkpoints import rewrite

SPARSE = "pillar(budget=0.05,min_budget=8)"
LONG = "the quick brown fox jumps over the lazy dog " * 6


def generate(folder: Path, *more: str) -> int:
    few = ("--max-tokens", "16", "--selector", SPARSE, "--length", "fixed(draft=3)", "--temperature", "0")
    return cli.run(["generate", LONG, "--model", str(folder), *few, *more])


def test_a_prompt_is_decoded_and_speculation_is_summed_up(folder: Path, capsys: Capture) -> None:
    assert generate(folder) == 0
    out, err = capsys.readouterr()
    for word in ("16 tokens in", "mean acceptance length", "draft acceptance rate", "KV read by drafts", "length"):
        assert word in out
    assert err == ""


def test_check_prints_how_many_are_identical_and_what_that_is_worth(folder: Path, capsys: Capture) -> None:
    assert generate(folder, "--check", "--n", "2", "--temperature", "0.9", "--top-p", "0.95", "--seed", "7") == 0
    out = capsys.readouterr().out
    assert "identical to dense: 2 of 2" in out
    rejected, share = re.search(r"rejected drafts: (\d+) of \d+, KV read by drafts: ([\d.]+)%", out).groups()  # type: ignore[union-attr]
    assert int(rejected) > 0
    assert float(share) < 50
    assert "── sample 1 ──" in out


@pytest.mark.parametrize(
    "preset", [p if p in ("dense", "best") else pytest.param(p, marks=pytest.mark.slow) for p in PRESETS]
)
def test_every_preset_passes_its_check(folder: Path, preset: str, capsys: Capture) -> None:
    said = answer(capsys, "generate", LONG, "-m", str(folder), "-p", preset, "--max-tokens", "12", "--check")
    assert said["check"] == {"identical": 1, "of": 1, "parted": []}
    assert len(said["outputs"][0]["token_ids"]) == 12


def test_an_output_that_parts_is_shown_and_fails(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsespec.cli import check as cli_check

    honest = cli_check.check_outputs
    monkeypatch.setattr(cli_check, "check_outputs", lambda ours, dense: honest(ours, [_shorter(c) for c in dense]))
    assert generate(folder, "--check") == 1
    out = capsys.readouterr().out
    assert "identical to dense: 0 of 1" in out
    assert re.search(
        r"parts from dense decoding at output token 15: \[\d+\] instead of the end \(lengths 16 and 15\)", out
    )


def _shorter(completion: object) -> object:
    from dataclasses import replace

    return replace(completion, token_ids=completion.token_ids[:-1])  # type: ignore


def test_an_equality_without_a_rejection_says_that_it_proves_little(folder: Path, capsys: Capture) -> None:
    assert generate(folder, "--check", "--selector", "full", "--loop", "sync") == 0
    assert "no draft was rejected, so equality proves little" in capsys.readouterr().out


def test_json_is_one_object_with_spec_params_and_figures(folder: Path, capsys: Capture) -> None:
    assert generate(folder, "--json", "--n", "2", "--seed", "3", "--stop", "zzz") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["spec"]["selector"]["options"]["min_budget"] == 8
    assert said["sampling_params"]["stop"] == ["zzz"]
    assert [o["sample_index"] for o in said["outputs"]] == [0, 1]
    assert {o["seed"] for o in said["outputs"]} == {3}
    assert said["metrics"]["num_output_tokens"] == 32
    assert said["check"] is None


def test_the_default_temperature_is_the_models_and_options_change_it(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "generation_config.json").write_text('{"temperature": 0.4, "top_p": 0.8, "top_k": 5}', "utf-8")
    names = ("temperature", "top_p", "top_k", "min_p")
    for model, options, expected in (
        (folder, (), (1.0, 1.0, 0, 0.0)),
        (copy, (), (0.4, 0.8, 5, 0.0)),
        (copy, ("--temperature", "0"), (0.0, 0.8, 5, 0.0)),
        (copy, ("--top-p", "1", "--min-p", "0.1"), (0.4, 1.0, 5, 0.1)),
    ):
        said = answer(capsys, "generate", "the fox", "-m", str(model), "--max-tokens", "2", *options)["sampling_params"]
        assert tuple(said[name] for name in names) == expected


def test_a_check_that_the_default_temperature_allows_is_made(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "generation_config.json").write_text('{"do_sample": false}', "utf-8")
    arguments = ["generate", "the fox", "-m", str(copy), "--max-tokens", "4", "--check", "--verifier", "rejection"]
    assert cli.run(arguments) == 0
    assert "identical to dense: 1 of 1" in capsys.readouterr().out


def test_the_prompt_comes_from_argument_file_or_stdin(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt.txt").write_text("the fox", "utf-8")
    seen = []
    for source in (["the fox"], ["--file", str(tmp_path / "prompt.txt")], [], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("the fox"))
        seen.append(answer(capsys, "generate", *source, "-m", str(folder), "--max-tokens", "4", "--seed", "1"))
    assert len({(s["prompt_tokens"], s["outputs"][0]["text"]) for s in seen}) == 1


def test_without_chat_the_prompt_is_plain_text(folder: Path, capsys: Capture) -> None:
    arguments = ("generate", "the fox", "-m", str(folder), "--max-tokens", "2")
    chat, plain = (answer(capsys, *arguments, flag)["prompt_tokens"] for flag in ("--chat", "--no-chat"))
    assert chat > plain


def test_help_and_version_need_no_torch() -> None:
    commands = ("generate", "compare", "chat", "plugins", "models", "doctor")
    asked = [["--help"], ["--version"], *([command, "--help"] for command in commands)]
    code = f"""
import io, sys
from contextlib import redirect_stdout
from sparsespec.cli import app
result = []
for arguments in {asked}:
    with redirect_stdout(io.StringIO()) as said:
        code = app.run(arguments)
    result.append([code, "torch" in sys.modules, said.getvalue()])
"""
    for end, said in zip(asked, fresh.run(code), strict=True):
        assert said[:2] == [0, False], end
        assert ("Usage" in said[2]) or (__version__ in said[2])


BAD: dict[str, tuple[list[str], str]] = {
    "unknown preset": (["--preset", "sparspec"], "did you mean 'sparsespec'"),
    "unknown selector": (["--selector", "pilar"], "did you mean 'pillar'"),
    "unreadable part": (["--selector", "pillar(budget="], "write it like 'pillar(budget"),
    "unknown proposer": (["--proposer", "ngrams"], "did you mean 'ngram'"),
    "unknown loop": (["--loop", "async"], "have: delayed, resident, sync"),
    "unknown verifier": (["--verifier", "shared_noise"], "did you mean 'shared-noise'"),
    "unknown model": (["--model", "smollm3"], "did you mean 'smollm2'"),
    "no such folder": (["--model", "./nowhere/at-all"], "there is no folder"),
    "unknown dtype": (["--dtype", "float31"], "did you mean 'float32'"),
    "a model without a tokenizer": (["--model", "tiny"], "use it from Python, with token ids"),
    "drafts without a draft level": (["--selector", "none"], "use selector='full'"),
    "guesses without a proposer": (["--length", "fixed(draft=4,guess=2)"], "use proposer='ngram'"),
    "a greedy verifier that samples": (["--verifier", "greedy", "--temperature", "1"], "temperature"),
    "a check of a distribution": (["--verifier", "rejection", "--temperature", "1", "--check"], "--temperature 0"),
    "max_tokens 0": (["--max-tokens", "0"], "max_tokens must be a whole number of at least 1"),
    "no samples": (["--n", "0"], "n must be"),
    "negative temperature": (["--temperature", "-1"], "temperature must be"),
    "a temperature in words": (["--temperature", "warm"], "--temperature"),
    "top_p 0": (["--top-p", "0"], "in (0, 1]"),
    "top_k -2": (["--top-k", "-2"], "top_k must be"),
    "min_p 2": (["--min-p", "2"], "in [0, 1]"),
    "negative seed": (["--seed", "-1"], "seed must be"),
    "empty stop string": (["--stop", ""], "not empty"),
    "prompt too long": (["--no-chat", "--file", "LONG"], "shorten the prompt to at most"),
    "output too long": (["--max-tokens", "100000"], "lower max_tokens to at most"),
    "no such file": (["--file", "nothing.txt"], "give a text file"),
    "unknown option": (["--topp", "1"], "--top-p"),
    "a check of a distribution at the default temperature": (["--verifier", "rejection", "--check"], "--temperature 0"),
    "an option of nobody": (["--frobnicate", "1"], "No such option"),
    "a sampling parameter of vLLM": (["--frequency-penalty", "1"], "is not supported: temperature, top_p"),
    "an engine option of vLLM": (["--gpu-memory-utilization", "0.9"], "num_gpu_blocks sets the pages of the KV pool"),
    "an option of vLLM with another name": (["--enforce-eager"], "enforce_eager is called graphs here: graphs=False"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_sentence_and_exit_code_2(name: str, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments, fragment = BAD[name]
    (tmp_path / "long.txt").write_text("x" * 2 * CONTEXT, "utf-8")
    arguments = [str(tmp_path / "long.txt") if a == "LONG" else a for a in arguments]
    prompt = [] if "--file" in arguments else ["the fox"]
    code = cli.run(["generate", *prompt, "--model", str(folder), *arguments])
    one_sentence(code, capsys, fragment)


@pytest.mark.parametrize(
    ("arguments", "stdin", "fragment"),
    [
        ([""], "", "the prompt is empty"),
        (["  \n"], "", "the prompt is empty"),
        ([], "", "the prompt is empty"),
        (["a", "--file", "b"], "", "the prompt is given twice"),
        (["a", "b"], "", "unexpected extra argument"),
    ],
)
def test_a_prompt_that_is_none_is_refused(
    arguments: list[str], stdin: str, fragment: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    one_sentence(cli.run(["generate", *arguments]), capsys, fragment)


def test_bytes_that_are_no_text_are_refused(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in ("--chat", "--no-chat"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(b"fox \xff".decode("utf-8", "surrogateescape")))
        code = cli.run(["generate", "-m", str(folder), flag])
        one_sentence(code, capsys, "character 4 is half of one; read it as UTF-8")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "b", tmp_path):
        one_sentence(cli.run(["generate", "--file", str(path)]), capsys, "give a text file in UTF-8")


def _no_template(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    table = json.loads(path.read_text("utf-8"))
    del table["chat_template"]
    path.write_text(json.dumps(table), "utf-8")


# how else a folder can be broken is in tests/models/test_weights.py
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "no chat template": (_no_template, "--no-chat"),
    "another shape": (lambda f: rewrite(f, hidden_size=64), "shape"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_folder_is_one_sentence(name: str, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    mar, fragment = BROKEN[name]
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    mar(copy)
    one_sentence(cli.run(["generate", "the fox", "--model", str(copy)]), capsys, fragment)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sparsespec", "generate", "the fox", "-m", str(folder)]
    command += ["--max-tokens", "3900", "-p", "dense"]
    # a shell starts what runs in its background deaf to Ctrl-C, and its children are so too
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=listening)
    assert process.stdout is not None
    assert process.stdout.read(1)
    return process


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_one_word(endless: Path) -> None:
    process = _start(endless)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.decode().strip() == "interrupted"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise there")
def test_a_closed_pipe_ends_quietly(endless: Path) -> None:
    process = _start(endless)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.slow
def test_a_terminal_shows_how_far_a_long_prompt_has_been_read(endless: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("the fox " * 450, "utf-8")
    arguments = ["--file", str(tmp_path / "long.txt"), "-m", str(endless), "--max-tokens", "4", "--check"]
    terminal = Terminal("generate", *arguments)
    terminal.until("reading the prompt")
    terminal.until("decoding densely, to compare")
    shown, code = terminal.end()
    assert "identical to dense: 1 of 1" in shown
    assert code == 0
