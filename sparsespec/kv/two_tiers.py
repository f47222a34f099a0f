"""Tables of pages in two tiers, and the copies between them.

An entry of a table is a page of the device, or, below 0, minus a slot of the host. A copy under way owns its page of
the device beside the tables, so that nobody gets the page before the copy has ended. Slots need no such care: only
copies touch them, and copies run one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from sparsespec.core.config import Geometry
from sparsespec.core.plan import Move
from sparsespec.kv.paged import Entry, Paged
from sparsespec.kv.pages import PageBook

CHUNK_BYTES = 40 << 20
"""What is copied in a step: enough that few steps copy, and little beside what a step reads."""
_CHUNK = 128


def chunk_of(geometry: Geometry) -> int:
    """Return how many pages are copied in a step."""
    return max(1, min(CHUNK_BYTES // geometry.page_bytes, _CHUNK))


class TwoTiers(Paged):
    """Moves blocks, each with all its sharers, and keeps both books; whose and when is for those who inherit it."""

    _n_slots: int

    def reset(self) -> None:
        """Forget everybody."""
        super().reset()
        self._slots = PageBook(self._n_slots + 1)
        self._moving: dict[int, Move] = {}  # copies under way, by page of the device
        self._n_leaving = 0  # of them, copies to the host

    def moved(self, moves: Sequence[Move], *, failed: bool) -> None:
        """Let go of the pages that copies held."""
        for move in moves:
            del self._moving[move.page]
            self._book.release([move.page])
            self._n_leaving -= move.out

    def host_free_pages(self) -> int:
        """Return how many slots nobody holds."""
        return self._slots.n_free

    def host_pages(self) -> int:
        """Return how many slots are held."""
        return self._n_slots - self._slots.n_free

    def moving_pages(self) -> int:
        """Return how many pages of the device are being copied."""
        return len(self._moving)

    def check(self) -> None:
        """Raise `ContractBroken` unless the books balance, on the device and on the host."""
        tables = self._tables.values()
        self._book.check((*([p for p in table if p > 0] for table in tables), list(self._moving)))
        self._slots.check([-p for p in table if p < 0] for table in tables)

    def _spill(self, seat: int, outside: Set[int], n: int) -> list[Move]:
        """Let up to `n` pages of a seat leave, the last first, as far as nobody but those `outside` shares them."""
        table, moves = self._tables[seat], list[Move]()
        for block, page in backwards(table):
            if len(moves) == n or not self._slots.n_free:
                break
            if not self._is_movable(page) or not outside >= (sharers := self._sharers(seat, block, page)):
                continue
            (slot,) = self._slots.take(1)
            self._slots.retain([slot] * (len(sharers) - 1))
            # of the tables' shares in the page the copy keeps one
            self._book.release([page] * (len(sharers) - 1))
            for sharer in sharers:
                self._tables[sharer][block] = -slot
            moves.append(self._moves(Move(page, slot, True)))
        return moves

    def _fetch(self, seat: int, block: int, table: list[Entry]) -> Move:
        """Bring a block back, for all who share it."""
        entry = self._tables[seat][block]
        sharers = self._sharers(seat, block, entry)
        (page,) = self._book.take(1)
        # one share is there already; the others of the tables, and one of the copy
        self._book.retain([page] * len(sharers))
        self._slots.release([-entry] * len(sharers))
        for sharer in sharers:
            self._tables[sharer][block] = page
            table.append((sharer, block, page))
        return self._moves(Move(page, -entry, False))

    def _moves(self, move: Move) -> Move:
        self._moving[move.page] = move
        self._n_leaving += move.out
        return move

    def _sharers(self, seat: int, block: int, entry: int) -> set[int]:
        """Return the seats that hold `entry` as that block, `seat` among them."""
        if (self._book.owners(entry) if entry > 0 else self._slots.owners(-entry)) == 1:
            return {seat}
        return {seat for seat, table in self._tables.items() if block < len(table) and table[block] == entry}

    def _release(self, pages: list[int]) -> None:
        self._book.release([page for page in pages if page > 0])
        self._slots.release([-page for page in pages if page < 0])

    def _is_movable(self, entry: int) -> bool:
        """Say whether an entry is a page that no copy is busy with."""
        return entry > 0 and entry not in self._moving


def backwards(table: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (block, entry), the last first."""
    return ((block, table[block]) for block in range(len(table) - 1, -1, -1))
