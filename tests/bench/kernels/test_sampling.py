"""The cases of sampling, on a CPU and small: their checks are green, and see what is off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.kernels import case, peers, sampling
from bench.kernels.case import Ready, judged
from bench.kernels.sampling import NUCLEUS, Verified, are_sampled, distribution, logprobs, sampled, top_probability
from sparsespec.core.batch import VerifyOutput
from sparsespec.core.noise import gumbel
from sparsespec.kernels.sample.api import sample
from sparsespec.testing.ops.sampling import LARGE, OFF, SAMPLE, Filters

KINDS = [OFF, NUCLEUS]
SMALL: dict[str, int] = {"rows": 40, "vocab": 203}


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case, "DEVICE", "cpu")
    monkeypatch.setattr(case, "buffers_for", lambda n_bytes: 2)
    monkeypatch.setattr(peers, "MODULE", "no_such_module")


def spoilt(ready: Ready, change: Any) -> str:
    """Return what the check says of a first call whose result is changed."""
    right = ready.calls[0]
    ready.calls[0] = lambda: change(right())
    return ready.check()


@pytest.mark.parametrize("filters", KINDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampling_is_green_and_another_token_is_seen(dtype: torch.dtype, filters: Filters) -> None:
    ready = sampled(dtype, filters, **SMALL)()
    assert (ready.check(), len(ready.calls)) == ("", 2)
    assert ready.bytes == 40 * 203 * dtype.itemsize
    assert spoilt(ready, lambda tokens: (tokens + 1) % 203).startswith("result is off by")


def test_logits_are_standard_normal_and_differ_from_set_to_set() -> None:
    first, second = (call.args[0] for call in sampled(torch.float32, OFF, **SMALL)().calls)  # type: ignore[attr-defined]
    assert first.isfinite().all()
    assert abs(float(first.std()) - 1) < 0.05
    assert not torch.equal(first, second)


def test_the_other_of_two_tokens_with_equal_scores_is_as_good() -> None:
    args = SAMPLE.make(0, filters=(OFF,) * 3, vocab=LARGE, dtype=torch.float32, device="cpu")
    key = [args[name] for name in ("seed", "sample_index", "position", "tag")]
    args["logits"] = torch.full((3, LARGE), -100.0)
    args["logits"][:, [7, 30]] = 20 - gumbel(*key, LARGE, torch.float32)[:, [7, 30]]
    for got, wrong in ((7, False), (30, False), (8, True)):
        assert bool(judged(SAMPLE, args, torch.full((3,), got), args)) == wrong
    args["logits"][:, 7] += 1e-4
    assert judged(SAMPLE, args, torch.full((3,), 30), args) != ""


def test_a_top_probability_is_green_and_one_that_is_off_is_seen() -> None:
    ready = top_probability(torch.bfloat16, **SMALL)()
    assert ready.check() == ""
    assert spoilt(ready, lambda odds: 1.001 * odds).startswith("result is off by")


@pytest.mark.parametrize("filters", KINDS, ids=str)
def test_a_distribution_is_green_and_another_is_seen(filters: Filters) -> None:
    assert distribution(torch.bfloat16, filters, **SMALL)().check() == ""
    spoils = {
        "result is off by": lambda odds: 1.001 * odds,
        "tokens with a probability": lambda odds: odds.masked_fill(odds == odds.amax(), 0),
    }
    for sentence, spoil in spoils.items():
        assert spoilt(distribution(torch.bfloat16, filters, **SMALL)(), spoil).startswith(sentence)


@pytest.mark.parametrize("field", ["ids", "values", "chosen_value"])
def test_log_probabilities_are_green_and_others_are_seen(field: str) -> None:
    ready = logprobs(torch.bfloat16, best=5, **SMALL)()
    assert ready.check() == ""
    assert spoilt(ready, lambda got: got._replace(**{field: getattr(got, field) + 1})).startswith(field)


def verify(filters: Filters) -> Ready:
    return Verified(torch.bfloat16, filters, rows=5, drafts=3, vocab=203)()


@pytest.mark.parametrize("filters", KINDS, ids=str)
def test_a_verdict_is_green_accepts_what_it_was_given_and_has_its_samples_beside_it(filters: Filters) -> None:
    ready = verify(filters)
    assert ready.check() == ""
    verified: VerifyOutput = ready.calls[0]()
    assert verified.accepted.tolist() == [0, 1, 2, 3, 0]
    (samples,) = ready.peers.values()
    tokens: Tensor = samples()[0]()
    assert tokens.shape == (20,)
    assert (ready.agrees(tokens), ready.agrees(tokens + 1)) == (True, False)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x._replace(tokens=x.tokens + 1),
        lambda x: x._replace(emitted=x.accepted),
        lambda x: x._replace(accepted=x.emitted),
    ],
)
def test_a_wrong_verdict_is_seen(spoil: Any) -> None:
    assert spoilt(verify(NUCLEUS), spoil).endswith("not what was sampled")


@pytest.mark.parametrize("filters", KINDS, ids=str)
def test_another_s_samples_are_told_from_samples_of_another_distribution(filters: Filters) -> None:
    args = sampling.SAMPLE.make(0, filters=(filters,) * 40, vocab=203, dtype=torch.float32, device="cpu")
    args["logits"] = 3 * torch.randn(40, 203, generator=torch.Generator().manual_seed(0))
    other = {**args, "seed": args["seed"] + 999}
    assert are_sampled(sample(**other), args["logits"], args)
    assert not are_sampled(sample(**{**other, "logits": args["logits"].flip(0)}), args["logits"], args)
    assert not are_sampled(args["logits"].argmin(-1), args["logits"], args)
