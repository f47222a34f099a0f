"""What is asked about a distribution without sampling: bits that depend on a row alone, and rows that have none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from sparsespec.kernels.sample import api
from sparsespec.testing.op_cases import kernel_ops
from sparsespec.testing.ops.sampling import KINDS, OFF, columns, logits_of
from tests.kernels.launched import DEVICE, WHERE
from tests.kernels.sample_calls import small_sizes

pytestmark = WHERE


@pytest.fixture(autouse=True)
def _few_blocks() -> Iterator[None]:
    with small_sizes():
        yield


def test_confidence_has_the_bits_of_top_probability() -> None:
    logits = logits_of("numbers", 9, 45, 5).to(DEVICE)
    first, emitted, wanted = (torch.tensor(x, device=DEVICE) for x in ([7, 0, 3, -4], [2, 4, 1, 1], [1, 5, 0, 0]))
    got = api.confidence(logits, first, emitted, wanted, impl="triton")
    assert torch.equal(got[:2], api.top_probability(logits, impl="triton")[[8, 3]])
    assert got[2:].isnan().all()


def test_logprobs_of_nearly_equal_logits_go_by_the_logit() -> None:
    logits = torch.full((2, 45), 3.0)
    logits[:, 30] = 3.0000002
    logits[1, 30], logits[1, 40] = -0.0, 0.0
    logits[1, :30], logits[1, 31:40], logits[1, 41:] = -5, -5, -5
    chosen = torch.tensor([0, 7], device=DEVICE)
    args = {"logits": logits.to(DEVICE), "chosen": chosen, "n": 4}
    assert kernel_ops()["logprobs"].wrong(partial(api.logprobs, impl="triton"), args) == []
    got = api.logprobs(logits.to(DEVICE), chosen, 3, impl="triton")
    assert got.ids.tolist() == [[30, 0, 1], [30, 40, 0]]


def test_probabilities_have_the_same_bits_among_other_rows() -> None:
    filters = columns(*KINDS)
    logits = logits_of("numbers", len(KINDS), 45, 3)
    together = api.probs(logits.to(DEVICE), *(x.to(DEVICE) for x in filters), impl="triton").cpu()
    for some in (torch.tensor([3]), torch.tensor([7, 1, 3])):
        again = api.probs(logits[some].to(DEVICE), *(x[some].to(DEVICE) for x in filters), impl="triton").cpu()
        assert torch.equal(again, together[some])


def test_rows_without_a_distribution_have_none() -> None:
    logits = torch.zeros(4, 40)
    logits[0, 7], logits[1, 8], logits[2] = torch.nan, torch.inf, -torch.inf
    filters = [x.to(DEVICE) for x in columns(OFF, (0.0, 0, 1.0, 0.0), (1.0, 3, 0.9, 0.1), OFF)]
    got = api.probs(logits.to(DEVICE), *filters, impl="triton").cpu()
    assert got.isnan().all(1).tolist() == [True, True, True, False]
    assert torch.equal(got[3], torch.full((40,), 1 / 40))
    assert api.probs(logits[:0].to(DEVICE), *(x[:0] for x in filters), impl="triton").shape == (0, 40)
