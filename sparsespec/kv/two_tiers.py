"""Page tables in two tiers, and the copies between them.

A block is in a page of the device, or in a host page: then its entry in the page table is 0 and a second table has the
host page. A copy under way is one more owner of its page of the device, so the page is not handed out before the copy
has ended. Host pages need no such care: only copies touch them, and copies run one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from sparsespec.core.config import Geometry
from sparsespec.core.errors import ContractBroken
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
    """Moves blocks, each for all seats that share it, and keeps both books; subclasses decide which blocks and when."""

    _n_host_pages: int

    def reset(self) -> None:
        """Forget all requests."""
        super().reset()
        self._host_book = PageBook(self._n_host_pages + 1)
        self._host_table: dict[tuple[int, int], int] = {}  # host pages, by seat and block
        self._moving: dict[int, Move] = {}  # copies under way, by page of the device
        self._n_leaving = 0  # of them, copies to the host

    def moved(self, moves: Sequence[Move], *, failed: bool) -> None:
        """Release the pages that copies held."""
        for move in moves:
            del self._moving[move.page]
            self._book.release([move.page])
            self._n_leaving -= move.out

    def host_free_pages(self) -> int:
        """Return how many host pages are free."""
        return self._host_book.n_free

    def host_pages(self) -> int:
        """Return how many host pages are held."""
        return self._n_host_pages - self._host_book.n_free

    def moving_pages(self) -> int:
        """Return how many pages of the device are being copied."""
        return len(self._moving)

    def check(self) -> None:
        """Raise `ContractBroken` unless the books balance, on the device and on the host."""
        super().check()
        self._host_book.check([list(self._host_table.values())])
        away = {(seat, block) for seat, table in self._tables.items() for block, page in enumerate(table) if not page}
        if away != self._host_table.keys():
            raise ContractBroken(f"blocks {away} are not on the device, and on the host are {self._host_table}")

    def _device_pages(self) -> list[list[int]]:
        return [*([page for page in table if page] for table in self._tables.values()), list(self._moving)]

    def _spill(self, seat: int, outside: Set[int], n: int) -> list[Move]:
        """Copy up to `n` pages of a seat to the host, the last first, that only seats in `outside` share."""
        table, moves = self._tables[seat], list[Move]()
        for block, page in backwards(table):
            if len(moves) == n or not self._host_book.n_free:
                break
            if not self._is_movable(page) or not outside >= (sharers := self._sharers(seat, block)):
                continue
            (host_page,) = self._host_book.take(1)
            self._host_book.retain([host_page] * (len(sharers) - 1))
            # the copy keeps one of the sharers' references to the page
            self._book.release([page] * (len(sharers) - 1))
            for sharer in sharers:
                self._tables[sharer][block] = 0
                self._host_table[sharer, block] = host_page
            moves.append(self._moves(Move(page, host_page, True)))
        return moves

    def _fetch(self, seat: int, block: int, table: list[Entry]) -> Move:
        """Bring a block back, for all seats that share it."""
        host_page, sharers = self._host_table[seat, block], self._sharers(seat, block)
        (page,) = self._book.take(1)
        # one owner for each sharer, and one for the copy
        self._book.retain([page] * len(sharers))
        self._host_book.release([host_page] * len(sharers))
        for sharer in sharers:
            del self._host_table[sharer, block]
            self._tables[sharer][block] = page
            table.append((sharer, block, page))
        return self._moves(Move(page, host_page, False))

    def _moves(self, move: Move) -> Move:
        self._moving[move.page] = move
        self._n_leaving += move.out
        return move

    def _sharers(self, seat: int, block: int) -> set[int]:
        """Return the seats that hold the same page as `seat` holds for that block, `seat` among them."""
        page, host_page = self._tables[seat][block], self._host_table.get((seat, block), 0)
        if (self._book.owners(page) if page else self._host_book.owners(host_page)) == 1:
            return {seat}
        if host_page:
            return {other for other in self._tables if self._host_table.get((other, block)) == host_page}
        return {other for other, table in self._tables.items() if block < len(table) and table[block] == page}

    def _release(self, seat: int, keep: int) -> None:
        blocks = range(keep, self.pages(seat))
        self._host_book.release([self._host_table.pop((seat, b)) for b in blocks if (seat, b) in self._host_table])
        super()._release(seat, keep)

    def _is_movable(self, page: int) -> bool:
        """Say whether an entry of a page table is a page that is not being copied."""
        return page > 0 and page not in self._moving


def backwards(table: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (block, page) of a page table, the last first."""
    return ((block, table[block]) for block in range(len(table) - 1, -1, -1))
