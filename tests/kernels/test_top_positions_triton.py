"""What the Triton `top_positions` does at its limits: counts that are too large, and the longest list in registers."""

from __future__ import annotations

import pytest
import torch

from sparsespec.kernels.top_positions import api, reference
from sparsespec.testing.ops.choice import scores_of
from tests.kernels.launched import DEVICE, WHERE, room

pytestmark = WHERE

ours = room("top_positions")


def test_a_broken_promise_about_counts_does_not_write_elsewhere() -> None:
    scores = scores_of("probabilities", (1, 1, 2, 8), 1).to(DEVICE)
    below, count = torch.tensor([90, 3], device=DEVICE), torch.tensor([70, 5], device=DEVICE)
    got = api.top_positions(scores, below, count, 4, impl="triton")
    assert got.shape == (1, 1, 2, 4)
    assert got[0, 0, 1].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("kind", ["random", "zeros"])
def test_counts_of_the_longest_list_in_registers_do_not_overflow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 32768
    monkeypatch.setattr(ours, "LARGEST_BLOCK", length)
    monkeypatch.setattr(ours, "WRITE_BLOCK", 2048)
    scores = torch.rand(1, 1, 3, length, generator=torch.Generator().manual_seed(0)) * (kind == "random")
    counts = torch.tensor([1, length - 1, length])
    below = torch.full_like(counts, length)
    got = ours.top_positions(scores.to(DEVICE), below.to(DEVICE), counts.to(DEVICE), length, 1)
    assert torch.equal(got.cpu(), reference.top_positions(scores.double(), below, counts, length, 1))
