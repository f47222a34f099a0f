"""The names that the field does not use stay gone: no identifier, option, key or file name brings one back.

Code is searched token by token, and what is code in pages; prose is for reading, and not searched. The log and the
changelog keep the names of their time.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arch.layout import ROOT
from tests.arch.test_words import repository_files

COINED = frozenset(
    (
        *("desk", "roster", "deck", "landed", "listener", "speaker", "intake", "heard", "unheard", "hear", "hears"),
        *("stood", "fell", "stands", "chained", "chain", "house", "toss", "coin"),
        *("max_batch", "max_context", "page_size"),
    )
)
"""Parts of identifiers that mean nothing else here; `in_flight` is one word, so a lone `flight` is looked for too."""
IDENTIFIERS = frozenset(
    (
        *("gives", "givers", "ChainRows", "Chained", "chain_rows", "verify_chain", "match_chain", "RowView"),
        *("waiting_since", "seat_filled", "set_filled", "made_up", "triton_law", "kernel_cases_draw"),
    )
)
ATTRIBUTES = frozenset(("state.c", "state.d", "state.filled", "rows.drawn", "rows.c", "move.slot", "geometry.n_pages"))
KEYS = frozenset(("n_pages", "max_batch", "max_context", "page_size", "heard", "gives", "accepted_a_round"))
LAW = frozenset(("law", "laws"))
LAW_MAY = ("tests/laws/", "tests/arch/", "tests/test_docs.py", "tests/conftest.py", "tests/bench/")
"""Where an identifier may speak of laws: invariants are defended there."""
SKIP = ("docs/log/", "docs/log.md", "CHANGELOG.md", "tests/arch/test_vocabulary.py")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")


def words(identifier: str) -> list[str]:
    """Return the words of a snake- or camel-case identifier, `in_flight` as one."""
    return [word.lower() for word in _WORD.findall(re.sub(r"in_flights?|[Ii]nFlight", "", identifier))]


def wrong(identifier: str, path: str = "") -> bool:
    """Say whether an identifier has a name of old."""
    parts = words(identifier)
    joined = "_".join(parts)
    if identifier in IDENTIFIERS or "flight" in parts or "flights" in parts:
        return True
    if any(coined in parts if "_" not in coined else f"_{coined}_" in f"_{joined}_" for coined in COINED):
        return True
    return identifier in LAW and not path.startswith(LAW_MAY)


def old_names(source: str, path: str = "") -> Iterator[str]:
    """Yield the names of old in Python source: identifiers, attributes, and strings that are keys or names."""
    before: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            # the names of tests are sentences
            if not token.string.startswith("test_") and wrong(token.string, path):
                yield token.string
            pair = f"{before[-2]}.{token.string}" if before[-1:] == ["."] and len(before) > 1 else ""
            if pair in ATTRIBUTES:
                yield pair
        elif token.type == tokenize.STRING:
            text = token.string.strip("rRbBfFuU").strip("\"'")
            if text in KEYS or (text.isidentifier() and wrong(text, path)):
                yield token.string
        before = [*before[-2:], token.string]


def code_of(page: str) -> str:
    """Return what is code in a page: blocks and spans."""
    blocks = re.findall(r"```[^\n]*\n(.*?)```", page, re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    return "\n".join([*blocks, *spans])


def checked_files(suffix: str) -> list[Path]:
    """Return the files with a suffix that are searched."""
    files = [path for path in repository_files() if path.suffix == suffix]
    return [path for path in files if not str(path.relative_to(ROOT)).startswith(SKIP)]


def test_no_python_file_has_a_name_of_old() -> None:
    files = checked_files(".py")
    assert len(files) > 250
    found: dict[str, list[str]] = {}
    for file in files:
        path = str(file.relative_to(ROOT))
        if names := set(old_names(file.read_text("utf-8"), path)):
            found[path] = sorted(names)
    assert found == {}


def test_no_page_has_a_name_of_old_in_its_code() -> None:
    found: dict[str, list[str]] = {}
    for path in checked_files(".md"):
        code = code_of(path.read_text("utf-8"))
        names = {name for name in re.findall(r"[A-Za-z_]\w*", code) if wrong(name, "tests/laws/")}
        names |= {pair for pair in ATTRIBUTES | {"n_pages="} if pair in code}
        if names:
            found[str(path.relative_to(ROOT))] = sorted(names)
    assert found == {}


def test_no_file_is_called_by_a_name_of_old() -> None:
    names = [str(path.relative_to(ROOT)) for path in repository_files()]
    gone = ("engine/round.py", "engine/shape.py", "engine/text.py", "engine/host.py", "kernels/draw/")
    assert [name for name in names if wrong(Path(name).stem) or any(old in name for old in gone)] == []


@pytest.mark.parametrize(
    "line",
    [
        "class Desk: ...",
        "self._roster = 1",
        "def hear_all(): ...",
        "flight = 1",
        "x = state.c",
        "options['max_batch']",
        "f(page_size=4)",
        "row.heard",
        "n_unheard = 0",
        "law = 1",
        "verify_chain(x)",
        "cls.gives",
        "n_stood = 3",
    ],
)
def test_a_name_of_old_is_seen(line: str) -> None:
    assert list(old_names(line))


@pytest.mark.parametrize(
    "line",
    ["in_flight = InFlightStep()", "def test_a_draft_that_fell(): ...", "n_committed = 3", "n_pages = 4", "plt.draw()"],
)
def test_a_name_of_today_is_not(line: str) -> None:
    assert not list(old_names(line))
