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
    stream, shown, stop, end = TextStream(Pieces(*pieces, rest=rest), stops), list[str](), None, 0
    for token in range(len(pieces)):
        stop = stream.push(token)
        if stop is not None:
            break
        shown.append(stream.text[end : stream.visible()])
        end = stream.visible()
    if stop is None:
        stream.finish()
    shown.append(stream.text[end : stream.visible()])
    assert "".join(shown) == stream.text
    return shown, stop, stream.text


# what is said, the stops, and what is shown, met, and the text
STREAMS: dict[str, tuple[list[str], tuple[str, ...], tuple[list[str], str | None, str]]] = {
    "without stops nothing is held back": (["ab", "", "c"], (), (["ab", "", "c", ""], None, "abc")),
    "a beginning was never shown": (["xa", "b", "cy"], ("abc",), (["x", "", ""], "abc", "x")),
    "what was no stop is shown then": (["xa", "b", "d", "e"], ("abc",), (["x", "", "abd", "e", ""], None, "xabde")),
    "a beginning in a beginning": (["aa", "a", "b"], ("aab",), (["", "a", ""], "aab", "a")),
    "the end shows what was held": (["xa", "b"], ("abc",), (["x", "", "ab"], None, "xab")),
    "of those a piece completes, the first": (["x", "abc"], ("bc", "ab"), (["x", ""], "ab", "x")),
    "the whole of the first piece": (["stop"], ("stop",), ([""], "stop", "")),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stop_cuts_and_what_may_become_one_is_held_back(name: str) -> None:
    pieces, stops, expected = STREAMS[name]
    assert _stream(pieces, stops) == expected


@pytest.mark.parametrize("stops", [("b", "abc"), ("abc", "b")])
def test_the_stop_that_is_complete_first_wins_whatever_the_order(stops: tuple[str, ...]) -> None:
    assert _stream(["xa", "b", "c"], stops) == (["x", "a"], "b", "xa")


def test_a_stop_that_only_the_end_completes_is_cut_all_the_same() -> None:
    assert _stream(["xa"], ("ab",), rest="bz") == (["x", ""], None, "x")


def test_a_decoder_that_is_late_changes_no_text() -> None:
    stream = TextStream(Late(), ("CD",))
    seen = [(stream.push(token), stream.text[: stream.visible()]) for token in (0, 1, 2, 3)]
    assert seen == [(None, ""), (None, "A"), (None, "AB"), (None, "AB")]
    assert stream.push(4) == "CD"
    assert stream.text == "AB"
