"""`python -m bench.kernels` where there is no GPU."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.kernels import __main__ as kernels
from bench.kernels import cpu
from bench.kernels.cpu_cases import CpuCase, Ready, cases
from bench.kernels.rows import read
from bench.kernels.table import cases as gpu_cases
from sparsespec.core.errors import BadOption, MissingPackage

TABLE = cases()


def spoilt(op: Any) -> Any:
    """Return `op` with a result that is a little off."""

    @functools.wraps(op)
    def run(*args: Any, **how: Any) -> Any:
        got = op(*args, **how)
        if got is None:  # copies in place
            args[1].mul_(1.001)
        elif isinstance(got, torch.Tensor):
            return got + 1 if got.dtype == torch.int64 else 1.001 * got
        else:
            return got._replace(**{name: 1.001 * x for name, x in got._asdict().items() if x is not None})

    return run


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # pytest-benchmark measures nothing in a worker
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setattr(cpu, "OPTIONS", (*cpu.OPTIONS, "--benchmark-max-time=0.01"))


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_the_check_of_each_case_is_green_and_sees_a_result_that_is_off(
    case: CpuCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert case.make().check() == ""
    monkeypatch.setattr(case.op.api, case.op.name, spoilt(getattr(case.op.api, case.op.name)))
    assert case.make().check() != ""


def test_a_result_that_is_missing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = (case for case in TABLE if "scores" in case.name)
    right = case.op.api.attention
    without = functools.wraps(right)(lambda *args, **how: right(*args, **how)._replace(scores=None))
    monkeypatch.setattr(case.op.api, "attention", without)
    assert case.make().check() == "it gives no scores"


def test_all_ops_have_cases_and_no_case_is_called_as_one_of_a_gpu() -> None:
    assert {case.op.name for case in TABLE} == {"attention", "top_positions", "append_kv", "copy_pages", "sample"}
    names = [case.key[1:] for case in TABLE]
    assert len({*names}) == len(names)
    assert not {*names} & {case.key[1:] for case in gpu_cases()}


@pytest.mark.usefixtures("no_gpu")
def test_rows_say_device_versions_sizes_median_and_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.jsonl"
    assert kernels.main(["--op", "append_kv", "--out", str(out)]) == 0
    ((header, row),) = read(out)
    assert "CPU" in header["device"]
    assert all(header[key] for key in ("date", "torch", "python", "sparsespec", "pytest_benchmark"))
    assert (row["op"], row["sizes"]) == ("append_kv", {"tokens": 36})
    assert 0 < row["micros"]["p20"] <= row["micros"]["p50"] <= row["micros"]["p80"]
    assert row["rounds"] >= 20
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed[2:]] == [["smollm2-135m", "append_kv"]]


@pytest.mark.usefixtures("no_gpu")
def test_what_is_red_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(CpuCase, "make", lambda case: Ready(never, lambda: "it errs"))
    out = tmp_path / "results.jsonl"
    assert kernels.main(["--op", "copy_pages", "--out", str(out)]) == 1
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()[1:]]
    assert [(row["red"], "micros" in row) for row in rows] == [("it errs", False)]


@pytest.mark.usefixtures("no_gpu")
def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="^timing ops on a CPU needs: pip install pytest-benchmark$"):
        kernels.main([])


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--kernel", "a:b"], "need a CUDA GPU"),
        (["--op", "linear"], "^no case fits --op 'linear'; have cases of smollm2-135m attention, "),
        (["--model", "qwen3-8b"], "^no case fits --model 'qwen3-8b'; have cases of "),
    ],
)
def test_what_a_cpu_cannot_time_is_refused_in_a_sentence(options: list[str], why: str) -> None:
    with pytest.raises(BadOption, match=why):
        kernels.main(options)
