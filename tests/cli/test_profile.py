"""`sparsespec profile`: a small model measured from end to end, and what is refused before anything is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparsespec.cli import app as cli
from sparsespec.core.cost import CostModel
from sparsespec.engine.profile import run as profiling
from sparsespec.engine.profile.sample import CPU, CUDA, MIB, Rows
from tests.cli.mistakes import Capture, one_sentence

QUICK = replace(CPU, read_bytes=MIB, tokens=(1, 16, 64), logits=(1, 8, 32), rotated_bytes=0, host_rows=2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "CPU", QUICK)


@pytest.mark.usefixtures("quick")
def test_a_model_is_measured_shown_and_written(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "tiny.json"
    assert cli.run(["profile", "--model", "tiny", "--device", "cpu", "--out", str(path)]) == 0
    out = capsys.readouterr().out
    cost = CostModel.load(path)
    assert cost.name == "tiny-qwen3"
    assert cost.geometry["attention"] == "reference"
    assert [n for n, _ in cost.layers.points] == list(QUICK.tokens)
    assert [n for n, _ in cost.head.points] == list(QUICK.logits)
    assert cost.to_device is cost.to_host is None
    assert cost.kv_token_bytes == 2 * 2 * 2 * 8 * 4
    assert set(cost.errors) == {"layers", "products", "head", "attention"}
    assert cost.errors["attention"].n == len([rows for rows in QUICK.rows if rows.context <= 256])
    assert 0 < cost.forward(1, 1, 0, 0) < cost.step(64, 32, 1e6, 0, lag=0)
    assert cost.roofline.dense(4, 100) > 0
    for words in ("64 tokens", "32 rows of logits", "4 dense of 9; 256 tokens", "4 sparse at 10%", "prefill of 256"):
        assert words in out
    assert "median error" in out
    assert str(path) in out


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_json_is_the_cost_model_and_nothing_else(folder: Path, capsys: Capture) -> None:
    assert cli.run(["profile", "-m", str(folder), "--device", "cpu", "--json"]) == 0
    cost = CostModel.from_json(capsys.readouterr().out)
    assert cost.name == folder.name
    assert cost.host_seconds > 0


@pytest.mark.gpu
def test_a_gpu_is_measured_without_the_hosts_time(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (Rows(1024, dense=8), Rows(1024, dense=8, queries=9), Rows(1024, dense=1, queries=9, sparse=7))
    small = replace(CUDA, tokens=(1, 64, 256), logits=(1, 64), rows=rows, copies=(MIB, 16 * MIB), host_rows=4)
    monkeypatch.setattr(profiling, "CUDA", small)
    path = tmp_path / "cost.json"
    assert cli.run(["profile", "-m", "smollm2-135m", "--device", "cuda", "-o", str(path)]) == 0, capsys.readouterr().err
    cost = CostModel.load(path)
    assert cost.geometry["attention"] == "triton"
    assert cost.to_device is not None and cost.to_host is not None
    # a GPU reads faster than a disk and slower than anything built so far
    assert 1e11 < cost.read_bytes_per_second < 1e14
    assert cost.weight_bytes / cost.read_bytes_per_second < cost.products(1) <= 1.1 * cost.layers(1)


def test_rows_longer_than_the_models_context_are_left_out() -> None:
    assert {rows.context for rows in CPU.within(256).rows} == {64, 256}
    assert CUDA.within(8192) == CUDA
    assert not CPU.within(10).rows


def test_a_step_of_attention_is_said_in_words() -> None:
    assert str(Rows(4096, dense=7, queries=9, sparse=57)) == "7 dense of 9, 57 sparse at 5%; 4096 tokens"


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ([], "Missing option '--model'"),
        (["-m", "qwen3-9b"], "did you mean 'qwen3-8b'"),
        (["-m", "tiny", "--device", "tpu"], "device is 'cpu', 'cuda'"),
        (["-m", "tiny", "--device", "cuda:99"], "is not there"),
        (["-m", "tiny", "--dtype", "int8"], "unknown dtype 'int8'"),
        (["-m", "tiny", "--attention", "trition"], "did you mean 'triton'"),
        (["-m", "tiny", "--out", "cost.txt"], "--out takes a file *.json"),
        (["-m", "tiny", "--out", "nowhere/at/all.json"], "give a file in a folder that exists"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(
    arguments: list[str], fragment: str, capsys: Capture
) -> None:
    one_sentence(cli.run(["profile", *arguments]), capsys, fragment)


def test_a_refused_file_is_not_left_behind(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "cost.json"
    one_sentence(cli.run(["profile", "-m", "nothing", "--out", str(path)]), capsys, "unknown model or geometry")
    assert json.dumps([p.name for p in tmp_path.iterdir()]) == "[]"
