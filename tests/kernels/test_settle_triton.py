"""Held against the reference to the last bit: seats and reports behind drawn steps of all phases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsespec.core.batch import Batch, VerifyInputs, VerifyOutput
from sparsespec.core.errors import BadOption, ContractBroken, MissingPackage, UnknownName
from sparsespec.core.plan import Phase
from sparsespec.kernels.settle import api, reference
from sparsespec.kernels.verify_inputs import reference as verify_inputs
from sparsespec.kernels.verify_tokens import reference as verify_tokens
from tests.kernels.launched import DEVICE, WHERE, launched, mutant, poisoned, room
from tests.kernels.steps import WIDTH, differing, drawn_step, draws_of, judged_batch, on

pytestmark = WHERE

ours: Any = room("settle")


class End(NamedTuple):
    """The end of a round: arguments of `settle`."""

    batch: Batch
    judged: VerifyInputs
    verified: VerifyOutput
    peak: Tensor
    confidence: Tensor
    kv_read: Tensor


def end_of(seed: int, n_rows: int, dtype: torch.dtype = torch.float32) -> End:
    """Return the end of a drawn step; some logits are broken, some drafts are less sure than they must be."""
    generator = torch.Generator().manual_seed(seed)
    step = drawn_step(seed, n_rows)
    batch = judged_batch(step, seed)
    judged = VerifyInputs(*verify_inputs.verify_inputs(batch, WIDTH))
    draws = draws_of(judged, step.n_logits, seed)
    candidate = verify_inputs.spread(judged, step.n_logits)[3]
    verified = VerifyOutput(*verify_tokens.match_tokens(draws, candidate, judged.first, judged.count, WIDTH))
    peak = 9 * torch.randn(step.n_logits, generator=generator)
    for value in (torch.nan, torch.inf, -torch.inf):
        peak[torch.rand(step.n_logits, generator=generator) < 0.05] = value
    sure = torch.rand(n_rows, generator=generator, dtype=torch.float64)
    sure[judged.level == 0] = torch.nan
    read = 100 * torch.rand(n_rows, generator=generator, dtype=torch.float64)
    return End(batch, judged, verified, peak.to(dtype), sure.to(torch.promote_types(dtype, torch.float32)), read)


def floats(report: Tensor) -> Tensor:
    return report[:, 7:10].contiguous().view(torch.float64)


def behind(end: End, module: Any) -> tuple[Any, ...]:
    """Return the seats behind a round, its report cut into numbers and floats, and how much was drafted before."""
    report, drafted = module.settle(*end)
    state = end.batch.state
    seats = (state.tokens, state.n_committed, state.n_drafted, state.n_computed, state.ended, state.stop_below)
    return seats, report[:, :7], floats(report), report[:, 10:], drafted


def wrong(end: End, module: Any) -> list[str]:
    want = behind(on(end, "cpu"), reference)
    with poisoned():
        got = behind(on(end, DEVICE), module)
    return differing(got, want)


@settings(max_examples=40 if DEVICE == "cpu" else 300)
@given(
    seed=st.integers(0, 10**6),
    n_rows=st.integers(1, 9),
    dtype=st.sampled_from((torch.float32, torch.float16, torch.float64)),
)
def test_a_round_ends_as_the_reference_says(seed: int, n_rows: int, dtype: torch.dtype) -> None:
    assert not wrong(end_of(seed, n_rows, dtype), ours)


@pytest.mark.parametrize("n_rows", [1, 16, 17, 128])
def test_many_rows(n_rows: int) -> None:
    assert not wrong(end_of(n_rows, n_rows), ours)


def test_what_another_verifier_says_settles_too() -> None:
    end = end_of(5, 9)
    # whatever lies behind what was emitted, it is reported and not written
    junk = torch.where(torch.arange(WIDTH) < end.verified.emitted[:, None], end.verified.tokens, -9)
    end = end._replace(verified=end.verified._replace(tokens=junk))
    assert not wrong(end, ours)
    behind(end, reference)
    assert (end.batch.state.tokens >= 0).all()


def test_the_drawn_ends_hold_every_kind_of_row() -> None:
    seen = set()
    for seed in range(20):
        end = end_of(seed, 9)
        phase, before = end.batch.phase, end.batch.state.ended[end.batch.seat]
        report = reference.settle(*end)[0]
        draft, emitted = phase == Phase.DRAFT, end.verified.emitted
        seen |= {"ends here"} if (draft & (report[:, 5] == 1) & ~before).any() else set()
        seen |= {"ended before"} if (draft & (emitted == 0) & before).any() else set()
        seen |= {"opens again"} if ((phase == Phase.VERIFY) & before & (report[:, 5] == 0)).any() else set()
        seen |= {"rolled back"} if (end.verified.accepted < end.judged.count).any() else set()
        seen |= (
            {"all accepted"} if ((end.judged.count > 1) & (end.verified.accepted == end.judged.count)).any() else set()
        )
        seen |= {"broken"} if (report[:, 6] == 0).any() else set()
        assert (floats(report)[:, 0].isnan() == ~(draft & (end.batch.live > 0))).all()
    assert len(seen) == 6


MUTANTS = {
    "the tail off by one": ("filled = tl.where(verifying, c - 1,", "filled = tl.where(verifying, c,"),
    "drafts kept behind a verification": ("tl.where(verifying, 0, d))", "tl.where(verifying, d, d))"),
    "a draft commits": ("c + tl.where(verifying, emitted, 0)", "c + emitted"),
    "prefill forgotten": ("tl.where(filling, filled + n_query, filled)", "filled"),
    "ended forgotten": ("tl.where(drafting, ended | low,", "tl.where(drafting, low,"),
    "rounds never end": ("ended | low", "ended"),
    "ended for good": ("ended & (verifying == 0)", "ended"),
    "dead drafts end rounds": ("(emitted > 0) & (confidence <", "(confidence <"),
    "row for seat": ("tl.load(seats + row, mask=mask, other=0)\n    c =", "row\n    c ="),
    "tokens of the row's number": ("known + seat[:, None]", "known + row[:, None]"),
    "the first input overwritten": ("at = tl.load(positions + row", "at = tl.load(starts + row"),
    "rejected tokens written": ("(column[None, :] < emitted[:, None]) &", "(column[None, :] <= emitted[:, None]) &"),
    "the last logit row unseen": ("(column[None, :] < n_query[:, None])", "(column[None, :] < n_query[:, None] - 1)"),
    "NaN is finite": ('((tl.abs(peak) < float("inf")) == 0)', '(tl.abs(peak) == float("inf"))'),
    "verifications are sure too": ("drafting & runs & ", "runs & "),
    "queries left out of the context": ("other=0) + live", "other=0)"),
    "dead rows read": ("tl.where(runs, read, 0.0)", "read"),
    "drafts reported as they were": ("return d, ended", "return tl.load(d_of + row * 0, mask=mask, other=0), ended"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_run_and_are_caught(name: str, tmp_path: Path) -> None:
    module = mutant(ours, tmp_path, MUTANTS[name])
    assert any(wrong(end_of(seed, 6), module) for seed in range(12)), name


def test_the_kernel_is_launched() -> None:
    end = on(end_of(3, 5), DEVICE)
    with launched(ours, "_settle", api):
        report = api.settle(*end, impl="triton").report
    assert report.shape == (5, 10 + WIDTH)


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    end = on(end_of(0, 6), DEVICE)
    with pytest.raises(ContractBroken, match=r"confidence must be \[6\]"):
        api.settle(*end._replace(confidence=end.confidence[1:]), impl="triton")
    with pytest.raises(ContractBroken, match="peaks"):
        api.settle(*end._replace(peak=end.peak[:0]), impl="triton")
    with pytest.raises(BadOption, match="kv_read to be contiguous"):
        api.settle(*end._replace(kv_read=end.kv_read.repeat_interleave(2)[::2]), impl="triton")
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        api.settle(*end, impl="tritom")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsespec.kernels.settle.triton")
    monkeypatch.delattr("sparsespec.kernels.settle.triton")
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[triton\]'"):
        api.settle(*end, impl="triton")


@pytest.mark.gpu
def test_a_captured_launch_follows_its_inputs() -> None:
    end = on(end_of(0, 64), DEVICE)
    n = len(end.peak)
    behind(on(end, DEVICE), ours)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        report = api.settle(*end, impl="triton").report
    for seed in (1, 2):
        fresh = end_of(seed, 64)
        fresh = fresh._replace(peak=torch.nn.functional.pad(fresh.peak, (0, n))[:n])
        copy(end, fresh)
        graph.replay()
        want = reference.settle(*fresh)[0]
        assert not differing((report[:, :7], floats(report)), (want[:, :7], floats(want)))
        for name in ("tokens", "c", "d", "filled", "ended"):
            assert torch.equal(getattr(end.batch.state, name).cpu(), getattr(fresh.batch.state, name)), name


def copy(to: Any, source: Any) -> None:
    """Copy what `settle` reads."""
    for name in ("seat", "phase", "n_query", "offset", "start", "live"):
        getattr(to.batch, name).copy_(getattr(source.batch, name))
    for name in ("tokens", "c", "d", "filled", "ended", "stop_below"):
        getattr(to.batch.state, name).copy_(getattr(source.batch.state, name))
    to.judged.count.copy_(source.judged.count)
    to.judged.position.copy_(source.judged.position)
    for old, new in zip(to.verified[:3], source.verified[:3], strict=True):
        old.copy_(new)
    for old, new in zip(to[3:], source[3:], strict=True):
        old.copy_(new)
