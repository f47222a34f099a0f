"""What FlashInfer must be told about rows, in integers: which row reads which pages. Nothing here knows FlashInfer.

FlashInfer plans on the host, from how many queries and pages each row has; which pages these are, it reads on the
device. So lengths are Python's here, and pages are tensors. It has one page table for all KV heads. Lists of positions
that differ between groups of KV heads are served by looking at the pool otherwise: as one page for each (token, group),
of one token and `Hkv / groups` heads. A row is then as many rows as there are groups, of `Hq / groups` query heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen


class LiveRow(NamedTuple):
    """A live row, on the host."""

    at: int  # in the batch
    seat: int
    offset: int
    start: int
    live: int
    sparse: bool
    scored: bool

    @property
    def end(self) -> int:
        """One behind the position of the last live query."""
        return self.start + self.live


@dataclass(frozen=True, slots=True)
class Lists:
    """Rows as FlashInfer plans them; queries lie one behind the other, without dead ones.

    Attributes:
        tokens: Which queries these are, [n] int64, in `q` seen as [N · groups, Hq / groups, D].
        queries: First query of each row, and the end, [R + 1] int32 on the host.
        starts: First page of each row, and the end, [R + 1] int32 on the host.
        pages: Pages of all rows, int32 on the device.
        last: Tokens in the last page of each row, [R] int32 on the host.
        block_size: Tokens in a page.
        groups: Rows that a row of the batch became.
    """

    tokens: Tensor
    queries: Tensor
    starts: Tensor
    pages: Tensor
    last: Tensor
    block_size: int
    groups: int

    @property
    def single(self) -> bool:
        """Whether every row has one query."""
        return int(self.queries[-1]) == len(self.last)


def live_rows(rows: AttentionRows) -> list[LiveRow]:
    """Return the rows that have live queries; one copy to the host."""
    columns = torch.stack(
        [x.to(torch.int64) for x in (rows.seat, rows.offset, rows.start, rows.live, rows.sparse, rows.scored)]
    )
    found = enumerate(zip(*columns.tolist(), strict=True))
    return [
        LiveRow(i, seat, offset, start, live, bool(sparse), bool(scored))
        for i, (seat, offset, start, live, sparse, scored) in found
        if live
    ]


def dense_lists(rows: Sequence[LiveRow], table: Tensor, block_size: int) -> Lists:
    """Return the lists of rows that read all their positions, page by page."""
    blocks = [-(-row.end // block_size) for row in rows]
    pages = torch.cat([table[row.seat, :n] for row, n in zip(rows, blocks, strict=True)])
    return Lists(
        tokens=_queries_of(rows, 1, table.device),
        queries=_starts([row.live for row in rows]),
        starts=_starts(blocks),
        pages=pages.to(torch.int32),
        last=torch.tensor([(row.end - 1) % block_size + 1 for row in rows], dtype=torch.int32),
        block_size=block_size,
        groups=1,
    )


class SparseLists:
    """The lists of rows that read a selection and a tail, for layers with as many positions as this one.

    `of` is what stays the same in such layers; `refill` writes a layer's pages where they are read.
    """

    def __init__(self, rows: Sequence[LiveRow], chosen: Chosen, table: Tensor, block_size: int) -> None:
        self._rows, self._table, self._block_size = rows, table, block_size
        self._key = self._read(chosen)
        _, counts, tails = self._key
        groups, n_seats, k_max = chosen.positions.shape
        device = table.device
        lengths = [n + row.end - tail for row, n, tail in zip(rows, counts, tails, strict=True) for _ in range(groups)]
        starts = _starts(lengths)
        total = int(starts[-1])
        # of each entry: the row it belongs to, and its place there
        row = torch.repeat_interleave(
            torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device), output_size=total
        )
        place = torch.arange(total, device=device) - starts.to(device, torch.int64)[row]
        columns = [[row.seat for row in rows], counts, tails]
        seat, count, tail = (x[row // groups] for x in torch.tensor(columns, device=device))
        self._group, self._seat = row % groups, seat
        # a position from the tail, or where in the selection it is
        self._tail = torch.where(place < count, -1, tail + place - count)
        self._pick = torch.where(place < count, (self._group * n_seats + seat) * k_max + place, 0)
        self.of = Lists(
            tokens=_queries_of(rows, groups, device),
            queries=_starts([row.live for row in rows for _ in range(groups)]),
            starts=starts,
            pages=torch.empty(total, dtype=torch.int32, device=device),
            last=torch.ones(len(lengths), dtype=torch.int32),
            block_size=1,
            groups=groups,
        )

    def fits(self, chosen: Chosen) -> bool:
        """Say whether another layer's selection is as long in every row; one copy to the host."""
        return self._read(chosen) == self._key

    def refill(self, chosen: Chosen) -> None:
        """Write the pages of a layer, in place: what was planned reads them there."""
        if not chosen.positions.numel():
            position = self._tail
        else:
            picked = chosen.positions.flatten()[self._pick].to(torch.int64)
            position = torch.where(self._tail < 0, picked, self._tail)
        size = self._block_size
        slot = self._table[self._seat, position // size] * size + position % size
        self.of.pages.copy_(slot * self.of.groups + self._group)

    def _read(self, chosen: Chosen) -> tuple[torch.Size, list[int], list[int]]:
        """Return the shape of the positions, and counts and tails by row."""
        counts, tails = torch.stack((chosen.counts.to(torch.int64), chosen.tail_from.to(torch.int64))).tolist()
        seats = [row.seat for row in self._rows]
        return chosen.positions.shape, [counts[seat] for seat in seats], [tails[seat] for seat in seats]


def seen_by_groups(x: Tensor, groups: int) -> Tensor:
    """Return [N, H, D] as [N · groups, H / groups, D], without a copy where x is contiguous."""
    return x.reshape(x.shape[0] * groups, x.shape[1] // groups, x.shape[2])


def pool_by_groups(pages: Tensor, groups: int) -> Tensor:
    """Return a layer's pages [pages, P, Hkv, D] as pages of one token, [pages · P · groups, 1, Hkv / groups, D]."""
    return pages.view(-1, 1, pages.shape[2] // groups, pages.shape[3])


def _queries_of(rows: Sequence[LiveRow], groups: int, device: torch.device) -> Tensor:
    """Return the live queries of rows, group by group, as indices of what `seen_by_groups` gives."""
    index = [(row.offset + j) * groups + g for row in rows for g in range(groups) for j in range(row.live)]
    return torch.tensor(index, dtype=torch.int64, device=device)


def _starts(counts: Sequence[int]) -> Tensor:
    """Return where each of `counts` items begins, and the end, [n + 1] int32 on the host."""
    return torch.nn.functional.pad(torch.tensor(counts, dtype=torch.int64).cumsum(0), (1, 0)).to(torch.int32)
