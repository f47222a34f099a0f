"""Simulated acceptance: how many drafts are accepted, that a run can be repeated, and that no name finds it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from sparsespec.core import registry
from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadOption
from sparsespec.core.protocols import Verifier
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.testing.checks.peeks import without_peeks
from sparsespec.testing.simulated_acceptance import SimulatedAcceptance, chance_for, mean_accepted

V, K = 11, 8
GEOMETRY = Geometry(
    n_layers=1,
    n_heads=1,
    n_kv_heads=1,
    head_dim=2,
    vocab=V,
    n_seats=4,
    max_model_len=64,
    block_size=16,
    num_gpu_blocks=9,
    dtype="float32",
    max_draft=K,
)


def rows_of(counts: list[int], *, level: int = 0, seed: int = 0) -> tuple[torch.Tensor, VerifyInputs]:
    """Return logits and rows with random candidates; row r has a seed of its own."""
    generator = torch.Generator().manual_seed(seed)
    n, count = len(counts), torch.tensor(counts)
    size = count.clamp(min=0) + 1
    whole = torch.zeros(n, dtype=torch.int64)
    rows = VerifyInputs(
        first=size.cumsum(0) - size,
        count=count,
        candidates=torch.randint(V, (n, K), generator=generator),
        sampled=torch.ones(n, dtype=torch.bool),
        level=whole + level,
        position=torch.randint(1, 50, (n,), generator=generator),
        n_committed=whole + 1,
        seed=torch.randint(1 << 62, (n,), generator=generator),
        sample_index=whole,
        temperature=torch.full((n,), 0.7, dtype=torch.float64),
        top_k=whole,
        top_p=torch.ones(n, dtype=torch.float64),
        min_p=torch.zeros(n, dtype=torch.float64),
    )
    return torch.randn(int(size.sum()), V, generator=generator), rows


def bound(mean: float) -> SimulatedAcceptance:
    verifier = SimulatedAcceptance(mean)
    verifier.bind(GEOMETRY)
    return verifier


def test_it_is_a_verifier_and_no_preset_can_name_it() -> None:
    assert isinstance(SimulatedAcceptance(1.0), Verifier)
    assert "capturable" in SimulatedAcceptance.provides
    made = [type(registry.make(name, shelf="verifier")) for name in registry.names("verifier")]
    assert SimulatedAcceptance not in made


@pytest.mark.parametrize("mean", [0.0, 0.3, 4.5, 6.16, 7.0, 8.0])
def test_the_mean_of_many_rounds_is_the_wanted_one(mean: float) -> None:
    n = 4000
    logits, rows = rows_of([K] * n)
    accepted = bound(mean).verify(logits, rows, None).accepted.double()
    chance = chance_for(mean, K)
    # Var = Σ (2j - 1) p^j - mean²
    variance = sum((2 * j - 1) * chance**j for j in range(1, K + 1)) - mean**2
    assert abs(accepted.mean() - mean) <= 4 * math.sqrt(max(variance, 0) / n) + 1e-9


def test_each_count_of_accepted_drafts_is_as_frequent_as_independent_ones_make_it() -> None:
    n, chance = 6000, chance_for(6.16, K)
    logits, rows = rows_of([K] * n, seed=1)
    accepted = bound(6.16).verify(logits, rows, None).accepted
    probs = torch.tensor([chance**j * ((1 - chance) if j < K else 1) for j in range(K + 1)])
    seen = torch.bincount(accepted, minlength=K + 1)
    # 8 degrees of freedom; exceeded once in 10**5 times
    assert float(((seen - n * probs) ** 2 / (n * probs)).sum()) < 40


def test_what_is_accepted_is_the_candidate_and_what_follows_the_last_one_is_sampled() -> None:
    logits, rows = rows_of([K] * 50, seed=2)
    verified = bound(5.0).verify(logits, rows, None)
    sampled = SharedNoise().verify(logits, dataclasses.replace(rows, count=rows.count * 0), None)
    for r, accepted in enumerate(verified.accepted.tolist()):
        assert verified.tokens[r, :accepted].tolist() == rows.candidates[r, :accepted].tolist()
        assert verified.emitted[r] == accepted + 1
        if accepted < K:
            assert verified.tokens[r, accepted] != rows.candidates[r, accepted]
        if not accepted and sampled.tokens[r, 0] != rows.candidates[r, 0]:
            assert verified.tokens[r, 0] == sampled.tokens[r, 0]


def same(a: VerifyOutput, b: VerifyOutput) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


@pytest.mark.parametrize(("counts", "level"), [([0] * 20, 0), ([3, 0, -1, 2], 1), ([-1, -1], 0)])
def test_sampling_drafting_and_dead_rows_are_those_of_shared_noise(counts: list[int], level: int) -> None:
    logits, rows = rows_of(counts, level=level)
    assert same(bound(4.0).verify(logits, rows, None), SharedNoise().verify(logits, rows, None))


def test_a_run_can_be_repeated_and_neighbours_do_not_matter() -> None:
    logits, rows = rows_of([K, 3, -1, 0, K], seed=3)
    first = bound(6.0).verify(logits, rows, None)
    assert same(first, bound(6.0).verify(logits, rows, None))
    alone = VerifyInputs(**{f.name: getattr(rows, f.name)[4:] for f in dataclasses.fields(rows)})
    again = bound(6.0).verify(logits, alone, None)
    assert torch.equal(again.tokens[0], first.tokens[4])


def test_the_host_looks_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, rows = rows_of([K, 3, -1, 0])
    verifier, sample = bound(6.16), SharedNoise.sample
    with without_peeks("SimulatedAcceptance") as guard:

        def elsewhere(*args: Any) -> torch.Tensor:
            """Sample; the CPU's reference looks at values, and the GPU's kernels do not."""
            with guard.off_duty():
                return sample(*args)

        monkeypatch.setattr(SharedNoise, "sample", elsewhere)
        verifier.verify(logits, rows, None)


def test_chances() -> None:
    assert (chance_for(0, K), chance_for(K, K)) == (pytest.approx(0), pytest.approx(1))
    for mean in (0.1, 1.0, 6.16, 7.9):
        assert mean_accepted(chance_for(mean, K), K) == pytest.approx(mean)
    with pytest.raises(BadOption, match=r"^of 8 drafts between 0 and 8 can be accepted in the mean, got 8\.5$"):
        chance_for(8.5, K)
