"""Verifiers that break one promise each, and the sentence that says which."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.sampling.greedy import Greedy
from sparsespec.sampling.rejection import Rejection
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.testing import check_verifier
from tests.quick import quick_last
from tests.testing.caught import caught


class Stingy(SharedNoise):
    """Emits no token behind the candidates that stand."""

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        verified = super().verify(logits, rows, q)
        return verified._replace(emitted=verified.accepted)


class Undead(SharedNoise):
    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        verified = super().verify(logits, rows, q)
        return verified._replace(emitted=verified.emitted.clamp(min=1))


class Trusting(SharedNoise):
    """Lets every candidate stand."""

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        verified = super().verify(logits, rows, q)
        m = rows.count.clamp(min=0)
        tokens = torch.cat((rows.candidates, verified.tokens[:, -1:]), 1)
        return verified._replace(tokens=tokens, accepted=m, emitted=torch.where(rows.count < 0, 0, m + 1))


class Dicing(SharedNoise):
    """Takes other noise each time it is asked."""

    times = itertools.count()

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        diced = dataclasses.replace(rows, seed=rows.seed + next(self.times))
        return super().verify(logits, diced, q)


class ByPlace(SharedNoise):
    """Takes noise by the row's place in the batch."""

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        placed = dataclasses.replace(rows, seed=torch.arange(len(rows.seed)))
        return super().verify(logits, placed, q)


class Biased(SharedNoise):
    """Prefers token 2 a little."""

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        return super().verify(logits + 0.7 * (torch.arange(logits.shape[1]) == 2), rows, q)


class AcceptsTheLikely(Rejection):
    """Accepts iff p >= q."""

    def accept_weights(self, p: Tensor, q: Tensor, x: Tensor) -> Tensor:
        is_accepted = (p.gather(1, x[:, None]) >= q.gather(1, x[:, None])).to(p.dtype)
        return torch.cat((is_accepted, 1 - is_accepted), 1)


class ResamplesFromP(Rejection):
    def residual(self, p: Tensor, q: Tensor) -> Tensor:
        return p


class DraftsAreCold(Rejection):
    """Takes the laws of drafts at temperature 1."""

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        assert q is not None
        warmth = torch.where(rows.temperature > 0, rows.temperature, 1)
        return super().verify(logits, rows, q * warmth[:, None, None])


class Meddling(SharedNoise):
    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        verified = super().verify(logits, rows, q)
        rows.candidates.zero_()
        return verified


class Second(Greedy):
    """Emits the second best."""

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        return super().verify(logits.scatter(1, logits.argmax(1, keepdim=True), -9.0), rows, q)


class Choosy(Greedy):
    def accepts(self, temperature: float) -> Any:
        return "no" if temperature else None


class HotOnly(SharedNoise):
    def accepts(self, temperature: float) -> str | None:
        return None if temperature else "use another temperature"


BROKEN: dict[type, str] = {
    Stingy: "not one more|not 1 … m",
    Undead: "for a dead row",
    Trusting: "the best token is|another law|masks",
    Dicing: "when asked again",
    ByPlace: "among other neighbours",
    Biased: "another law|masks|the best token",
    AcceptsTheLikely: "another law",
    ResamplesFromP: "another law",
    DraftsAreCold: "another law",
    Meddling: "changed its rows",
    Second: "the best token is",
    Choosy: "a sentence about the temperature",
    HotOnly: "does not serve temperature 0",
}


@pytest.mark.parametrize("part", quick_last(list(BROKEN)), ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    caught(check_verifier, part(), BROKEN[part])
