"""`sparsespec bench`: arguments go to the benchmark as they are, wherever it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparsespec
from sparsespec.cli import app as cli

SMALL = ["--batch", "2", "--context", "20", "--steps", "4", "--warmup", "1", "--preset", "dense"]
ROOT = Path(sparsespec.__file__).resolve().parents[1]


def test_arguments_reach_the_benchmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.run(["bench", "tiny", *SMALL]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("dense")


def test_the_benchmark_needs_nothing_beside_the_package(tmp_path: Path) -> None:
    (tmp_path / "sparsespec").symlink_to(ROOT / "sparsespec")
    code = "import sys; from sparsespec.cli.app import run; sys.exit(run(['bench', '--frob']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: unrecognized arguments: --frob\n")


def test_python_m_bench_engine_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.engine", "--frob"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "unrecognized arguments: --frob\n")


def test_bad_arguments_are_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "tiny", "--batch", "0"]) == 2
    assert capsys.readouterr().err == "error: argument --batch: a whole number above 0 is wanted, got '0'\n"


def test_help_is_the_benchmarks_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(["bench", "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: sparsespec bench ")
