"""`sparsespec bench`, from its arguments to its rows, on the CPU."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsespec.benchmarks import models, prompts, throughput
from sparsespec.benchmarks.meter import LINES
from sparsespec.benchmarks.rows import HEAD, line_of, read
from sparsespec.core.errors import BadOption, BadRequest, MissingPackage, SparseSpecError, UnknownName
from sparsespec.models.catalog import load
from sparsespec.models.tokenizer import Tokenizer
from tests.folders import tiny_folder

SMALL = ["--batch", "3", "--context", "40:90", "--steps", "18", "--warmup", "10", "--windows", "2"]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def measured(out: Path, *options: str, model: str = "tiny", code: int = 0) -> list[dict[str, Any]]:
    assert throughput.main([model, *SMALL, *options, "--out", str(out)]) == code
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a run with simulated acceptance wrote."""
    out = tmp_path_factory.mktemp("bench") / "results.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        measured(out, "--accept", "6.16", "--scheduler", "lockstep", "staggered", "--budget", "0.25")
    return out


def test_rows_say_what_was_measured_and_on_what(results: Path) -> None:
    header, *rows = map(json.loads, results.read_text("utf-8").splitlines())
    assert "CPU" in header["device"]
    assert all(header[key] for key in ("date", "torch", "python", "sparsespec", "model", "dtype", "batch", "context"))
    assert [row["composition"].partition(":")[0] for row in rows] == ["dense", "sparsespec", "sparsespec"]
    for row in rows:
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert len(row["windows"]) == 2
        assert 0 < row["step_ms"]["p50"] <= row["step_ms"]["p95"] <= row["step_ms"]["max"]
        assert len(row["steps_ms"]) == row["steps"] == 18
        host = row["host_ms"]
        assert host["all"] == pytest.approx(sum(host[line] for line in LINES))
        assert all(ms >= 0 for ms in host.values())
        assert (row["gpu_idle"], row["peak_bytes"], row["roofline"], row["of_roofline"]) == (None,) * 4
        assert row["ledger_bytes"]["KV"] > 0
        assert row["running"] == 3


def test_dense_is_the_measure_of_the_others(results: Path) -> None:
    dense, *others = (row for _, row in read(results))
    assert (dense["dense"], dense["of_dense"], dense["simulated"], dense["mean_acceptance_length"]) == (
        True,
        1,
        False,
        None,
    )
    # a token is a forward, and a forward reads the context once
    assert dense["forwards_per_token"] == 1
    assert dense["kv_bytes_per_token"] == pytest.approx(dense["context_mean"] * dense["kv_token_bytes"])
    assert dense["tokens"] == 3 * 18
    for row in others:
        assert row["of_dense"] == pytest.approx(row["tokens_per_second"] / dense["tokens_per_second"])


def test_simulated_acceptance_is_marked_and_budgets_are_set(results: Path) -> None:
    rows = [row for _, row in read(results) if not row["dense"]]
    for row, scheduler in zip(rows, ("lockstep", "staggered"), strict=True):
        assert (row["simulated"], row["spec"]["verifier"]["name"]) == (True, "SimulatedAcceptance")
        assert row["spec"]["selector"]["options"]["budget"] == 0.25
        assert row["spec"]["scheduler"]["name"] == scheduler
        assert 4 < row["mean_acceptance_length"] <= 9


def test_read_shows_the_same_table(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.main(["--read", str(results)]) == 0
    origin, head, *lines = capsys.readouterr().out.splitlines()
    assert "model=tiny" in origin and "CPU" in origin
    assert head == HEAD
    assert lines == [line_of(row) for _, row in read(results)]
    assert [("simulated" in line) for line in lines] == [False, True, True]


def test_the_newest_row_of_a_composition_under_a_load_wins(results: Path, tmp_path: Path) -> None:
    header, *rows = map(json.loads, results.read_text("utf-8").splitlines())
    newer = [header | {"date": "2999-01-01"}, rows[0] | {"tokens_per_second": 7.0}]
    other = [header | {"batch": 64}, rows[0]]
    path = tmp_path / "both.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (*newer, header, *rows, *other)), "utf-8")
    assert [row["tokens_per_second"] for head, row in read(path) if row["dense"] and head["batch"] == 3] == [7.0]
    assert len(read(path)) == len(rows) + 1


@pytest.mark.slow
def test_requests_come_and_go(tmp_path: Path) -> None:
    options = ["--turnover", "--output", "6:20", "--preset", "sparsespec", "--loop", "delayed"]
    for more in ((), ("--prefill",)):
        (row,) = measured(tmp_path / f"{len(more)}.jsonl", *options, *more)[1:]
        assert row["finished"] > 0
        assert row["steps"] == 18
        assert row["running"] > 2


@pytest.mark.slow
def test_measuring_ends_with_the_first_output(tmp_path: Path) -> None:
    (row,) = measured(tmp_path / "a.jsonl", "--output", "20", "--preset", "dense")[1:]
    # a step before warm-up seats the requests
    assert row["steps"] == 20 - 1 - 10 - 1
    assert f"({row['steps']} steps)" in line_of(row)


@pytest.mark.slow
def test_a_composition_that_fails_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--preset", "dense:max_model_len=50", "dense", "--context", "90"]
    _, bad, good = measured(tmp_path / "a.jsonl", *options, code=1)
    assert re.match("the prompt has 90 tokens and the context holds 50", bad["failed"])
    assert good["tokens"] > 0
    assert "dense:max_model_len=50: the prompt has 90 tokens" in capsys.readouterr().out


@pytest.mark.slow
def test_an_output_too_short_to_measure_is_a_sentence(tmp_path: Path) -> None:
    (row,) = measured(tmp_path / "a.jsonl", "--output", "5", "--preset", "dense", code=1)[1:]
    assert row["failed"].endswith("nothing was measured; raise --output or lower --warmup")


@pytest.mark.slow
def test_weights_of_a_folder_are_prefilled_with_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_folder(tmp_path / "model")
    monkeypatch.setattr(models, "load_model", lambda name, dtype: (load(folder, dtype), Tokenizer(folder)))
    text = tmp_path / "prompts.txt"
    text.write_text("one two three\n\nfour five", "utf-8")
    header, dense, sparse = measured(tmp_path / "a.jsonl", "--prompts", str(text), model=str(folder))
    assert header["weights"] == "real"
    assert dense["finished"] == 0
    # all begin together behind prompts of 40 to 90 tokens, and the first step after prefill comes before warm-up
    assert 40 + 11 <= dense["context_mean"] <= 90 + 10 + 20
    assert sparse["mean_acceptance_length"] > 1


def test_prompts_go_through_the_text_in_orders_of_their_own(tmp_path: Path) -> None:
    class Letters:
        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

    path = tmp_path / "t.jsonl"
    path.write_text('{"problem": "abc", "solution": "d"}\n{"question": "efgh", "answer": ["i", "j"]}\n', "utf-8")
    tokenizer: Any = Letters()
    made = list(prompts.text_prompts(tokenizer, path, [5, 70, 70], 0))
    assert [len(prompt) for prompt in made] == [5, 70, 70]
    assert made == list(prompts.text_prompts(tokenizer, path, [5, 70, 70], 0))
    assert len({tuple(prompt[:40]) for prompt in prompts.text_prompts(tokenizer, path, [70] * 9, 0)}) > 1
    assert {*made[1]} == {ord(letter) for letter in "abcdefghij\n"}


@pytest.mark.parametrize("name", [*models.GEOMETRIES])
def test_geometries_have_the_sizes_of_their_models(name: str) -> None:
    config = models.shape_of(name)
    sizes = {
        "qwen3-8b": (36, 32, 8, 128, 8_190_735_360),
        "smollm2-135m": (30, 9, 3, 64, 134_515_008),
    }[name]
    shapes = models.expected_shapes(config).values()
    n_params = sum(torch.Size(shape).numel() for shape in shapes)
    assert (config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim, n_params) == sizes


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], r"^a model is wanted: qwen3-8b, smollm2-135m, tiny with random weights, or an alias, a folder, a hub id$"),
        (["tini"], r"^unknown model 'tini'; did you mean 'tiny'\? have: qwen3-8b, smollm2, smollm2-135m, tiny$"),
        (["tiny", "--preset", "dens"], "^unknown preset 'dens'; did you mean 'dense'"),
        (["tiny", "--preset", "dense:"], None),
        (["tiny", "--preset", "dense:loop"], "^changes of a preset are written name=value,…, got 'loop'$"),
        (["tiny", "--preset", "dense:lop=sync"], "^unknown part or engine option 'lop'; did you mean 'loop'"),
        (["tiny", "--preset", "dense:loop=sync,loop=sync"], "^loop is given twice in"),
        (["tiny", "--preset", "dense:block_size=)"], r"^cannot read block_size=\)"),
        (["tiny", "--preset", "sparsespec:selector=none"], "^length 'fixed' drafts up to 8 tokens"),
        (["tiny", "--loop", "late"], "^unknown loop 'late'"),
        (["tiny", "--scheduler", "lok"], "^unknown scheduler 'lok'"),
        (["tiny", "--budget", "2"], r"^budget is the share of the context"),
        (["tiny", "--accept", "9"], "^of 8 drafts between 0 and 8 can be accepted in the mean, got 9$"),
        (["tiny", "--batch", "0"], "^argument --batch: a whole number above 0 is wanted, got '0'$"),
        (["tiny", "--context", "9:3"], "^argument --context: LOW:HIGH is wanted, the smaller first, got '9:3'$"),
        (["tiny", "--seconds", "nan"], "^argument --seconds: a number above 0 is wanted, got 'nan'$"),
        (["tiny", "--temperature", "-1"], "^temperature must be finite and not negative"),
        (["tiny", "--dtype", "int8"], "^unknown dtype 'int8'"),
        (["tiny", "--prompts", "a.txt"], "^--prompts are for a model with weights; tiny has random ones"),
        (["tiny", "--prefill"], "^--prefill is for requests that come later: give --turnover too$"),
        (["tiny", "--breakdown"], "^--breakdown reads the names of a GPU's kernels, and there is no CUDA GPU$"),
        (["tiny", "--plot", "a.png"], r"^--plot draws SVG and needs a name that ends in .svg, got 'a.png'$"),
        (["tiny", "--read", "a.jsonl"], "^--read measures nothing: leave out --out and the model$"),
        (["--read", "a.jsonl", "--out", "b.jsonl"], "^--read measures nothing: leave out --out and the model$"),
        (["tiny", "--frob"], "^unrecognized arguments: --frob$"),
    ],
)
def test_bad_input_is_a_sentence(arguments: list[str], why: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    if why is None:
        assert throughput.main([*arguments, *SMALL]) == 0
        return
    with pytest.raises((BadOption, BadRequest, UnknownName), match=why):
        throughput.main(arguments)


def test_a_missing_matplotlib_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="^--plot needs: pip install matplotlib$"):
        throughput.main(["tiny", "--plot", "a.svg"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "none cannot be read: No such file or directory"),
        (b"\xff", "holds something else"),
        (b"", "has none"),
        (b'{"text": 1}', "holds something else"),
    ],
)
def test_prompts_that_are_none_are_a_sentence(tmp_path: Path, text: bytes | None, why: str) -> None:
    path = tmp_path / ("none" if text is None else "p.jsonl" if text[:1] == b"{" else "p.txt")
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(BadOption, match=f"{why}$"):
        prompts.pieces_of(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no rows"),
        ("prose", "holds something else in line 1"),
        (json.dumps({"kind": "header", "date": "2026-11-22", "device": "a GPU"}), "holds something else in line 1"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "other"
    path.write_text(text, "utf-8")
    with pytest.raises(SparseSpecError, match=rf"^--read takes a file that --out of sparsespec bench wrote; .* {why}$"):
        throughput.main(["--read", str(path)])
