"""What a command answers in JSON, and how a caller's mistake must end: one sentence on stderr, exit code 2."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sparsespec.cli import app as cli

Capture = pytest.CaptureFixture[str]


def answer(capsys: Capture, *arguments: str, code: int = 0) -> Any:
    """Return what a command prints with `--json`, which must end with `code`."""
    assert cli.run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def one_sentence(code: int, capsys: Capture, fragment: str) -> None:
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert fragment in err
    assert len(err) < 400
