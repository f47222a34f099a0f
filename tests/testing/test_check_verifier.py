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
from tests.testing.caught import caught, variant


def bent(name: str, base: type = SharedNoise, *, logits: Any = None, rows: Any = None, output: Any = None) -> type:
    """Return a verifier that is given other logits or rows, or gives something else than a sound one: functions."""

    def verify(self: Any, x: Tensor, asked: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        verified = base.verify(self, logits(x) if logits else x, rows(asked) if rows else asked, q)
        return output(verified) if output else verified

    return variant(name, base, verify=verify)


class Trusting(SharedNoise):
    """Lets every candidate stand."""

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        verified = super().verify(logits, rows, q)
        m = rows.count.clamp(min=0)
        tokens = torch.cat((rows.candidates, verified.tokens[:, -1:]), 1)
        return verified._replace(tokens=tokens, accepted=m, emitted=torch.where(rows.count < 0, 0, m + 1))


class AcceptsTheLikely(Rejection):
    """Accepts iff p >= q."""

    def accept_weights(self, p: Tensor, q: Tensor, x: Tensor) -> Tensor:
        is_accepted = (p.gather(1, x[:, None]) >= q.gather(1, x[:, None])).to(p.dtype)
        return torch.cat((is_accepted, 1 - is_accepted), 1)


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


TIMES = itertools.count()
BROKEN: dict[type, str] = {
    # emits no token behind the candidates that stand
    bent("Stingy", output=lambda verified: verified._replace(emitted=verified.accepted)): "not one more|not 1 … m",
    bent("Undead", output=lambda verified: verified._replace(emitted=verified.emitted.clamp(min=1))): "for a dead row",
    Trusting: "the best token is|another distribution|masks",
    # takes other noise each time it is asked, or by the row's place in the batch
    bent("Dicing", rows=lambda rows: dataclasses.replace(rows, seed=rows.seed + next(TIMES))): "when asked again",
    bent(
        "ByPlace", rows=lambda rows: dataclasses.replace(rows, seed=torch.arange(len(rows.seed)))
    ): "among other neighbours",
    # prefers token 2 a little
    bent(
        "Biased", logits=lambda x: x + 0.7 * (torch.arange(x.shape[1]) == 2)
    ): "another distribution|masks|the best token",
    AcceptsTheLikely: "another distribution",
    variant("ResamplesFromP", Rejection, residual=lambda self, p, q: p): "another distribution",
    DraftsAreCold: "another distribution",
    Meddling: "changed its rows",
    # emits the second best
    bent("Second", Greedy, logits=lambda x: x.scatter(1, x.argmax(1, keepdim=True), -9.0)): "the best token is",
    variant(
        "Choosy", Greedy, accepts=lambda self, temperature: "no" if temperature else None
    ): "a sentence about the temperature",
    variant(
        "HotOnly", SharedNoise, accepts=lambda self, t: None if t else "use another temperature"
    ): "does not serve temperature 0",
}


@pytest.mark.parametrize("part", quick_last(list(BROKEN)), ids=lambda part: part.__name__)
def test_a_broken_promise_is_caught(part: type) -> None:
    caught(check_verifier, part(), BROKEN[part])
