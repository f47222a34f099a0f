"""Quest's bounds against the products they bound, and the pages that follow from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsespec.core.batch import LayerKeys
from sparsespec.core.plan import Phase
from sparsespec.policies.selectors.quest import Quest, page_bounds
from sparsespec.testing.checks.stage import RowAt, batch_of
from tests.policies.staged import Staged


def keys_of(staged: Staged, seed: int = 0) -> Tensor:
    g, generator = staged.geometry, torch.Generator().manual_seed(seed)
    return torch.randn(
        g.num_gpu_blocks, g.block_size, g.n_kv_heads, g.head_dim, generator=generator, dtype=torch.float64
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_product_exceeds_the_bound_of_its_page(seed: int) -> None:
    staged = Staged(Quest())
    g, keys = staged.geometry, keys_of(staged, seed)
    staged.state.n_committed[:] = 41
    rows = [RowAt(1, Phase.DRAFT, 3, 40, 2, k=4), RowAt(3, Phase.DRAFT, 1, 40, 1, k=4)]
    batch = batch_of(g, staged.state, rows)
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(4, g.n_heads, g.head_dim, generator=generator, dtype=torch.float64)
    bounds = page_bounds(batch, q, keys)
    for b, queries in enumerate(([0, 1], [3])):
        k = LayerKeys(keys, batch).of(b, 40)
        products = torch.einsum("whgd,shd->whgs", q[queries].view(-1, g.n_kv_heads, 2, g.head_dim), k)
        best = products.amax((0, 2)).view(g.n_kv_heads, 10, g.block_size).amax(2)
        assert (bounds[b, :, :10] >= best - 1e-12).all()
        # a bound, and no more than the page's own extremes can give
        widest = q[queries].abs().sum(-1).amax() * keys.abs().amax()
        assert (bounds[b, :, :10] <= widest).all()


def test_the_bound_of_a_page_with_one_key_is_its_product() -> None:
    staged = Staged(Quest(), block_size=1, num_gpu_blocks=300)
    g, keys = staged.geometry, keys_of(staged)
    staged.state.n_committed[0] = 30
    batch = batch_of(g, staged.state, [RowAt(0, Phase.DRAFT, 1, 29, 1, k=4)])
    q = torch.randn(1, g.n_heads, g.head_dim, dtype=torch.float64)
    products = torch.einsum("hgd,shd->hgs", q.view(g.n_kv_heads, 2, g.head_dim), LayerKeys(keys, batch).of(0, 29))
    torch.testing.assert_close(page_bounds(batch, q, keys)[0, :, :29], products.amax(1))


def test_rows_that_do_not_draft_have_no_bounds() -> None:
    staged = Staged(Quest())
    staged.state.n_committed[:] = 41
    rows = [RowAt(0, Phase.VERIFY, 2, 40, 2), RowAt(1, Phase.DRAFT, 2, 40, 0, k=4)]
    batch = batch_of(staged.geometry, staged.state, rows)
    q = torch.ones(4, staged.geometry.n_heads, staged.geometry.head_dim, dtype=torch.float64)
    assert (page_bounds(batch, q, keys_of(staged)) == -torch.inf).all()


def test_pages_that_the_query_could_read_most_are_read_whole() -> None:
    staged = Staged(Quest(budget=0.2, min_budget=9, groups="heads"))
    g, keys = staged.geometry, staged.keys((5, 13), (0, 27), dim=1)
    q = torch.ones(1, g.n_heads, g.head_dim, dtype=torch.float64)
    # 40 of 41 positions lie below the newest, in full pages; 9 may be read: two pages
    assert staged.lists(c=41, q=q, keys=keys) == ([[4, 5, 6, 7, 12, 13, 14, 15], [0, 1, 2, 3, 24, 25, 26, 27]], 40)
    # a page that is not full is tail, and what it takes of the budget is not there for pages
    assert staged.lists(c=44, q=q, keys=keys) == ([[4, 5, 6, 7], [0, 1, 2, 3]], 40)
    shared = Staged(Quest(budget=0.2, min_budget=16, groups=1))
    assert shared.lists(c=41, q=q, keys=keys)[0] == [[0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 24, 25, 26, 27]]


def test_a_negative_query_looks_for_the_smallest_keys() -> None:
    staged = Staged(Quest(budget=0.1, min_budget=4, groups=1))
    g, keys = staged.geometry, staged.keys()
    keys[int(staged.state.table[0, 3]), 1] = 5.0
    keys[int(staged.state.table[0, 6]), 1] = -5.0
    q = torch.ones(1, g.n_heads, g.head_dim, dtype=torch.float64)
    assert staged.lists(c=41, q=q, keys=keys) == ([[12, 13, 14, 15]], 40)
    assert staged.lists(c=41, q=-q, keys=keys) == ([[24, 25, 26, 27]], 40)


def test_garbage_behind_the_committed_tokens_tempts_nobody() -> None:
    staged = Staged(Quest(budget=0.1, min_budget=4, groups=1))
    keys = keys_of(staged)
    clean = staged.lists(c=30, keys=keys)
    for block in range(7, staged.geometry.pages_per_seat):
        keys[int(staged.state.table[0, block])] = torch.nan if block > 7 else 1e9
    assert staged.lists(c=30, keys=keys) == clean


def test_a_budget_below_a_page_reads_the_newest_alone() -> None:
    staged = Staged(Quest(budget=0.01, min_budget=2))
    assert staged.lists(c=41, keys=keys_of(staged)) == ([[], []], 40)
    assert staged.lists(c=44, keys=keys_of(staged)) == ([[], []], 41)


def test_a_prompt_of_one_token_has_no_pages() -> None:
    staged = Staged(Quest())
    assert staged.lists(c=1, keys=keys_of(staged)) == ([[], []], 0)
