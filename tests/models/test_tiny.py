"""The seeded random model is what tests of sparse attention need it to be."""

from __future__ import annotations

import math

import pytest
import torch

from sparsespec.models.config import FAMILIES
from sparsespec.models.tiny import tiny
from sparsespec.models.transformer import Transformer
from tests.models.dense import causal, logits, sinks_and_recent


def greedy(model: Transformer, n: int, seed: int) -> torch.Tensor:
    """Return the model's own continuation of 8 random tokens."""
    tokens = torch.randint(0, model.config.vocab, (8,), generator=torch.Generator().manual_seed(seed))
    for _ in range(n):
        tokens = torch.cat((tokens, logits(model, tokens)[-1:].argmax(-1)))
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_depend_on_the_seed_alone(family: str) -> None:
    torch.manual_seed(1)
    one = tiny(family)
    torch.manual_seed(2)
    for a, b in zip(one.parameters.tensors(), tiny(family).parameters.tensors(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.parameters.embed, tiny(family, seed=1).parameters.embed)
    single = tiny(family, dtype="float32").parameters.tensors()
    for a, b in zip(one.parameters.tensors(), single, strict=True):
        assert torch.equal(a.float(), b)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_global_generator_is_left_alone(family: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    tiny(family)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_have_spread(family: str) -> None:
    for seed in range(3):
        model = tiny(family, seed=seed)
        probs = logits(model, greedy(model, 40, seed)).softmax(-1)
        entropy = -(probs * probs.log()).sum(-1).mean()
        assert 0.2 * math.log(61) < entropy < 0.8 * math.log(61)


@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_reading_changes_some_argmaxes_and_keeps_others(family: str) -> None:
    same = []
    for seed in range(4):
        model = tiny(family, seed=seed)
        tokens = torch.randint(0, 61, (120,), generator=torch.Generator().manual_seed(seed))
        full, sparse = (logits(model, tokens, mask)[60:].argmax(-1) for mask in (causal, sinks_and_recent(4, 16)))
        same.append((full == sparse).double().mean())
    assert 0.3 < torch.stack(same).mean() < 0.9


def test_the_greedy_continuation_does_not_collapse() -> None:
    for family in FAMILIES:
        distinct = [len(greedy(tiny(family, seed=s), 40, s)[8:].unique()) for s in range(4)]
        assert sum(distinct) / 4 > 5
