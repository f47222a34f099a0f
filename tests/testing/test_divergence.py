"""`python -m bench.divergence` on the CPU: honest runs, runs that round otherwise, and runs that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsespec.benchmarks.entries import entries
from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.errors import BadOption, BadRequest
from sparsespec.core.noise import Key
from sparsespec.core.params import SamplingParams
from sparsespec.kernels.verify_inputs.api import LogitRows
from sparsespec.models.tiny import tiny
from sparsespec.testing.divergence import command, recording
from sparsespec.testing.divergence.recording import LogitRecorder
from sparsespec.testing.oracle import next_logits

TOKENS = 24
PRESET = "sparsespec:selector=pillar(min_budget=8),length=fixed(draft=3)"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def measured(out: Path, *options: str, dtype: str = "float32", code: int = 0) -> list[dict[str, Any]]:
    sizes = ["--requests", "8", "--tokens", str(TOKENS), "--context", "120", "--dtype", dtype]
    assert command.main(["tiny", *sizes, "--preset", PRESET, "--out", str(out), *options]) == code
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def with_recorder(monkeypatch: pytest.MonkeyPatch, wrong: type[LogitRecorder]) -> None:
    """Let dense run as it is, and what comes after it with `wrong`."""
    made: list[LogitRecorder] = []

    def recorder(lengths: tuple[int, ...], tokens: int) -> LogitRecorder:
        made.append((wrong if made else LogitRecorder)(lengths, tokens))
        return made[-1]

    monkeypatch.setattr(recording, "LogitRecorder", recorder)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_honest_run_is_explained(tmp_path: Path, dtype: str) -> None:
    options = ("--temperature", "0.65", "1.2", "--preset", PRESET, "dense:loop=delayed")
    header, _, error, *rows = measured(tmp_path / "out.jsonl", *options, dtype=dtype)
    assert (header["batch"], header["dtype"]) == (4, dtype)
    assert 0 < error["p50"] <= error["p99"] <= error["max"] < (1e-4 if dtype == "float32" else 1)
    compositions = [row for row in rows if row["what"] == "composition"]
    assert [row["composition"].partition(":")[0] for row in compositions] == ["dense", "sparsespec"]
    for row in compositions:
        assert row["kinds"]["neither"] == 0
        assert row["compared"] <= row["tokens"] == 8 * TOKENS
        assert sum(group["compared"] for group in row["groups"].values()) == row["compared"]
    ours = compositions[1]["metrics"]
    assert ours["num_accepted_tokens"] < ours["num_draft_tokens"]
    groups = {"greedy", "T=0.65", "T=0.65 top_p=0.95", "T=0.65 top_k=20", "T=0.65 min_p=0.05"}
    assert set(compositions[1]["groups"]) == groups


class WrongToken(LogitRecorder):
    """Emits another token than it sampled, once in each of two requests."""

    def sample(self, logits: Tensor, at: LogitRows, key: Key) -> Tensor:
        sampled = super().sample(logits, at, key)
        wrong = torch.zeros_like(at.alive)
        for request, step in ((2, 5), (5, 11)):
            wrong |= (at.seed == request) & (at.position == self.lengths[request] + step)
        return torch.where(wrong, (sampled + 1) % logits.shape[1], sampled)


@pytest.mark.slow
def test_an_injected_token_is_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_recorder(monkeypatch, WrongToken)
    *_, one, other, row = measured(tmp_path / "out.jsonl", code=1)
    assert [(x["request"], x["step"], x["divergence"], x["inconsistent"]) for x in (one, other)] == [
        (2, 5, "neither", ["ours"]),
        (5, 11, "neither", ["ours"]),
    ]
    assert row["kinds"] == {"near-tie": 0, "filter boundary": 0, "neither": 2}
    assert row["per_1000"] == pytest.approx(2000 / (6 * TOKENS + 6 + 12))


class WrongLogits(LogitRecorder):
    """Adds to the logits, to the same ones in every round."""

    size = 0.0

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        generator = torch.Generator().manual_seed(1)
        off = self.size * torch.randn(logits.shape[1], generator=generator)
        return super().verify((logits.float() + off).to(logits.dtype), rows, q)


@pytest.mark.slow
def test_logits_that_no_kernel_error_explains_are_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_recorder(monkeypatch, type("Far", (WrongLogits,), {"size": 1.0}))
    *_, row = rows = measured(tmp_path / "out.jsonl", code=1)
    assert row["too_far"]
    assert row["kinds"]["neither"] > 0
    assert not any(x["inconsistent"] for x in rows if x.get("what") == "divergence")


@pytest.mark.slow
def test_logits_that_round_otherwise_part_at_ties_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # well below what bfloat16 errs by, and more than enough to part often
    with_recorder(monkeypatch, type("Near", (WrongLogits,), {"size": 0.015}))
    options = ("--temperature", "2.0", "--tokens", "60")
    *_, row = rows = measured(tmp_path / "out.jsonl", *options, dtype="bfloat16")
    assert not row["too_far"]
    assert row["kinds"]["near-tie"] > 0
    assert row["kinds"]["neither"] == 0
    found = [x for x in rows if x.get("what") == "divergence"]
    assert all(max(x["gaps"]) <= x["bound"] for x in found if x["divergence"] == "near-tie")


@pytest.mark.slow
def test_a_recorder_holds_the_logits_of_every_token() -> None:
    model = tiny(max_model_len=256)
    prompts = ((1, 2, 3, 4, 5), tuple(range(40)))
    params = tuple(SamplingParams(temperature=t, max_tokens=9, seed=i, ignore_eos=True) for i, t in enumerate((0, 0.8)))
    workload = recording.Workload(prompts, params, 9)
    for entry in entries(["dense", "sparsespec:selector=pillar(min_budget=4)", "triforce"]):
        run = recording.decode(model, entry, workload, batch=1)
        for i, (prompt, done) in enumerate(zip(prompts, run.completions, strict=True)):
            for step, token in enumerate(done.token_ids):
                want = next_logits(model, (*prompt, *done.token_ids[:step]))
                assert torch.allclose(run.logits[i, step], want, atol=1e-9)
                assert run.sampled(workload, i, step) == token


def test_what_cannot_be_compared_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="shared-noise"):
        measured(tmp_path / "out.jsonl", "--preset", "sparsespec:verifier=greedy")
    with pytest.raises(BadRequest, match="temperature"):
        measured(tmp_path / "out.jsonl", "--temperature", "-1")
    with pytest.raises(BadOption, match="max_model_len"):
        measured(tmp_path / "out.jsonl", "--tokens", "5000")
