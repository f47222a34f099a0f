"""The backend `flashinfer` over a stand-in for the package: what it tells FlashInfer, and what it makes of answers."""

from __future__ import annotations

import importlib.util
import inspect
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsespec.attention import flashinfer as ours
from sparsespec.attention import flashinfer_lists as lists
from sparsespec.attention.flashinfer_scores import mean_probabilities, scored_queries
from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.errors import BadOption, ContractBroken, MissingPackage
from sparsespec.kernels.attention.api import attention
from sparsespec.models.tiny import tiny
from sparsespec.testing import check_attention
from sparsespec.testing.checks.drawn_step import draw_step
from tests.attention import fake_flashinfer
from tests.engine.running import Done, compose, greedy, prompt_of, run, sampled
from tests.kernels.launched import mutant
from tests.quick import quick_last


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ours, "_package", lambda _: fake_flashinfer)
    monkeypatch.setattr(ours, "WORKSPACE", 16)
    yield


@pytest.mark.usefixtures("faked")
@pytest.mark.parametrize("dtype", quick_last(["float32", "float16", "bfloat16", "float64"]))
def test_it_computes_attention(dtype: str) -> None:
    check_attention("flashinfer", dtype=dtype, examples=20 if dtype == "float64" else 5)


@pytest.mark.usefixtures("faked")
def test_it_computes_attention_over_many_pages() -> None:
    check_attention("flashinfer", dtype="float64", examples=4, longest=700)


def tokens_of(backend: str, groups: str) -> Done:
    engine = compose(
        model=tiny(dtype="float64"),
        selector=f"pillar(budget=0.2,min_budget=6,groups={groups})",
        length="fixed(draft=3)",
        loop="sync",
        attention=backend,
    )
    engine.add(prompt_of(30), greedy(12))
    engine.add(prompt_of(2, shift=1), sampled(9, seed=3))
    return run(engine)


@pytest.mark.usefixtures("faked")
@pytest.mark.parametrize("groups", ["heads", "1"])
def test_an_engine_emits_what_it_emits_with_the_reference(groups: str) -> None:
    want, got = tokens_of("reference", groups), tokens_of("flashinfer", groups)
    assert [one.token_ids for one in got.values()] == [one.token_ids for one in want.values()]
    assert [one.metrics for one in got.values()] == [one.metrics for one in want.values()]
    assert sum(one.metrics.num_rejected_tokens for one in want.values()) > 0
    assert min(one.metrics.draft_kv_share for one in want.values()) < 0.7


def test_a_loop_whose_host_hears_late_is_refused() -> None:
    with pytest.raises(BadOption, match="attention 'flashinfer' needs 'host_lengths'.*use loop='sync'"):
        compose(model=tiny(), attention="flashinfer", loop="delayed")


def random_rows(seed: int, *, groups: int = 2, single: bool = False) -> tuple[AttentionRows, Chosen, torch.Tensor]:
    """Return four rows, two of them sparse, one dead, and a selection; pages of 4 tokens."""
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    table = 1 + torch.randperm(6 * 8, generator=generator).view(6, 8)
    seat = torch.tensor(dice.sample(range(6), 5))
    n_query = torch.tensor([1 if single else dice.randint(1, 4) for _ in range(5)])
    live = n_query.clone()
    live[dice.randrange(5)] = 0
    start = torch.tensor([dice.randint(0, 27) for _ in range(5)])
    sparse = torch.tensor([True, False, True, False, True])
    tails, counts = torch.zeros(6, dtype=torch.int64), torch.zeros(6, dtype=torch.int64)
    positions = torch.full((groups, 6, 5), 777)
    for s, t in zip(seat.tolist(), start.tolist(), strict=True):
        tails[s] = dice.randint(0, t)
        counts[s] = dice.randint(0, min(5, int(tails[s])))
        for group in range(groups):
            positions[group, s, : counts[s]] = torch.tensor(sorted(dice.sample(range(int(tails[s])), int(counts[s]))))
    rows = AttentionRows(
        seat, n_query.cumsum(0) - n_query, start, live, sparse, torch.zeros(5, dtype=torch.bool), table, (0, 0), groups
    )
    return rows, Chosen(positions, counts, tails), table


@settings(max_examples=100)
@given(seed=st.integers(0, 10_000), single=st.booleans())
def test_dense_lists_name_each_position_once_and_in_order(seed: int, single: bool) -> None:
    rows, _, table = random_rows(seed, single=single)
    live = lists.live_rows(rows)
    assert [row.at for row in live] == [b for b in range(5) if rows.live[b]]
    got = lists.dense_lists(live, table, 4)
    assert got.single == (max(row.live for row in live) == 1)
    for r, row in enumerate(live):
        pages = got.pages[got.starts[r] : got.starts[r + 1]].tolist()
        slots = [page * 4 + j for page in pages for j in range(4)][: len(pages) * 4 - 4 + int(got.last[r])]
        assert slots == [int(table[row.seat, t // 4]) * 4 + t % 4 for t in range(row.start + row.live)]
        queries = got.tokens[got.queries[r] : got.queries[r + 1]].tolist()
        assert queries == [row.offset + j for j in range(row.live)]
    assert got.starts[-1] == len(got.pages) and got.queries[-1] == len(got.tokens)


@settings(max_examples=100)
@given(seed=st.integers(0, 10_000), groups=st.sampled_from((1, 2, 3)), single=st.booleans())
def test_sparse_lists_name_the_selection_and_the_tail_of_each_group(seed: int, groups: int, single: bool) -> None:
    rows, chosen, table = random_rows(seed, groups=groups, single=single)
    live = [row for row in lists.live_rows(rows) if row.sparse]
    made = lists.SparseLists(live, chosen, table, 4)
    other = chosen._replace(positions=chosen.positions.clamp(max=5).flip(0))
    assert made.fits(other)
    kept = made.of.pages
    for layer in (other, chosen):
        made.refill(layer)
        assert made.of.pages is kept and made.of.block_size == 1 and (made.of.last == 1).all()
        for r, (row, group) in enumerate((row, group) for row in live for group in range(groups)):
            n, tail = int(layer.counts[row.seat]), int(layer.tail_from[row.seat])
            read = [*layer.positions[group, row.seat, :n].tolist(), *range(tail, row.start + row.live)]
            slots = [int(table[row.seat, t // 4]) * 4 + t % 4 for t in read]
            pages = made.of.pages[made.of.starts[r] : made.of.starts[r + 1]]
            assert pages.tolist() == [slot * groups + group for slot in slots]
            queries = made.of.tokens[made.of.queries[r] : made.of.queries[r + 1]].tolist()
            assert queries == [(row.offset + j) * groups + group for j in range(row.live)]


def test_lists_of_another_length_do_not_fit() -> None:
    rows, chosen, table = random_rows(3)
    live = [row for row in lists.live_rows(rows) if row.sparse]
    made = lists.SparseLists(live, chosen, table, 4)
    here, elsewhere = live[0].seat, next(s for s in range(6) if s not in [row.seat for row in live])
    for name in ("counts", "tail_from"):
        changed = getattr(chosen, name).clone()
        changed[elsewhere] += 1
        assert made.fits(chosen._replace(**{name: changed}))
        changed[here] += 1
        assert not made.fits(chosen._replace(**{name: changed}))
    assert not made.fits(chosen._replace(positions=chosen.positions[..., :4]))


def test_views_show_a_group_of_heads_as_a_row_and_a_page() -> None:
    x = torch.arange(3 * 6 * 2).view(3, 6, 2)
    assert torch.equal(lists.seen_by_groups(x, 3)[2 * 3 + 1], x[2, 2:4])
    pages = torch.arange(5 * 4 * 6 * 2).view(5, 4, 6, 2)
    seen = lists.pool_by_groups(pages, 3)
    assert torch.equal(seen[(2 * 4 + 3) * 3 + 1, 0], pages[2, 3, 2:4])
    assert seen.data_ptr() == pages.data_ptr()


def test_scores_are_the_reference_s() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((4, 6, 8), (7, 4, 2, 8)))
    table, ends = torch.tensor([[3, 5, 1, 0]]), (1, 2)
    at = torch.tensor([0])
    rows = AttentionRows(at, at, at + 9, at + 4, at > 0, at == 0, table, ends, 2)
    want = attention(q, k, k, rows, scale=0.3, impl="reference")
    which = torch.tensor(scored_queries(4, ends))
    assert which.tolist() == [0, 2, 3]
    keys = k[table[0]].flatten(0, 1)[:13]
    got = mean_probabilities(q[which], keys, want.lse[which] / math.log(2), 9 + which, scale=0.3, groups=2)
    assert want.scores is not None
    torch.testing.assert_close(got, want.scores[:, 0], rtol=1e-12, atol=1e-14)
    natural = mean_probabilities(q[which], keys, want.lse[which], 9 + which, scale=0.3, groups=2)
    assert (natural - want.scores[:, 0]).abs().max() > 1e-3, "a logarithm to base e would pass"


@pytest.mark.usefixtures("faked")
def test_layers_of_one_length_are_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[str] = []
    keep = fake_flashinfer._Paged._keep

    def counted(self: Any, *args: Any) -> None:
        planned.append(type(self).__name__)
        keep(self, *args)

    monkeypatch.setattr(fake_flashinfer._Paged, "_keep", counted)
    step = draw_step(random.Random(5), "float64", wants_scores=False)
    layers = step.choice.layers
    step.choice.layers = [layers[0]] * len(layers)
    part = ours.FlashInferAttention()
    part.bind(step.geometry, step.side, step.k_pages, step.v_pages)
    part.plan(step.batch(), step.choice)
    before = len(planned)
    for layer, qkv in enumerate(step.qkv):
        part.run(layer, *qkv)
    assert len(layers) > 1 and len(planned) - before <= 1


LISTS = {
    "no page for a group": ("slot * self.of.groups + self._group", "slot * self.of.groups"),
    "tail from the wrong end": ("tail + place - count", "tail + place"),
    "queries of the first group": ("(row.offset + j) * groups + g for", "(row.offset + j) * groups for"),
    "a page too many": ("-(-row.end // block_size)", "row.end // block_size + 1"),
    "a full last page": ("(row.end - 1) % block_size + 1", "block_size"),
    "another seat's list": ("self._group * n_seats + seat", "self._group * n_seats"),
}
BACKEND = {
    "no causal mask": ('{"causal": True}', '{"causal": False}'),
    "scores of queries as they lie in the batch": ("lse[first[row.at] + which]", "lse[which]"),
    "a selection of another layer": ("lists.refill(chosen)\n", "len(self._wrappers)\n"),
    "lists that always fit": ("not self._selected[0].fits(chosen)", "False"),
}


@pytest.mark.usefixtures("faked")
@pytest.mark.slow
@pytest.mark.parametrize("name", [None, *LISTS, *BACKEND])
def test_mutants_are_caught(name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: ModuleType = ours
    if name in LISTS:
        changed = mutant(lists, tmp_path, LISTS[name])
        monkeypatch.setattr(lists, "dense_lists", changed.dense_lists)
        monkeypatch.setattr(lists, "SparseLists", changed.SparseLists)
    if name is not None:
        # a module of its own also where the lists are wrong: they are bound when it is imported
        module = mutant(ours, tmp_path, BACKEND.get(name, ("", "")))
        monkeypatch.setattr(module, "_package", lambda _: fake_flashinfer)
        monkeypatch.setattr(module, "WORKSPACE", 16)
    try:
        check_attention(module.FlashInferAttention(), dtype="float64", examples=20)
        right = True
    except (ContractBroken, AssertionError, IndexError):
        right = False
    assert right == (name is None)


def test_what_it_does_not_take_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = torch.zeros(2, 4, 1, 64)
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(MissingPackage, match=r"pip install 'sparsespec\[flashinfer\]'; attention='triton' and"):
        ours._package(pages)
    monkeypatch.setitem(sys.modules, "flashinfer", fake_flashinfer)
    with pytest.raises(BadOption, match="needs a CUDA device, got 'cpu'; use attention='reference'"):
        ours._package(pages)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float32, 64), (torch.bfloat16, 32)])
def test_what_it_does_not_take_is_named_on_a_gpu(dtype: torch.dtype, head_dim: int) -> None:
    pytest.importorskip("flashinfer")
    with pytest.raises(BadOption, match=f"heads of 64, 128, 256, got {dtype} and heads of {head_dim}"):
        ours._package(torch.zeros(2, 4, 1, head_dim, dtype=dtype, device="cuda"))


def test_the_stand_in_takes_what_the_package_takes() -> None:
    if importlib.util.find_spec("flashinfer") is None:
        pytest.skip("flashinfer is not installed")
    real = importlib.import_module("flashinfer")
    for name in ("BatchDecodeWithPagedKVCacheWrapper", "BatchPrefillWithPagedKVCacheWrapper"):
        for verb in ("__init__", "plan", "run"):
            mine, theirs = (inspect.signature(getattr(getattr(m, name), verb)) for m in (fake_flashinfer, real))
            kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            ordered = [p.name for p in mine.parameters.values() if p.kind not in kinds]
            assert ordered == list(theirs.parameters)[: len(ordered)]
