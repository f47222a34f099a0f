"""`sparsespec compare`: its tables, files and exit codes, whatever it is given."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from sparsespec import PRESETS, EngineSpec
from sparsespec.cli import app as cli
from tests.cli.mistakes import Capture, one_sentence
from tests.cli.terminal import Terminal

QUICK = ("--n", "2", "--max-tokens", "8", "--min-budget", "8")


def compare(*arguments: str, model: str = "tiny") -> int:
    return cli.run(["compare", "--model", model, *QUICK, *arguments])


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "problems.jsonl"
    lines = [{"problem": "the quick brown fox jumps over the lazy dog " * 2 + word} for word in ("one", "two", "three")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@pytest.mark.slow
def test_all_presets_decode_the_problems_of_a_file_to_the_tokens_of_dense(
    folder: Path, problems: Path, capsys: Capture
) -> None:
    arguments = ("--prompts", str(problems), "--temperature", "0.65", "--json")
    assert compare(*arguments, model=str(folder)) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["composition"] for row in rows] == list(PRESETS)
    assert {(row["prompts"], row["n_prompts"], row["model"]) for row in rows} == {("problems", 2, str(folder))}
    for row in rows:
        assert row["n_identical"] == 2, row["composition"]
        if row["draft_kv_share"] is not None:
            assert row["verdict"] == "identical" and row["rejected"] >= 0.05 * row["drafts"]
            assert EngineSpec.from_dict(row["spec"]).selector.options["min_budget"] == 8


def test_a_table_says_what_an_equality_is_worth(capsys: Capture) -> None:
    code = compare("-p", "sparsespec", "-p", "sparsespec:selector=full", "--temperature", "0.8", "--seed", "7")
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    title = "tiny, generated (2 × 8 tokens), T=0.8, seed 7, max_num_seqs 8"
    for words in (title, "baseline", "identical 2/2", "of dense"):
        assert words in out
    assert "sparsespec:selector=full: no draft was rejected, so being equal to dense proves nothing" in out


def test_one_that_fails_says_why_below_the_table_and_the_others_stand(capsys: Capture) -> None:
    assert compare("-p", "sparsespec:selector=pillar(groups=3)", "-p", "magicdec") == 1
    out = capsys.readouterr().out
    assert "identical 2/2" in out
    assert "sparsespec:selector=pillar(groups=3) failed: groups must divide the 2 KV heads" in out


def test_tokens_that_part_are_shown_and_fail(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsespec.comparison import row
    from sparsespec.core.divergence import first_divergence

    monkeypatch.setattr(row, "first_divergence", lambda name, ours, dense: first_divergence(name, ours, dense[:3]))
    assert compare("-p", "magicdec") == 1
    out = capsys.readouterr().out
    assert "parted 0/2" in out
    assert "magicdec: prompt 1 parts from dense decoding at output token 3" in out


@pytest.mark.slow
def test_rows_of_one_name_are_told_apart_by_what_differs(capsys: Capture) -> None:
    sizes = ("--max-num-seqs", "1", "--max-num-seqs", "2", "--max-tokens", "5")
    assert compare("-p", "magicdec", "--min-budget", "16", *sizes) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "max_num_seqs 1" in out and "max_num_seqs 2" in out
    assert "min_budget=16" in out and "min_budget=8" in out
    assert " budget=" not in out


@pytest.mark.slow
def test_rows_are_appended_as_json_lines_and_specs_are_read(tmp_path: Path, capsys: Capture) -> None:
    spec, out = tmp_path / "mine.json", tmp_path / "rows.jsonl"
    spec.write_text(EngineSpec.of(selector="window(min_budget=8)", length="fixed(draft=2)").to_json(), "utf-8")
    for _ in range(2):
        assert compare("--spec", str(spec), "--out", str(out)) == 0
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["composition"] for row in rows] == ["dense", "mine"] * 2
    assert "mine" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_a_plot_is_drawn(tmp_path: Path) -> None:
    assert compare("-p", "magicdec", "--plot", str(tmp_path / "rows.svg")) == 0
    assert "<svg" in (tmp_path / "rows.svg").read_text("utf-8")


BAD: dict[str, tuple[list[str], str]] = {
    "unknown preset": (["-p", "sparspec"], "did you mean 'sparsespec'"),
    "a budget without a selector": (["-p", "ngram"], "no selector of dense, ngram has a min_budget"),
    "budget of 0": (["--budget", "0"], "in (0, 1], got 0"),
    "no requests": (["--max-num-seqs", "0"], "max_num_seqs is a whole number of 1 or more, got 0"),
    "requests in words": (["--max-num-seqs", "many"], "--max-num-seqs"),
    "n of 0": (["--n", "0"], "n is a number of prompts"),
    "no such prompts": (["--prompts", "nothing.jsonl"], "give a file of JSON lines in UTF-8"),
    "a file without prompts": (["--prompts", "EMPTY"], "has no prompts"),
    "lines without prompts": (["--prompts", "OTHER"], "one of: prompt, problem, question"),
    "text for a model without a tokenizer": (["--prompts", "GOOD", "--n", "1"], "came without a tokenizer"),
    "fewer than n": (["--prompts", "GOOD", "--n", "9"], "good has 1 of 9 prompts"),
    "no such spec": (["--spec", "nothing.json"], "--spec takes a file that EngineSpec.to_json wrote"),
    "a spec that is none": (["--spec", "OTHER"], "unknown place in an engine spec 'text'"),
    "a spec called like a preset": (["--spec", "dense.json", "-p", "dense"], "two compositions are called 'dense'"),
    "out that cannot be written": (["--out", "nowhere/at/all.jsonl"], "give a file in a folder that exists"),
    "a plot that is no svg": (["--plot", "rows.png"], "ends in .svg"),
    "unknown model": (["--model", "smollm3"], "did you mean 'smollm2'"),
    "unknown device": (["--device", "tpu"], "device is 'cpu', 'cuda'"),
    "exact in float64": (["--exact", "--dtype", "float64"], "exact=True takes a model in float32"),
    "unknown dtype": (["--dtype", "float31"], "did you mean 'float32'"),
    "no room": (["--max-tokens", "400"], "leaves no room for a prompt"),
    "negative temperature": (["--temperature", "-1"], "temperature must be"),
    "negative seed": (["--seed", "-1", "--temperature", "1"], "seed must be"),
    "unsupported option": (["--top-p", "0.9"], "No such option"),
    "an option of vLLM": (["--tensor-parallel-size", "2"], "an engine runs on one device"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    name: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts: dict[str, Any] = {"EMPTY": "\n", "OTHER": '{"text": "x"}', "GOOD": '{"prompt": "x"}', "dense.json": "{}"}
    for file, text in texts.items():
        Path(file.lower()).write_text(text, "utf-8")
    arguments, fragment = BAD[name]
    one_sentence(compare(*(a.lower() if a in texts else a for a in arguments)), capsys, fragment)


@pytest.mark.slow
def test_on_a_terminal_bars_show_how_far_it_is() -> None:
    terminal = Terminal(
        "compare", "-m", "tiny", "-p", "magicdec", "--n", "1", "--max-tokens", "60", "--min-budget", "8"
    )
    terminal.until("tokens")
    terminal.until("rows")
    shown, code = terminal.end()
    assert code == 0
    assert "identical" in shown
