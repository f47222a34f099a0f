"""Encoding, chat, decoding at once, and decoding piece by piece."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsespec.core.errors import BadModel, BadOption
from sparsespec.models.incremental import IncrementalDecoder
from sparsespec.models.tokenizer import Tokenizer
from tests.models.tokenizers import byte_fallback, byte_level

TEXTS = [
    "the quick brown fox",
    "  two  spaces, and at the end  ",
    "日本語 and 😀😃, 👩‍👩‍👧 family",
    "\n\nlines\n\ttabs\r\n",
    "a real replacement character \ufffd inside",
    "ends with one \ufffd",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level(tmp_path_factory.mktemp("level"))


@pytest.fixture(scope="module")
def level(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(byte_fallback(tmp_path_factory.mktemp("fallback")))


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_round_trip(level: Tokenizer, text: str) -> None:
    assert level.decode(level.encode(text)) == text


def test_end_and_special_tokens(level: Tokenizer) -> None:
    assert level.eos_ids == (2, 0, 1)
    assert level.special_ids == {0, 1, 2}
    assert level.decode([1, *level.encode("the"), 2]) == "the"
    assert level.encode("<|im_end|>") == [2]


def test_chat_ends_where_the_assistant_begins(level: Tokenizer) -> None:
    ids = level.encode_chat([{"role": "user", "content": "the fox"}])
    assert ids == level.encode("<|im_start|>user\nthe fox<|im_end|>\n<|im_start|>assistant\n")


def test_bad_chats(level: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="at least one message"):
        level.encode_chat([])
    with pytest.raises(BadOption, match="'role' and 'content'"):
        level.encode_chat([{"role": "user"}])
    with pytest.raises(BadOption, match="no bad roles"):
        level.encode_chat([{"role": "bad", "content": "x"}])
    without = Tokenizer(byte_level(tmp_path, template=None))
    with pytest.raises(BadModel, match="no chat template; encode the prompt as plain text"):
        without.encode_chat([{"role": "user", "content": "x"}])


def test_folders_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"is not a folder; give one with tokenizer.json"):
        Tokenizer(tmp_path / "nowhere")
    with pytest.raises(BadModel, match=r"no tokenizer .* it needs tokenizer.json"):
        Tokenizer(tmp_path)


def in_pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = IncrementalDecoder(tokenizer)
    return [*(decoder.push(i) for i in ids), decoder.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_text_join_up(level: Tokenizer, fallback: Tokenizer, text: str) -> None:
    for tokenizer in (level, fallback):
        ids = tokenizer.encode(text)
        assert "".join(in_pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_no_piece_holds_half_a_character(level: Tokenizer) -> None:
    pieces = in_pieces(level, level.encode("x日😃"))
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[0] == "x"
    assert pieces[-1] == ""


random_ids = st.lists(
    st.one_of(st.integers(0, 340), st.integers(120, 258)), max_size=150
)  # the second half makes long runs of broken bytes


@given(ids=random_ids)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_of_random_ids_join_up(level: Tokenizer, fallback: Tokenizer, ids: list[int]) -> None:
    for tokenizer in (level, fallback):
        assert "".join(in_pieces(tokenizer, ids)) == tokenizer.decode(ids)


class Counting:
    """Counts the tokens that are decoded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._inner, self.special_ids, self.decoded = tokenizer, tokenizer.special_ids, 0

    def piece(self, token: int) -> str | None:
        return self._inner.piece(token)

    def decode(self, ids: list[int]) -> str:
        self.decoded += len(ids)
        return self._inner.decode(ids)


@pytest.mark.parametrize("token", ["words", "broken bytes"])
def test_the_work_is_linear(level: Tokenizer, token: str) -> None:
    counting = Counting(level)
    decoder = IncrementalDecoder(counting)
    ids = level.encode("the fox ") * 200
    if token == "broken bytes":
        ids = [next(i for i in range(259) if level.decode([i]) == "\ufffd")] * 1000
    for i in ids:
        decoder.push(i)
    assert counting.decoded < 40 * len(ids)
