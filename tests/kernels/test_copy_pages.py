"""Copies within a pool and between views, by every implementation; the Triton one interpreted without a GPU."""

from __future__ import annotations

import pytest
import torch

from sparsespec.kernels.copy_pages import api
from sparsespec.testing.op_cases import kernel_ops
from tests.kernels.launched import DEVICE, WHERE, room

pytestmark = WHERE

room("copy_pages")


@pytest.mark.parametrize("impl", (*api.IMPLS, *api.LAZY))
def test_copies_within_a_pool_and_between_views(impl: str) -> None:
    sizes = {"shape": (2, 4, 2, 8), "pages": (12, 12)}
    both = kernel_ops()["copy_pages"].make(0, dtype=torch.float32, device=DEVICE, **sizes)["source"]
    before = both.clone()
    pairs = torch.tensor([[1, 5], [1, 6], [3, 7]], device=DEVICE)
    api.copy_pages(both, both, pairs, torch.tensor([3], device=DEVICE), impl=impl, checked=True)
    one = torch.tensor([[2, 3]], device=DEVICE)
    api.copy_pages(both[:, :4], both[:, 8:], one, torch.tensor(1, device=DEVICE), impl=impl)
    for page, place in ((1, 5), (1, 6), (3, 7), (2, 11)):
        before[:, place] = before[:, page]
    assert torch.equal(both.view(torch.uint8), before.view(torch.uint8))
