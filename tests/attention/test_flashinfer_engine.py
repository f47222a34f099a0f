"""Whole engines on `flashinfer`: to the token over the stand-in, and within the numeric contract on a GPU."""

from __future__ import annotations

import pytest

from sparsespec.attention import flashinfer as ours
from sparsespec.benchmarks.entries import Entry
from sparsespec.core.spec import PRESETS
from sparsespec.metrics.speculation import SpecMetrics
from sparsespec.models.tiny import tiny
from sparsespec.models.transformer import Transformer
from sparsespec.testing.divergence.command import params_of
from sparsespec.testing.divergence.contract import NEITHER, divergences, kernel_errors
from sparsespec.testing.divergence.recording import Workload, decode
from tests.attention import fake_flashinfer
from tests.engine.running import Done, compose, greedy, prompt_of, run, sampled, small

DRAFTING = [name for name, one in PRESETS.items() if one.spec.selector.name != "none"]
MORE = {
    "snapkv": {"selector": "snapkv(keep=0.2,min_keep=8)"},
    "quest": {"selector": "quest(budget=0.2,min_budget=8)"},
    "heads": {"selector": "pillar(budget=0.2,min_budget=8,groups=heads)"},
    "rejection": {"verifier": "rejection"},
}
"""What no preset has: selectors that want other scores, or keys, and another verifier."""
TOKENS = 24


def said(model: Transformer, name: str, attention: str, changes: dict[str, str]) -> Done:
    engine = compose(small(name).replace(attention=attention, loop="sync", **changes), model)
    for j, params in enumerate((greedy(12), sampled(10, seed=3, top_p=0.9), greedy(9), sampled(8, seed=4, n=2))):
        engine.add(prompt_of(20 + 7 * j, j), params)
    return run(engine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"), [*((name, {}) for name in PRESETS), *(("sparsespec", one) for one in MORE.values())], ids=str
)
def test_a_preset_says_on_it_what_it_says_on_the_reference(
    name: str, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "_package", lambda _: fake_flashinfer)
    monkeypatch.setattr(ours, "WORKSPACE", 16)
    want, got = (said(tiny(), name, attention, changes) for attention in ("reference", "flashinfer"))
    assert not any(one.error for one in got.values())
    assert {key: one.token_ids for key, one in got.items()} == {key: one.token_ids for key, one in want.items()}
    assert [one.metrics for one in got.values()] == [one.metrics for one in want.values()]
    if name in DRAFTING:
        assert sum(one.metrics.num_rejected_tokens for one in want.values()) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("name", PRESETS)
def test_on_a_gpu_a_preset_parts_from_dense_at_near_ties_only(name: str) -> None:
    pytest.importorskip("flashinfer")
    model = tiny(head_dim=64, hidden=64).to("bfloat16", "cuda")
    params = tuple(params_of(i, (0.65,), TOKENS) for i in range(8))
    workload = Workload(tuple(prompt_of(40 + 9 * j, j) for j in range(8)), params, TOKENS)
    dense = decode(model, Entry("dense", {"attention": "triton"}), workload, 4)
    changes = {"attention": "flashinfer", "loop": "sync", "selector": str(small(name).selector)}
    run_ = decode(model, Entry(name, changes), workload, 4)
    parted = list(divergences(workload, dense, run_, kernel_errors(model, workload, dense)))
    assert NEITHER not in [one.kind for one in parted], parted
    metrics = sum((one.metrics for one in run_.completions), SpecMetrics())
    assert (metrics.num_rejected_tokens > 0) == (metrics.num_draft_tokens > 0)
