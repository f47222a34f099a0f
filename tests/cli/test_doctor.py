"""`sparsespec doctor`: backends are tried, not guessed."""

from __future__ import annotations

import pytest
import torch

from sparsespec.attention.reference import ReferenceAttention
from sparsespec.cli import app as cli
from sparsespec.core import registry
from tests.cli.mistakes import Capture, answer, one_sentence


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the reference alone on its shelf: an interpreted kernel decodes for seconds."""
    shelf = registry._BUILTIN["attention"]
    monkeypatch.setitem(registry._BUILTIN, "attention", {"reference": shelf["reference"]})


@pytest.mark.slow
def test_every_backend_on_the_shelf_is_tried(capsys: Capture) -> None:
    report = answer(capsys, "doctor")
    assert set(report["attention"]) == set(registry.names("attention"))
    assert report["attention"]["reference"] == "works"
    assert all(report["attention"].values())


@pytest.mark.usefixtures("alone")
def test_json_says_versions_and_which_backends_work(capsys: Capture) -> None:
    report = answer(capsys, "doctor")
    assert report["packages"]["torch"] == torch.__version__
    assert len(report["gpus"]) == torch.cuda.device_count()
    assert report["attention"] == {"reference": "works"}
    assert report["cache_free_bytes"] > 0


@pytest.mark.usefixtures("alone")
def test_the_table_names_what_is_missing(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert cli.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "not found; only FlashInfer needs it" in out
    assert "works" in out


class Missing(ReferenceAttention):
    def __init__(self) -> None:
        raise OSError("no such\ndevice")


class Wrong(ReferenceAttention):
    def run(self, *args: object, **kwargs: object) -> torch.Tensor:
        return -super().run(*args, **kwargs)  # type: ignore[arg-type]


@pytest.mark.usefixtures("alone")
def test_a_backend_that_does_not_work_says_why(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, part in (("missing", Missing), ("wrong", Wrong), ("absent", "no_such_package.at_all:Part")):
        monkeypatch.setitem(registry._registered, ("attention", name), part)
    found = answer(capsys, "doctor")["attention"]
    assert found["missing"] == "OSError: no such device"
    assert found["wrong"] == "runs, and emits other tokens than the reference"
    assert "no_such_package" in found["absent"]


@pytest.mark.usefixtures("alone")
def test_without_the_reference_the_exit_code_is_1(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, *_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("gone")

    monkeypatch.setattr(ReferenceAttention, "run", broken)
    assert "gone" in answer(capsys, "doctor", code=1)["attention"]["reference"]


@pytest.mark.parametrize("arguments", [["now"], ["--verbose"]])
def test_a_mistake_is_one_sentence(arguments: list[str], capsys: Capture) -> None:
    one_sentence(cli.run(["doctor", *arguments]), capsys, arguments[0])
