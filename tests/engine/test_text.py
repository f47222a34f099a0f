"""Text as it grows: stop strings cut it, and what may become one is held back."""

from __future__ import annotations

import pytest

from sparsespec.engine.text_stream import TextStream
from tests.engine.decoders import Late


class Pieces:
    """Tokens are indices of pieces."""

    def __init__(self, *pieces: str, rest: str = "") -> None:
        self._pieces, self._rest = pieces, rest

    def push(self, token: int) -> str:
        return self._pieces[token]

    def flush(self) -> str:
        return self._rest


def _stream(pieces: list[str], stops: tuple[str, ...], rest: str = "") -> tuple[list[str], str | None, str]:
    """Return the pieces that were shown, the stop that was met, and the whole text."""
    stream, shown, stop = TextStream(Pieces(*pieces, rest=rest), stops), list[str](), None
    for token in range(len(pieces)):
        stop = stream.push(token)
        if stop is not None:
            break
        shown.append(stream.take())
    if stop is None:
        stream.finish()
    shown.append(stream.take())
    assert "".join(shown) == stream.text
    return shown, stop, stream.text


def test_without_stops_nothing_is_held_back() -> None:
    assert _stream(["ab", "", "c"], ()) == (["ab", "", "c", ""], None, "abc")


def test_a_stop_across_pieces_cuts_before_it_and_its_beginning_was_never_shown() -> None:
    assert _stream(["xa", "b", "cy"], ("abc",)) == (["x", "", ""], "abc", "x")


def test_what_turned_out_to_be_no_stop_is_shown_then() -> None:
    assert _stream(["xa", "b", "d", "e"], ("abc",)) == (["x", "", "abd", "e", ""], None, "xabde")


def test_a_beginning_inside_a_beginning_is_still_held() -> None:
    assert _stream(["aa", "a", "b"], ("aab",)) == (["", "a", ""], "aab", "a")


def test_the_end_shows_what_was_held() -> None:
    assert _stream(["xa", "b"], ("abc",)) == (["x", "", "ab"], None, "xab")


@pytest.mark.parametrize("stops", [("b", "abc"), ("abc", "b")])
def test_the_stop_that_is_complete_first_wins_whatever_the_order(stops: tuple[str, ...]) -> None:
    assert _stream(["xa", "b", "c"], stops) == (["x", "a"], "b", "xa")


def test_of_stops_completed_by_one_piece_the_one_that_begins_first_wins() -> None:
    assert _stream(["x", "abc"], ("bc", "ab"))[1:] == ("ab", "x")


def test_a_stop_may_be_the_whole_of_the_first_piece() -> None:
    assert _stream(["stop"], ("stop",)) == ([""], "stop", "")


def test_a_stop_that_only_the_end_completes_is_cut_all_the_same() -> None:
    assert _stream(["xa"], ("ab",), rest="bz") == (["x", ""], None, "x")


def test_a_decoder_that_is_late_changes_no_text() -> None:
    stream = TextStream(Late(), ("CD",))
    seen = [(stream.push(token), stream.take()) for token in (0, 1, 2, 3)]
    assert seen == [(None, ""), (None, "A"), (None, "B"), (None, "")]
    assert stream.push(4) == "CD"
    assert stream.text == "AB"
