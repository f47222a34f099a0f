"""Which parts work together: what each `needs`, what each `provides`, and which part must provide it.

`check_capabilities` runs once, when an engine is composed. A need that nothing provides raises, with both sides and
what would have worked; nothing is replaced silently. No part needs `capturable` or `batch_invariant`: an engine asks
for them when it records steps, or is to be exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, TypeVar, cast

from sparsespec.core import errors, registry

CAPABILITIES = frozenset(
    {"scores", "step_query", "host_lengths", "host_tokens", "draft_probs", "capturable", "batch_invariant"}
)
_FROM_SYNC = frozenset({"host_lengths", "host_tokens"})
_FROM_ENGINE = frozenset({"draft_probs"})
_PROVIDER = {"scores": "attention", "step_query": "attention"}
_Kind = TypeVar("_Kind", int, bool)


def check_capabilities(parts: Mapping[str, object], loop: str) -> None:
    """Raise `BadOption` where two parts, or a part and the loop, cannot work together.

    Args:
        parts: the instances by shelf, with the attributes that `core/protocols.py` promises.
        loop: `sync`, `delayed` or `resident`.
    """
    provided = set(_FROM_ENGINE | _FROM_SYNC if loop == "sync" else _FROM_ENGINE)
    for part in parts.values():
        provided |= declared(type(part), "provides")
    names = {shelf: registry.name_of(shelf, type(part)) for shelf, part in parts.items()}
    for shelf, part in parts.items():
        for need in sorted(declared(type(part), "needs") - provided):
            _raise_gap(shelf, names, need, loop)
    if "length" in parts:
        _check_length(parts, names)


def declared(cls: type, side: str) -> frozenset[str]:
    """Return what a part's class `needs` or `provides`; an undeclared or unknown word is a bug."""
    words = getattr(cls, side, None)
    if not isinstance(words, frozenset) or not words <= CAPABILITIES:
        raise errors.ContractBroken(
            f"{cls.__name__}.{side} must be a frozenset of {sorted(CAPABILITIES)}, got {words!r}"
        )
    return cast("frozenset[str]", words)


def _raise_gap(shelf: str, names: Mapping[str, str], need: str, loop: str) -> NoReturn:
    lacks = f"{shelf} {names[shelf]!r} needs {need!r}"
    if need in _FROM_SYNC:
        raise errors.BadOption(
            f"{lacks}, which loop={loop!r} does not provide because results are collected late; use loop='sync'"
        )
    provider = _PROVIDER.get(need)
    if provider is None or provider not in names:
        raise errors.BadOption(f"{lacks}, which no other part provides; use another {shelf}")
    works = ", ".join(providers(provider, need)) or "none installed"
    raise errors.BadOption(
        f"{lacks}, which {provider} {names[provider]!r} does not provide; use another {shelf}, "
        f"or {provider} that provides it: {works}"
    )


def providers(shelf: str, word: str) -> list[str]:
    """List the names on a shelf that provide a capability."""
    return [part.name for part in registry.describe(shelf) if word in part.provides]


def _check_length(parts: Mapping[str, object], names: Mapping[str, str]) -> None:
    """Raise where a length asks for drafts or guesses that no part makes, or uses none of the guesses that are made."""
    draft = _promised(parts["length"], "max_draft", int)
    guess = _promised(parts["length"], "max_guess", int)
    length = f"length {names['length']!r}"
    if draft and "selector" in parts and not _promised(parts["selector"], "drafts", bool):
        raise errors.BadOption(
            f"{length} drafts up to {draft} tokens and selector {names['selector']!r} has no draft "
            "level; use selector='full' or another that has, or a length that does not draft: "
            "'zero' or 'fixed(draft=0,guess=4)'"
        )
    if "proposer" not in parts:
        return
    guesses = _promised(parts["proposer"], "guesses", bool)
    if guess and not guesses:
        raise errors.BadOption(
            f"{length} asks for up to {guess} guesses and proposer {names['proposer']!r} makes none; "
            "use proposer='ngram' or 'suffix', or a length with guess=0"
        )
    if guesses and not guess:
        raise errors.BadOption(
            f"proposer {names['proposer']!r} makes guesses and {length} takes none; use proposer='none', or a length "
            "that takes some: 'fixed(draft=0,guess=4)', or 'fixed(draft=8,guess=4)' with a selector that drafts"
        )


def _promised(part: object, name: str, kind: type[_Kind]) -> _Kind:
    value = getattr(part, name, None)
    if not isinstance(value, kind):
        raise errors.ContractBroken(f"{type(part).__name__}.{name} must be of type {kind.__name__}, got {value!r}")
    return value
