"""The only host-to-device copy of a step: a placed plan as one array of integers, and its unpacking on the device.

Rows that decode come first, then those that fill, then, where a graph wants all rows there are, those of seats that do
nothing in this step: they have no query tokens, and nothing changes for them. A row is in a step at most once, and so
is a seat, whatever the padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sparsespec.core.batch import Batch, State
from sparsespec.core.config import Geometry
from sparsespec.core.plan import PREFILL, VERIFY, Placed, Rows
from sparsespec.core.view import Bools, Ints
from sparsespec.engine.graph_shapes import StepShape
from sparsespec.engine.request_table import RequestTable
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.lay_out.api import N_COLUMNS, lay_out_rows, lay_out_tokens


@dataclass(frozen=True, slots=True)
class PackedStep:
    """One step as the host launches it; B rows, of which the first R decode.

    Attributes:
        rows: The rows, in the order of the batch.
        decoding: The first R of them.
        is_verify: Which of these are VERIFY rows, [R].
        number: Whose rows they are, [B]: the requests' numbers, whoever has their seats later.
        round: Which of its rounds each decoding row belongs to, [R].
        at_least: What a decoding row adds to n_drafted (DRAFT) or n_committed (VERIFY) in any case, [R].
        n_logprobs: Log-probabilities wanted of each decoding row beside those of its own tokens, [R]; -1 for none.
        shape: The sizes of the step.
        columns: What the device unpacks, [N_COLUMNS, B].
        table: (seat, block, page) entries that page tables gain.
        step: Number of the step.
    """

    rows: Rows
    decoding: Rows
    is_verify: Bools
    number: Ints
    round: Ints
    at_least: Ints
    n_logprobs: Ints
    shape: StepShape
    columns: Ints
    table: tuple[tuple[int, int, int], ...]
    step: int

    @property
    def n_decoding(self) -> int:
        """R."""
        return len(self.decoding)


def pack(placed: Placed, table: RequestTable, step: int, geometry: Geometry) -> PackedStep:
    """Return a placed plan as one step."""
    filling = placed.rows.phase == PREFILL
    rows = placed.rows.take(filling.argsort(kind="stable"))
    decoding = rows[: len(rows) - int(filling.sum())]
    n_decoding = len(decoding)
    seat, phase, n_query, k = rows.table
    is_verify = phase == VERIFY
    columns = np.empty((N_COLUMNS, len(rows)), dtype=np.int64)
    columns[:4] = rows.table
    columns[4] = n_query.cumsum() - n_query
    # a request that decodes plainly may do so for long: choosing anew for each token would cost more than it is worth
    wants_scores = is_verify & (k > 0)
    if n_decoding < len(rows):
        # the end of a request's first fill warms its selection up; recomputation scores nothing
        wants_scores |= (phase == PREFILL) & table.first_fill[seat] & (n_query == table.to_prefill[seat])
    columns[5] = wants_scores if any(geometry.scored) else 0
    stop_below = table.stop_below[seat]
    columns[6] = stop_below.view(np.int64)
    is_verify = is_verify[:n_decoding]
    return PackedStep(
        rows=rows,
        decoding=decoding,
        is_verify=is_verify,
        number=table.number[seat],
        round=table.round[decoding.seat],
        # a device that may stop a round early may also draft nothing
        at_least=np.where(is_verify, 1, stop_below[:n_decoding] == 0),
        n_logprobs=table.n_logprobs[decoding.seat],
        shape=StepShape(
            n_rows=len(rows),
            n_tokens=int(n_query.sum()),
            n_logits=int(n_query[:n_decoding].sum()),
            plain=geometry.max_draft > 0 and n_decoding == len(rows) and not k.any(),
        ),
        columns=columns,
        table=placed.table,
        step=step,
    )


def write_padded(packed: PackedStep, shape: StepShape, into: Ints) -> None:
    """Write the columns of a step into `into` [N_COLUMNS, shape.n_rows]; rows behind its own are idle seats."""
    n = len(packed.rows)
    into[:, :n] = packed.columns
    if shape.n_rows > n:
        rest = into[:, n:]
        rest[:] = 0
        idle = np.ones(shape.n_rows, dtype=np.bool_)
        idle[packed.rows.seat] = False
        rest[0] = idle.nonzero()[0]
        rest[4] = packed.shape.n_tokens


def unpack(packed: Tensor, state: State, widest: int, step: int) -> tuple[Batch, Tensor]:
    """Return the batch of a packed step [N_COLUMNS, B], its tokens still to be laid out, and the room for guesses [B].

    Its `live` is what a row can use at most, guesses not counted; no row has more than `widest` query tokens.
    """
    seat, phase, n_query, k, offset, _, _ = packed
    start, live, room, scored = lay_out_rows(packed, state, impl=fastest(packed))
    empty: Any = seat.new_empty(0)
    batch = Batch(
        seat=seat,
        phase=phase,
        n_query=n_query,
        k=k,
        offset=offset,
        scored=scored,
        start=start,
        live=live,
        tokens=empty,
        positions=empty,
        row_of=empty,
        alive=empty.bool(),
        slots=empty,
        state=state,
        widest=widest,
        step=step,
    )
    return batch, room


def lay_out(batch: Batch, n_tokens: int, block_size: int) -> None:
    """Fill in the query tokens of a batch whose `start` and `live` are known; those behind the last row are dead."""
    laid = lay_out_tokens(batch, n_tokens, block_size, impl=fastest(batch.seat))
    batch.tokens, batch.positions, batch.row_of, batch.alive, batch.slots = laid
