"""Drawn steps for the ops around a forward: seats in all states, packed rows of all phases, and what follows.

Tensors are drawn on the CPU; `on` copies a step to where it is asked for. Nothing is in its natural order: seats are
shuffled, pages too, and page tables have holes behind what a seat holds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import PAD_TOKENS, Batch, State, VerifyInputs
from sparsespec.core.plan import Phase
from sparsespec.kernels.lay_out import reference as lay_out
from sparsespec.kernels.lay_out.api import LaidRows

PAGE = 4
CONTEXT = 64
WIDTH = 6
"""Query tokens of the widest decoding row: K = 5 drafts or guesses, and one."""
VOCAB = 50


@dataclass(frozen=True)
class Step:
    """A packed step of `n_tokens` query tokens, the first `n_logits` with logits."""

    packed: Tensor
    state: State
    n_tokens: int
    n_logits: int


def drawn_step(seed: int, n_rows: int, *, block_size: int = PAGE) -> Step:
    """Return a step of `n_rows` rows on twice as many seats; some do nothing, some end a round, some have ended."""
    dice = random.Random(seed)
    n_seats = 2 * n_rows
    state = _seats(seed, n_seats, block_size)
    rows = [_row(dice, state, seat) for seat in dice.sample(range(n_seats), n_rows)]
    order = {Phase.VERIFY: 0, Phase.DRAFT: 0, Phase.PREFILL: 1}
    rows.sort(key=lambda row: (order[Phase(row[1])], row[2] == 0))
    n_query = torch.tensor([row[2] for row in rows])
    decoding = sum(row[2] for row in rows if row[1] != Phase.PREFILL)
    stops = torch.tensor([dice.choice((0.0, 0.25, 0.9)) for _ in rows], dtype=torch.float64).view(torch.int64)
    scored = torch.tensor([dice.random() < 0.5 for _ in rows]).long()
    columns = torch.tensor(rows).T
    packed = torch.stack([*columns, n_query.cumsum(0) - n_query, scored, stops])
    n_tokens = max(1, int(n_query.sum()) + dice.choice((0, 1, 7)))
    return Step(packed.contiguous(), state, n_tokens, min(n_tokens, max(1, decoding + dice.choice((0, 2)))))


def _seats(seed: int, n: int, block_size: int) -> State:
    generator = torch.Generator().manual_seed(seed)

    def ints(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape or (n,), generator=generator)

    def reals() -> Tensor:
        return torch.rand(n, generator=generator, dtype=torch.float64)

    c = ints(1, CONTEXT - WIDTH)
    blocks = -(-CONTEXT // block_size)
    table = 1 + torch.randperm(n * blocks, generator=generator).view(n, blocks)
    held = (c + WIDTH)[:, None] > block_size * torch.arange(blocks)
    return State(
        tokens=ints(1, VOCAB, n, CONTEXT + PAD_TOKENS),
        n_committed=c,
        n_drafted=ints(0, WIDTH),
        n_computed=(c - 1 - ints(0, 9)).clamp(min=0),
        ended=ints(0, 4) == 0,
        stop_below=reals(),
        table=table * held,
        seed=ints(-(2**62), 2**62),
        sample_index=ints(0, 5),
        temperature=reals(),
        top_k=ints(0, 9),
        top_p=reals(),
        min_p=reals(),
        draft_logits=None,
    )


def _row(dice: random.Random, state: State, seat: int) -> tuple[int, int, int, int]:
    """Return seat, phase, n_query and k of a row that such a seat could have."""
    c, d, filled = int(state.n_committed[seat]), int(state.n_drafted[seat]), int(state.n_computed[seat])
    kind = dice.choice(("idle", "fill", "draft", "last draft", "verify", "plain"))
    if kind == "idle" or (kind == "fill" and filled == c - 1):
        return seat, Phase.PREFILL, 0, 0
    if kind == "fill":
        return seat, Phase.PREFILL, dice.randint(1, c - 1 - filled), 0
    if kind == "plain":
        state.n_drafted[seat] = 0
        return seat, Phase.VERIFY, dice.randint(1, WIDTH), 0
    if kind == "verify":
        # a round that was cut short, or a capacity that nobody uses up
        k = dice.randint(max(d, 1), WIDTH - 1) if d < WIDTH else d
        return seat, Phase.VERIFY, dice.randint(1 + d, WIDTH), k
    if kind == "last draft":
        k = max(d, 1)
        return seat, Phase.DRAFT, 1, k
    k = dice.randint(max(d, 1), WIDTH - 1)
    # more room than is left, where the host has not heard of all drafts
    return seat, Phase.DRAFT, dice.randint(1, WIDTH), k


def batch_of(step: Step, laid: Any) -> Batch:
    """Return the batch of a step whose rows are laid out; its tokens are not."""
    seat, phase, n_query, k, offset, _, _ = step.packed
    none = seat[:0]
    return Batch(
        seat, phase, n_query, k, offset, laid.scored, laid.start, laid.live, none, none, none, none.bool(), none,
        step.state, 0, WIDTH,
    )  # fmt: skip


def guessed(batch: Batch, room: Tensor, seed: int) -> Batch:
    """Return the batch with some of its room for guesses used."""
    part = torch.rand(len(room), generator=torch.Generator().manual_seed(seed)).to(room.device)
    return replace(batch, live=batch.live + ((room + 1) * part).long())


def judged_batch(step: Step, seed: int) -> Batch:
    """Return the batch of a step, laid out and with guesses."""
    laid = LaidRows(*lay_out.lay_out_rows(step.packed, step.state))
    return guessed(batch_of(step, laid), laid.room, seed)


def draws_of(rows: VerifyInputs, n_logits: int, seed: int) -> Tensor:
    """Return a draw for each logit row; most are the candidate that is judged there."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, VOCAB, (n_logits,), generator=generator)
    for first, count, candidates in zip(*(x.tolist() for x in (rows.first, rows.count, rows.candidates)), strict=True):
        for j in range(count):
            if torch.rand((), generator=generator) < 0.7:
                draws[first + j] = candidates[j]
    return draws


def on(x: Any, device: str) -> Any:
    """Return a copy of a bundle of tensors on a device."""
    if torch.is_tensor(x):
        return x.to(device, copy=True)
    if is_dataclass(x) and not isinstance(x, type):
        return type(x)(**{field.name: on(getattr(x, field.name), device) for field in fields(x)})
    if isinstance(x, tuple):
        parts = [on(part, device) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def tensors(x: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a bundle, with their names."""
    if torch.is_tensor(x):
        yield name, x
    elif is_dataclass(x):
        for field in fields(x):
            yield from tensors(getattr(x, field.name), f"{name}.{field.name}")
    elif isinstance(x, tuple):
        for j, part in enumerate(x):
            yield from tensors(part, f"{name}.{x._fields[j] if hasattr(x, '_fields') else j}")


def differing(got: Any, want: Any) -> list[str]:
    """Return the names of tensors that are not the same to the last bit; any NaN equals any other."""
    pairs = list(zip(tensors(got), tensors(want), strict=True))
    assert pairs
    return [name for (name, a), (_, b) in pairs if not _same(a.cpu(), b.cpu())]


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.nan_to_num(nan=-7.5), b.nan_to_num(nan=-7.5)) if a.is_floating_point() else torch.equal(a, b)
