"""One random step for an attention backend: rows of all phases over a poisoned pool, and a selection made by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Chosen, LayerKeys, State, float_type
from sparsespec.core.config import Geometry
from sparsespec.core.plan import Phase
from sparsespec.testing.checks.stage import RowAt, batch_of, small_geometry, state_of


@dataclass(frozen=True, slots=True)
class Side:
    """What attention needs of a model: rotary tables and, for some families, norms of q and k."""

    rope: tuple[Tensor, Tensor]
    norms: Tensor | None  # [L, 2, D]
    rms_eps: float = 1e-6

    def q_norm(self, layer: int) -> Tensor | None:
        """Return the weight of the query norm."""
        return None if self.norms is None else self.norms[layer, 0]

    def k_norm(self, layer: int) -> Tensor | None:
        """Return the weight of the key norm."""
        return None if self.norms is None else self.norms[layer, 1]


class HandMade:
    """A selection that gives what it was made with and keeps the scores it is shown."""

    def __init__(self, layers: list[Chosen]) -> None:
        self.layers, self.scores = layers, dict[int, Tensor]()

    def at(self, layer: int, q: Tensor, keys: LayerKeys) -> Chosen:
        """Return the positions of `layer`."""
        return self.layers[layer]

    def see(self, layer: int, scores: Tensor) -> None:
        """Keep the scores of `layer`."""
        self.scores[layer] = scores


@dataclass(slots=True)
class Step:
    """Everything a backend is bound to and given, and copies to compare with."""

    geometry: Geometry
    side: Side
    state: State
    rows: list[RowAt]
    k_pages: Tensor  # [L, pages, P, Hkv, D]
    v_pages: Tensor
    qkv: list[tuple[Tensor, Tensor, Tensor]]  # per layer
    choice: HandMade

    def batch(self, rows: list[RowAt] | None = None) -> Batch:
        """Return the batch of all rows, or of some."""
        return batch_of(self.geometry, self.state, self.rows if rows is None else rows)

    def wide(self) -> Step:
        """Return the same step in float64."""
        geometry, side = replace(self.geometry, dtype="float64"), moved(self.side, torch.float64)
        pools = {name: getattr(self, name).to(torch.float64) for name in ("k_pages", "v_pages")}
        return replace(self, geometry=geometry, side=side, qkv=moved(self.qkv, torch.float64), **pools)


def moved(x: Any, to: Any) -> Any:
    """Return tensors, and what is made of them, on another device, or its floats in another type."""
    if isinstance(x, Tensor):
        return x.to(to) if x.is_floating_point() or not isinstance(to, torch.dtype) else x
    if is_dataclass(x) and not isinstance(x, type):
        return replace(x, **{f.name: moved(getattr(x, f.name), to) for f in fields(x)})
    if isinstance(x, Chosen):
        return Chosen(*(moved(y, to) for y in x))
    if isinstance(x, list | tuple):
        return type(x)(moved(y, to) for y in x)
    return x


def draw_step(
    dice: random.Random, dtype: str, *, wants_scores: bool, head_dims: Sequence[int] = (2, 4, 8), longest: int = 40
) -> Step:
    """Draw a step; content that no row may read is NaN, page 0 excepted, where dead queries write.

    Args:
        dice: Where chance comes from.
        dtype: Float type of model and pool.
        wants_scores: Whether rows are to be scored.
        head_dims: Head dimensions to draw from.
        longest: The last position at which a row may start.
    """
    n_kv_heads = dice.choice((1, 2, 4))
    block_size = dice.choice((1, 2, 4, 16))
    max_model_len = longest + 24
    geometry = small_geometry(
        n_kv_heads=n_kv_heads,
        n_heads=n_kv_heads * dice.choice((1, 2, 3)),
        head_dim=dice.choice(head_dims),
        max_model_len=max_model_len,
        block_size=block_size,
        num_gpu_blocks=4 * -(-max_model_len // block_size) + 44,
        dtype=dtype,
        groups=dice.choice((1, n_kv_heads, max(1, n_kv_heads // 2))),
        scored=dice.choice(((1, 1), (1, 0), (0, 2), (0, 8), (2, 3))) if wants_scores else (0, 0),
    )
    generator = torch.Generator().manual_seed(dice.randrange(1 << 31))
    state = state_of(geometry, generator)
    rows = _draw_rows(dice, geometry, state, wants_scores, longest)
    kind, g = float_type(dtype), geometry

    def random_tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(kind)

    angles = torch.rand(g.max_model_len, g.head_dim // 2, generator=generator, dtype=torch.float64) * 6.28
    norms = random_tensor(g.n_layers, 2, g.head_dim) if dice.random() < 0.5 else None
    pages = torch.full((2, g.n_layers, g.num_gpu_blocks, g.block_size, g.n_kv_heads, g.head_dim), torch.nan, dtype=kind)
    pages[:, :, 0] = 0
    flat = pages.flatten(2, 3)
    for row in rows:
        t = torch.arange(row.start)
        slots = state.table[row.seat, t // g.block_size] * g.block_size + t % g.block_size
        flat[:, :, slots] = random_tensor(2, g.n_layers, row.start, g.n_kv_heads, g.head_dim)
    n = sum(row.n_query for row in rows)
    heads = (g.n_heads, g.n_kv_heads, g.n_kv_heads)
    return Step(
        geometry=g,
        side=Side((angles.cos().to(kind), angles.sin().to(kind)), norms),
        state=state,
        rows=rows,
        k_pages=flat[0].view(pages.shape[1:]),
        v_pages=flat[1].view(pages.shape[1:]),
        qkv=[tuple(random_tensor(n, h, g.head_dim) for h in heads) for _ in range(g.n_layers)],  # pyright: ignore[reportArgumentType]
        choice=HandMade([_draw_chosen(dice, g, rows) for _ in range(g.n_layers)]),
    )


def _draw_rows(dice: random.Random, g: Geometry, state: State, wants_scores: bool, longest: int) -> list[RowAt]:
    """Draw rows of distinct seats, ragged, some of them dead."""
    rows = []
    for seat in dice.sample(range(g.n_seats), dice.randint(1, g.n_seats)):
        phase, n_query = dice.choice((*Phase, Phase.DRAFT)), dice.randint(1, 8)
        far = dice.randint(0, longest), dice.randint(longest // 4, longest)
        start = dice.choice((dice.randint(0, 1), g.block_size, *far))
        live = n_query if phase is Phase.PREFILL else dice.randint(0, n_query)
        drafted = dice.randint(0, min(3, start)) if phase is Phase.DRAFT else 0
        # c - 1 is where a VERIFY starts, and where the first DRAFT of a round did
        state.n_committed[seat], state.n_drafted[seat] = start - drafted + 1, drafted
        scored = wants_scores and phase is not Phase.DRAFT and dice.random() < 0.8
        rows.append(RowAt(seat, phase, n_query, start, live, k=8, scored=scored))
    return rows


def _draw_chosen(dice: random.Random, g: Geometry, rows: list[RowAt]) -> Chosen:
    """Draw a legal choice for one layer; entries behind the counts point nowhere, and may not be read."""
    k_max = 12
    positions = torch.full((g.groups, g.n_seats, k_max), g.max_model_len + 7)
    counts = torch.zeros(g.n_seats, dtype=torch.int64)
    tail_from = torch.zeros(g.n_seats, dtype=torch.int64)
    for row in rows:
        if row.phase is Phase.DRAFT:
            # the same in every layer
            tail = random.Random(row.start * 64 + row.seat).randint(0, max(0, row.start - 3))
            n = dice.randint(0, min(k_max, tail))
            tail_from[row.seat], counts[row.seat] = tail, n
            for group in range(g.groups):
                positions[group, row.seat, :n] = torch.tensor(sorted(dice.sample(range(tail), n)), dtype=torch.int64)
    return Chosen(positions, counts, tail_from)


def tolerance(dtype: str) -> float:
    """Return how far a result may be from the exact one, relative to values near 1."""
    return {"float64": 1e-11, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1}[dtype]


def close(got: Any, want: Any, dtype: str) -> bool:
    """Say whether two tensors are equal within `tolerance`; NaN is equal to nothing."""
    bound = tolerance(dtype)
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (got, want))
    return a.shape == b.shape and bool(((a - b).abs() <= bound * (1 + b.abs())).all())
