from __future__ import annotations

import pytest

from sparsespec.core.errors import ContractBroken
from sparsespec.kv.pages import PageBook


def test_page_0_is_never_handed_out() -> None:
    book = PageBook(5)
    assert book.n_free == 4
    assert sorted(book.take(4)) == [1, 2, 3, 4]
    assert book.n_free == 0


def test_a_page_is_free_when_its_last_owner_has_left() -> None:
    book = PageBook(5)
    pages = book.take(2)
    book.retain(pages[:1])
    book.release(pages)
    assert book.n_free == 3
    assert book.owners(pages[0]) == 1
    book.release(pages[:1])
    assert book.n_free == 4


def test_the_lowest_page_is_handed_out_first() -> None:
    book = PageBook(9)
    assert book.take(5) == [1, 2, 3, 4, 5]
    book.release([4])
    book.release([2, 1])
    assert book.take(4) == [1, 2, 4, 6]


def test_our_own_mistakes_are_assertions() -> None:
    book = PageBook(3)
    with pytest.raises(AssertionError, match="not free"):
        book.take(3)
    page = book.take(1)
    book.release(page)
    with pytest.raises(AssertionError, match="released twice"):
        book.release(page)
    with pytest.raises(AssertionError, match="no owner"):
        book.retain(page)


def test_balanced_books_pass() -> None:
    book = PageBook(6)
    one, two = book.take(2), book.take(1)
    book.retain(one[:1])
    book.check([one, [*one[:1], *two]])


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ([[1, 2]], "add up"),
        ([[1, 2, 3], [1]], "other owners"),
        ([[1, 2, 3, 4]], "add up"),
        ([[0, 1, 2]], "page 0"),
        ([[1, 2, 5]], "add up"),
    ],
)
def test_books_that_do_not_balance_are_seen(tables: list[list[int]], why: str) -> None:
    book = PageBook(6)
    assert book.take(3) == [1, 2, 3]
    with pytest.raises(ContractBroken, match=why):
        book.check(tables)


def test_a_page_twice_in_the_free_list_is_seen() -> None:
    book = PageBook(4)
    pages = book.take(1)
    book._free.append(2)
    with pytest.raises(ContractBroken, match="twice"):
        book.check([pages])
