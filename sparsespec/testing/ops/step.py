"""Random steps for the ops around a forward: seats in all states, packed rows of all phases, and what follows.

Tensors are on the CPU. Nothing is in its natural order: seats are shuffled, pages too, and page tables have holes
behind what a seat holds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

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
MOST_QUERIES = 9
"""Query tokens of the widest row."""
VOCAB = 50


@dataclass(frozen=True)
class Step:
    """A packed step of `n_tokens` query tokens, the first `n_logits` with logits."""

    packed: Tensor
    state: State
    n_tokens: int
    n_logits: int


def random_step(
    seed: int, n_rows: int, *, block_size: int = PAGE, n_tokens: int | None = None, n_logits: int | None = None
) -> Step:
    """Return a step of `n_rows` rows on twice as many seats; some do nothing, some end a round, some have ended.

    Args:
        seed: Any integer.
        n_rows: Rows.
        block_size: Tokens of a page.
        n_tokens: Query tokens with padding, `MOST_QUERIES` a row or more; by default a few more than there are.
        n_logits: Of these with logits, `WIDTH` a row or more; by default a few more than rows decode.
    """
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
    packed = torch.stack([*torch.tensor(rows).T, n_query.cumsum(0) - n_query, scored, stops])
    tokens = max(1, int(n_query.sum()) + dice.choice((0, 1, 7)))
    logits = min(tokens, max(1, decoding + dice.choice((0, 2))))
    return Step(packed.contiguous(), state, n_tokens or tokens, n_logits or logits)


def laid_out(step: Step, seed: int) -> Batch:
    """Return the batch of a step, with some of its room for guesses used; its tokens are not laid out."""
    laid = LaidRows(*lay_out.lay_out_rows(step.packed, step.state))
    return with_guesses(batch_of(step, laid), laid.room, seed)


def batch_of(step: Step, laid: LaidRows) -> Batch:
    """Return the batch of a step whose rows are laid out; its tokens are not."""
    seat, phase, n_query, k, offset, _, _ = step.packed
    none = seat[:0]
    return Batch(
        seat, phase, n_query, k, offset, laid.scored, laid.start, laid.live, none, none, none, none.bool(), none,
        step.state, 0, WIDTH,
    )  # fmt: skip


def with_guesses(batch: Batch, room: Tensor, seed: int) -> Batch:
    """Return the batch with some of its room for guesses used."""
    part = torch.rand(len(room), generator=torch.Generator().manual_seed(seed)).to(room.device)
    return replace(batch, live=batch.live + ((room + 1) * part).long())


def sampled_of(rows: VerifyInputs, n_logits: int, seed: int) -> Tensor:
    """Return a token for each logit row; most are the candidate that is judged there."""
    generator = torch.Generator().manual_seed(seed)
    sampled = torch.randint(0, VOCAB, (n_logits,), generator=generator)
    for first, count, candidates in zip(*(x.tolist() for x in (rows.first, rows.count, rows.candidates)), strict=True):
        for j in range(count):
            if torch.rand((), generator=generator) < 0.7:
                sampled[first + j] = candidates[j]
    return sampled


def _seats(seed: int, n: int, block_size: int) -> State:
    generator = torch.Generator().manual_seed(seed)

    def ints(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape or (n,), generator=generator)

    def reals() -> Tensor:
        return torch.rand(n, generator=generator, dtype=torch.float64)

    n_committed = ints(1, CONTEXT - WIDTH)
    blocks = -(-CONTEXT // block_size)
    table = 1 + torch.randperm(n * blocks, generator=generator).view(n, blocks)
    held = (n_committed + WIDTH)[:, None] > block_size * torch.arange(blocks)
    return State(
        tokens=ints(1, VOCAB, n, CONTEXT + PAD_TOKENS),
        n_committed=n_committed,
        n_drafted=ints(0, WIDTH),
        n_computed=(n_committed - 1 - ints(0, MOST_QUERIES)).clamp(min=0),
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
    committed, drafted, computed = (int(x[seat]) for x in (state.n_committed, state.n_drafted, state.n_computed))
    kind = dice.choice(("idle", "fill", "draft", "last draft", "verify", "plain"))
    if kind == "idle" or (kind == "fill" and computed == committed - 1):
        return seat, Phase.PREFILL, 0, 0
    if kind == "fill":
        return seat, Phase.PREFILL, dice.randint(1, committed - 1 - computed), 0
    if kind == "plain":
        state.n_drafted[seat] = 0
        return seat, Phase.VERIFY, dice.randint(1, WIDTH), 0
    if kind == "verify":
        # a round that was cut short, or a capacity that is not used up
        k = dice.randint(max(drafted, 1), WIDTH - 1) if drafted < WIDTH else drafted
        return seat, Phase.VERIFY, dice.randint(1 + drafted, WIDTH), k
    if kind == "last draft":
        return seat, Phase.DRAFT, 1, max(drafted, 1)
    k = dice.randint(max(drafted, 1), WIDTH - 1)
    # more room than is left, where the host has not collected all drafts
    return seat, Phase.DRAFT, dice.randint(1, WIDTH), k
