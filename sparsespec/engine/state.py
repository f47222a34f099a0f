"""The device-resident state, and the launches that change it outside a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsespec.core.batch import PAD_TOKENS, State, float_type
from sparsespec.core.config import Geometry
from sparsespec.engine.request import Request
from sparsespec.engine.transfer import upload


def make_state(geometry: Geometry, *, draft_logits: bool) -> State:
    """Allocate the state of all seats; `draft_logits` keeps room for what each draft is sampled from."""
    g = geometry

    def ints(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=g.device)

    def floats() -> torch.Tensor:
        return torch.zeros(g.n_seats, dtype=torch.float64, device=g.device)

    # as wide as the widest row of candidates, though guesses leave their places empty
    shape = (g.n_seats, max(g.max_draft, g.max_guess), g.vocab)
    return State(
        tokens=ints(g.n_seats, g.max_model_len + PAD_TOKENS),
        # a seat nobody holds has one committed token, so that every formula in c is defined
        n_committed=ints(g.n_seats) + 1,
        n_drafted=ints(g.n_seats),
        n_computed=ints(g.n_seats),
        ended=torch.zeros(g.n_seats, dtype=torch.bool, device=g.device),
        stop_below=floats(),
        table=ints(g.n_seats, g.pages_per_seat),
        seed=ints(g.n_seats),
        sample_index=ints(g.n_seats),
        temperature=floats(),
        top_k=ints(g.n_seats),
        top_p=floats(),
        min_p=floats(),
        draft_logits=torch.zeros(shape, dtype=float_type(g.dtype), device=g.device)
        if draft_logits and g.max_draft
        else None,
    )


def seat_request(state: State, request: Request, seat: int) -> None:
    """Write everything the device must know of a request that takes `seat`."""
    p = request.params
    length = len(request.known)
    state.tokens[seat, :length] = sent(request.known, state)
    numbers = (
        (state.n_committed, length),
        (state.n_drafted, 0),
        (state.n_computed, request.n_computed),
        (state.ended, False),
        (state.seed, request.seed - (1 << 64) if request.seed >> 63 else request.seed),
        (state.sample_index, request.sample_index),
        (state.temperature, p.temperature),
        (state.top_k, p.top_k),
        (state.top_p, p.top_p),
        (state.min_p, p.min_p),
    )
    for field, value in numbers:
        # `field[seat] = value` would copy from the host, and wait for all that the GPU has to do
        field[seat].fill_(value)


def set_computed(state: State, seats: Sequence[int], n_computed: int) -> None:
    """Say that `seats` hold true KV in their first `n_computed` positions only."""
    for seat in seats:
        state.n_computed[seat].fill_(n_computed)


def enter_pages(state: State, entries: Tensor) -> None:
    """Write (seat, block, page) entries [n, 3] into the page tables."""
    seat, block, page = entries.T
    state.table[seat, block] = page


def sent(numbers: npt.ArrayLike, state: State) -> Tensor:
    """Return whole numbers on the state's device, without waiting for it."""
    device = str(state.n_committed.device)
    array = np.asarray(numbers, dtype=np.int64)
    if device != "cpu":
        array = torch.from_numpy(array).pin_memory().numpy()
    return upload(array, device)
