"""`sparsespec bench`: arguments go to the benchmark as they are, where there is one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import sparsespec
from sparsespec.cli import app as cli

SMALL = ["--batch", "2", "--context", "20", "--steps", "4", "--warmup", "1", "--preset", "dense"]


def test_arguments_reach_the_benchmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.run(["bench", "tiny", *SMALL]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("dense")


def test_the_sources_are_found_from_wherever_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(sparsespec.__file__).resolve().parents[1]
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p and Path(p).resolve() != root])
    for name in [name for name in sys.modules if name.partition(".")[0] == "bench"]:
        monkeypatch.delitem(sys.modules, name)
    assert cli.run(["bench", "--frob"]) == 2
    assert str(root) in sys.path


def test_bad_arguments_are_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "tiny", "--batch", "0"]) == 2
    assert capsys.readouterr().err == "error: argument --batch: a whole number above 0 is wanted, got '0'\n"


def test_help_is_the_benchmarks_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(["bench", "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: sparsespec bench ")


def test_an_installed_package_says_where_the_benchmarks_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparsespec, "__file__", str(tmp_path / "sparsespec" / "__init__.py"))
    assert cli.run(["bench", "tiny"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "error: the benchmarks come with the sources and not with the installed package; "
        "install a checkout with: pip install -e .\n"
    )
