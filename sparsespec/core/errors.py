"""The errors a caller can meet, and the one that means sparsespec itself is wrong.

Every caller's mistake raises a subclass of `SparseSpecError` whose message is one sentence that says what would have
worked. A part that breaks a promise to another raises `ContractBroken`, which is not a `SparseSpecError`: no caller
should catch it and carry on.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_SHOWN = 80
"""Characters of a value that a message quotes."""


class SparseSpecError(Exception):
    """Base of all errors that the caller can mend."""


class UnknownName(SparseSpecError, LookupError):
    """A name that is not on its shelf, not an option, not a preset or not a model."""


class BadOption(SparseSpecError, ValueError):
    """An option with a value, or in a combination, that cannot work."""


class BadRequest(SparseSpecError, ValueError):
    """A request that can never be served as it stands."""


class BadModel(SparseSpecError, ValueError):
    """A model folder or weight file that cannot be loaded, or an unsupported model family."""


class MissingPackage(SparseSpecError, ImportError):
    """An optional package that the chosen part needs and that is not installed."""


class EngineClosed(SparseSpecError, RuntimeError):
    """A call to an engine after `close()`."""


class NotLossless(SparseSpecError, RuntimeError):
    """Raised by `CheckLossless` when an output parts from dense decoding."""


class ContractBroken(AssertionError):
    """A part broke a promise of `core/protocols.py`: a bug in that part, never in the caller's input."""


def unknown(kind: str, name: object, have: Iterable[str]) -> UnknownName:
    """Return the error for an unknown name: it lists what exists and names the near miss."""
    names = sorted(have)
    near = difflib.get_close_matches(brief(name), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return UnknownName(f"unknown {kind} {show(name)}{hint} have: {', '.join(names) or 'none'}")


def show(value: object) -> str:
    """Return a value as a message quotes it."""
    return brief(repr(value))


def brief(text: object) -> str:
    """Return a text on one line, and its beginning only where it is long."""
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 1]}…"
