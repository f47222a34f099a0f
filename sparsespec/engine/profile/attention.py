"""Times attention of whole steps, all layers, through the backend that an engine would use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chosen, LayerKeys, State
from sparsespec.core.config import Geometry, kv_budget
from sparsespec.core.plan import Phase
from sparsespec.core.protocols import Attention
from sparsespec.core.registry import make
from sparsespec.engine.pack import lay_out
from sparsespec.engine.profile.clock import Clock
from sparsespec.engine.profile.sample import Plan, Rows, Sample
from sparsespec.engine.profile.weights import copies_for, token_bytes
from sparsespec.engine.state import make_state
from sparsespec.kv.pool import KVPool
from sparsespec.models.transformer import Transformer

PAGE = 16


class _Given(NamedTuple):
    """A selection that was made beforehand, the same in all layers."""

    chosen: Chosen

    def at(self, layer: int, q: Tensor, keys: LayerKeys) -> Chosen:
        """Return it."""
        return self.chosen

    def see(self, layer: int, scores: Tensor) -> None:
        """Take no notice."""


def attention_samples(model: Transformer, backend: str, plan: Plan, clock: Clock) -> Iterator[Sample]:
    """Yield a sample for each kind of step; `backend` is a name on the shelf `attention`."""
    for rows in plan.rows:
        seconds = clock([_Step(model, make(f"attention/{backend}"), rows, plan.rotated_bytes)])
        yield Sample("attention", str(rows), sizes_of(rows, model), seconds)
        if model.device.type == "cuda":
            # a pool is gigabytes, and the next is of another size
            torch.cuda.empty_cache()


def sizes_of(rows: Rows, model: Transformer) -> tuple[float, float, float]:
    """Return bytes that dense rows read, bytes that sparse rows read, and pairs of a query and a key of prefill."""
    kv = token_bytes(model.config, model.dtype) * model.config.n_layers
    pairs = rows.fill * rows.context - rows.fill * (rows.fill - 1) // 2
    return rows.dense * rows.context * kv, rows.sparse * (_n_chosen(rows) + 1) * kv, pairs


class _Step:
    """A step of attention on random KV; layers take turns at the pools of as few as no cache holds."""

    def __init__(self, model: Transformer, attention: Attention, rows: Rows, rotated_bytes: int) -> None:
        config, kv = model.config, token_bytes(model.config, model.dtype)
        n_rows = rows.dense + rows.sparse + bool(rows.fill)
        blocks = -(-rows.context // PAGE)
        self._n_pools = copies_for(n_rows * blocks * PAGE * kv, rotated_bytes, config.n_layers)
        self._n_layers = config.n_layers
        geometry = Geometry(
            n_layers=self._n_pools,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            vocab=config.vocab,
            n_seats=n_rows,
            max_model_len=rows.context,
            block_size=PAGE,
            num_gpu_blocks=1 + n_rows * blocks,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            scored=(1, 1),
        )
        pool = KVPool(geometry)
        pool.k.normal_()
        pool.v.normal_()
        attention.bind(geometry, model, pool.k, pool.v)
        self._attention, self._batch = attention, _batch(geometry, rows)
        self._choice = _choice(self._batch, rows) if rows.sparse or rows.queries > 1 else None
        n = len(self._batch.tokens)
        heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
        # views of one buffer, as the model hands them over
        joint = torch.randn(n, sum(heads), config.head_dim, dtype=model.dtype, device=model.device)
        self._q, self._k, self._v = joint.split(heads, 1)

    def __call__(self) -> None:
        self._attention.plan(self._batch, self._choice)
        for layer in range(self._n_layers):
            self._attention.run(layer % self._n_pools, self._q, self._k, self._v)


def _batch(geometry: Geometry, rows: Rows) -> Batch:
    """Return the rows as the engine lays them out: those that decode first."""
    state = make_state(geometry, draft_logits=False)
    _fill(state, geometry, rows.context)
    phases = [Phase.VERIFY] * rows.dense + [Phase.DRAFT] * rows.sparse + [Phase.PREFILL] * bool(rows.fill)
    queries = [rows.queries] * rows.dense + [1] * rows.sparse + [rows.fill] * bool(rows.fill)
    phase, n_query = (torch.tensor(x, dtype=torch.int64, device=geometry.device) for x in (phases, queries))
    none = n_query.new_zeros(0)
    batch = Batch(
        seat=torch.arange(len(phases), device=geometry.device),
        phase=phase,
        n_query=n_query,
        k=n_query - 1,
        offset=n_query.cumsum(0) - n_query,
        scored=(phase == Phase.VERIFY) & (n_query > 1),
        start=rows.context - n_query,
        live=n_query,
        tokens=none,
        positions=none,
        row_of=none,
        alive=none.bool(),
        slots=none,
        state=state,
        widest=max(queries),
        step=0,
    )
    lay_out(batch, sum(queries), geometry.block_size)
    return batch


def _fill(state: State, geometry: Geometry, context: int) -> None:
    """Give every seat tokens and pages in random order."""
    state.tokens.random_(0, geometry.vocab)
    state.n_committed[:] = context
    pages = 1 + torch.randperm(geometry.num_gpu_blocks - 1, device=geometry.device)
    state.table.copy_(pages.view_as(state.table))


def _choice(batch: Batch, rows: Rows) -> _Given:
    """Return random positions for every seat, ascending, and a tail of one token."""
    seats, n = batch.n_rows, _n_chosen(rows)
    device = batch.seat.device
    noise = torch.rand(1, seats, rows.context - 1, device=device)
    positions = noise.topk(n, dim=-1).indices.sort(-1).values.to(torch.int32)
    counts = torch.full((seats,), n, device=device)
    return _Given(Chosen(positions, counts, torch.full_like(counts, rows.context - 1)))


def _n_chosen(rows: Rows) -> int:
    return kv_budget(rows.context - 1, rows.share, 1)
