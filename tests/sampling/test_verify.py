"""Units of the three verifiers; `tests/laws/test_exact_probs.py` says that their distributions are right."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.core.batch import VerifyInputs
from sparsespec.core.errors import ContractBroken
from sparsespec.core.noise import gumbel
from sparsespec.core.protocols import Verifier
from sparsespec.kernels.sample.api import process
from sparsespec.kernels.verify_inputs.api import per_logit_row
from sparsespec.sampling.greedy import Greedy
from sparsespec.sampling.rejection import Rejection
from sparsespec.sampling.shared_noise import SharedNoise

V = 11
VERIFIERS = [Greedy, SharedNoise, Rejection]


def verify_inputs(
    counts: list[int], *, gap: int = 0, temperature: float = 1.0, seed: int = 0
) -> tuple[VerifyInputs, int]:
    """Return rows with these counts and how many logit rows they have, `gap` unowned ones behind each."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.tensor(counts, dtype=torch.int64)
    size = count.clamp(min=-1) + 1 + gap
    n, width = len(counts), max([*counts, 0])
    real = torch.full((n,), temperature, dtype=torch.float64)
    rows = VerifyInputs(
        first=size.cumsum(0) - size,
        count=count,
        candidates=torch.randint(0, V, (n, width), generator=generator),
        sampled=torch.zeros(n, dtype=torch.bool),
        level=torch.zeros(n, dtype=torch.int64),
        position=torch.arange(n) * 7 + 3,
        n_committed=torch.arange(n) * 7 + 3,
        seed=torch.arange(n) + seed,
        sample_index=torch.zeros(n, dtype=torch.int64),
        temperature=real,
        top_k=torch.zeros(n, dtype=torch.int64),
        top_p=torch.ones_like(real),
        min_p=torch.zeros_like(real),
    )
    return rows, int(size.sum())


def logits_of(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, V, generator=torch.Generator().manual_seed(seed)) * 2


def take(rows: VerifyInputs, index: list[int]) -> VerifyInputs:
    return VerifyInputs(*(getattr(rows, field.name)[index] for field in dataclasses.fields(rows)))


@pytest.mark.parametrize("make", VERIFIERS)
def test_satisfies_the_protocol(make: type) -> None:
    assert isinstance(make(), Verifier)


def test_greedy_refuses_what_it_cannot_serve() -> None:
    assert Greedy().accepts(0) is None
    assert "verifier='shared-noise'" in str(Greedy().accepts(0.7))
    assert SharedNoise().accepts(0.7) is None and Rejection().accepts(0.7) is None


COUNTS = st.lists(st.integers(-1, 3), min_size=1, max_size=5)


@settings(max_examples=30)
@given(COUNTS, st.integers(0, 2), st.integers(0, 99))
def test_equality_verifiers_emit_what_plain_sampling_emits(counts: list[int], gap: int, seed: int) -> None:
    for verifier, temperature in ((Greedy(), 0.0), (SharedNoise(), 0.0), (SharedNoise(), 0.9)):
        rows, n = verify_inputs(counts, gap=gap, temperature=temperature, seed=seed)
        logits = logits_of(n, seed)
        # Let some candidates be accepted, else rows of two are never seen.
        sampled = [slow_samples(rows, logits, r) for r in range(len(counts))]
        for r, count in enumerate(counts):
            for j in range(max(count, 0)):
                if (seed + r + j) % 3:
                    rows.candidates[r, j] = sampled[r][j]
        got = verifier.verify(logits, rows, None)
        for r, count in enumerate(counts):
            accepted = next((j for j in range(count) if rows.candidates[r, j] != sampled[r][j]), max(count, 0))
            expected = sampled[r][: accepted + 1]
            assert got.tokens[r, : got.emitted[r]].tolist() == expected
            assert got.accepted[r] == accepted
        assert got.tokens.shape == (len(counts), rows.candidates.shape[1] + 1)


def slow_samples(rows: VerifyInputs, logits: torch.Tensor, r: int) -> list[int]:
    """Sample every logit row of row `r` by itself."""
    out = []
    for j in range(int(rows.count[r]) + 1):
        row = logits[int(rows.first[r]) + j][None]
        one = [getattr(rows, name)[r : r + 1] for name in ("temperature", "top_k", "top_p", "min_p")]
        zero = torch.zeros(1, dtype=torch.int64)
        key = (rows.seed[r : r + 1], zero, rows.position[r : r + 1] + j, zero)
        noise = gumbel(*key, V, torch.float32) if rows.temperature[r] else 0
        out.append(int((process(row, *one) + noise).argmax()))
    return out


@settings(max_examples=30)
@given(COUNTS, st.integers(0, 2), st.integers(0, 99), st.sampled_from([0.0, 0.8]))
def test_a_row_of_any_verifier_does_not_see_its_neighbours(
    counts: list[int], gap: int, seed: int, temperature: float
) -> None:
    rows, n = verify_inputs(counts, gap=gap, temperature=temperature, seed=seed)
    logits = logits_of(n, seed)
    rows = dataclasses.replace(rows, sampled=torch.arange(len(counts)) % 2 == 0)
    q = logits_of(rows.candidates.numel(), seed + 1).view(*rows.candidates.shape, V)
    for verifier in (Greedy(), SharedNoise(), Rejection()):
        together = verifier.verify(logits, rows, q)
        for r in range(len(counts)):
            alone = verifier.verify(logits, take(rows, [r]), q[[r]])
            assert torch.equal(alone.tokens[0], together.tokens[r])
            assert alone.emitted[0] == together.emitted[r] and alone.accepted[0] == together.accepted[r]


@pytest.mark.parametrize("make", VERIFIERS)
def test_dead_rows_and_no_rows_emit_nothing(make: type) -> None:
    for counts, gap in (([-1, -1], 0), ([-1, -1], 2), ([], 0)):
        rows, n = verify_inputs(counts, gap=gap)
        got = make().verify(logits_of(n), rows, None)
        assert got.tokens.shape == (len(counts), 1)
        assert got.emitted.tolist() == got.accepted.tolist() == [0] * len(counts)


def test_every_logit_row_names_the_row_it_belongs_to() -> None:
    rows, n = verify_inputs([1, -1, 0, 2], gap=1)
    at = per_logit_row(rows, n, impl="reference")
    assert at.alive.tolist() == [True, True, False, False, True, False, True, True, True, False]
    assert at.judges.nonzero()[:, 0].tolist() == [0, 6, 7]
    assert at.position[at.alive].tolist() == [3, 4, 17, 24, 25, 26]
    assert at.row[at.alive].tolist() == [0, 0, 2, 3, 3, 3]
    assert at.candidate[at.judges].tolist() == [int(rows.candidates[r, j]) for r, j in ((0, 0), (3, 0), (3, 1))]
    assert (at.temperature[~at.alive] == 0).all()


def test_rejection_compares_processed_probabilities_of_both_levels() -> None:
    rows, n = verify_inputs([2, 1], temperature=0.7)
    rows = dataclasses.replace(rows, top_k=torch.tensor([3, 0]), sampled=torch.tensor([True, True]))
    verifier, compared = Rejection(), []

    def record(p: torch.Tensor, q: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        compared.append((p, q))
        return torch.tensor([[1.0, 0.0]]).expand(len(x), -1)

    verifier.accept_weights = record  # pyright: ignore[reportAttributeAccessIssue]
    logits, q = logits_of(n), logits_of(4, 1).view(2, 2, V)
    verifier.verify(logits, rows, q)
    for j, both in enumerate(compared):
        for probs, own in zip(both, (logits[rows.first + j], q[:, j]), strict=True):
            torch.testing.assert_close(probs.sum(-1), torch.ones(len(probs)))
            assert int((probs[0] > 0).sum()) == 3
            if j == 0:
                torch.testing.assert_close(probs[1], (own[1] / 0.7).softmax(-1))
    assert [len(p) for p, _ in compared] == [2, 1]


@pytest.mark.parametrize("is_sampled", [False, True])
def test_rejection_at_temperature_zero_is_greedy(is_sampled: bool) -> None:
    rows, n = verify_inputs([3, 3, 1, 0], temperature=0.0)
    logits = logits_of(n)
    best = logits.argmax(-1)
    rows.candidates[0] = best[:3]
    rows.candidates[1, 0] = best[4]
    rows = dataclasses.replace(rows, sampled=torch.full((4,), is_sampled))
    q = torch.nn.functional.one_hot(rows.candidates, V).float()  # whose best are the candidates
    got, greedy = Rejection().verify(logits, rows, q), Greedy().verify(logits, rows, None)
    assert torch.equal(got.tokens, greedy.tokens) and torch.equal(got.accepted, greedy.accepted)


def test_residual_without_mass_falls_back_to_the_target() -> None:
    verifier = Rejection()
    p = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    q = torch.tensor([[0.5, 0.5, 2.0**-24], [0.25, 0.75, 0.0]])
    assert verifier.residual(p, q).tolist() == [[0.5, 0.5, 0.0], [0.25, 0.0, 0.0]]
    # q(x) = 0 cannot have been sampled; a rounding that gets there must neither crash nor accept.
    assert verifier.accept_weights(p, q, torch.tensor([2, 2])).tolist() == [[0.0, 2.0**-24], [0.0, 1.0]]


def test_a_rejected_candidate_may_be_emitted_by_the_fallback_without_being_accepted() -> None:
    rows, _ = verify_inputs([1])
    rows = dataclasses.replace(rows, sampled=torch.tensor([True]))
    verifier = Rejection()
    asked = []

    def choose(weights: torch.Tensor, key: object) -> torch.Tensor:
        asked.append(weights.shape[1])
        return torch.tensor([1]) if weights.shape[1] == 2 else rows.candidates[:, 0]

    verifier.choose = choose  # pyright: ignore[reportAttributeAccessIssue]
    got = verifier.verify(torch.zeros(2, V), rows, torch.zeros(1, 1, V))
    assert asked == [2, V]
    assert (got.tokens[0].tolist(), got.emitted[0], got.accepted[0]) == ([int(rows.candidates[0, 0]), 0], 1, 0)


def test_rejection_without_the_logits_of_drafts_raises() -> None:
    rows, n = verify_inputs([1])
    rows = dataclasses.replace(rows, sampled=torch.tensor([True]))
    with pytest.raises(ContractBroken, match="needs q"):
        Rejection().verify(logits_of(n), rows, None)


def test_no_key_of_one_row_is_used_twice() -> None:
    rows, n = verify_inputs([3, 2, 0, 3], seed=1)
    rows = dataclasses.replace(rows, level=torch.tensor([0, 1, 1, 0]), seed=torch.zeros(4, dtype=torch.int64))
    rows = dataclasses.replace(rows, position=torch.full((4,), 9), n_committed=torch.tensor([9, 9, 5, 4]))
    verifier, keys = Rejection(), []
    choose = verifier.choose

    def record(weights: torch.Tensor, key: tuple) -> torch.Tensor:
        keys.extend(zip(*(part.tolist() for part in key), strict=True))
        return choose(weights, key)

    verifier.choose = record  # pyright: ignore[reportAttributeAccessIssue]
    for seed in range(5):
        keys.clear()
        verifier.verify(logits_of(n, seed), rows, None)
        assert len(set(keys)) == len(keys) >= 4
        assert all(tag != 0 for *_, tag in keys)
