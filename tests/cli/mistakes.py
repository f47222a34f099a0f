"""How a caller's mistake must end: nothing on stdout, one sentence on stderr, exit code 2."""

from __future__ import annotations

import pytest

Capture = pytest.CaptureFixture[str]


def one_sentence(code: int, capsys: Capture, fragment: str) -> None:
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert fragment in err
    assert len(err) < 400
