"""What is compared: presets and specs, with the changes that stand behind them, at each budget that was asked for.

Everything that can be known without a model is checked here, so that a slip of the pen costs no decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias

from sparsespec.core.errors import BadOption, brief, show, unknown
from sparsespec.core.literals import read_options
from sparsespec.core.spec import PRESETS, SHELVES, EngineSpec, PartSpec, preset
from sparsespec.engine.compose import OPTIONS, compose
from sparsespec.engine.parts import Parts

Composition: TypeAlias = str | EngineSpec
Compositions: TypeAlias = Sequence[Composition] | Mapping[str, Composition]

OPEN, CLOSE = "([{", ")]}"
GIVEN = ("max_batch", "max_context")
"""Options of an engine that a comparison sets itself, the same for all."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One composition.

    Attributes:
        name: What its rows are called.
        base: A preset's name, which leaves the attention backend to the device, or a whole spec.
        changes: What is different, as `Engine.compose` takes it.
        budget: Share of the context its drafts read; None where no selector has one.
        min_budget: Tokens they read at least; likewise.
        keeps_law_only: Its sampled tokens are not those of dense decoding, only their law is.
    """

    name: str
    base: Composition
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    budget: float | None = None
    min_budget: int | None = None
    keeps_law_only: bool = False


def subjects(
    compositions: Compositions | None, *, budgets: Sequence[float] = (), min_budgets: Sequence[int] = ()
) -> list[Subject]:
    """Return what is to be compared: dense first, and no composition twice.

    Args:
        compositions: Texts like `"sparsespec:selector=window,loop=sync"`, or specs; perhaps by names of their own. None
            is all presets.
        budgets: Shares of the context that every selector with a `budget` is to have, one after another.
        min_budgets: Tokens for every selector with a `min_budget`, likewise.

    Raises:
        BadOption, UnknownName: for what does not exist, or cannot live together.
    """
    found = [_subject("dense", "dense", {})]
    for name, base, changes in _bases(compositions):
        found += _with_budgets(_subject(name, base, changes), budgets, min_budgets)
    for option, values in (("budget", budgets), ("min_budget", min_budgets)):
        if values and all(getattr(one, option) is None for one in found):
            raise BadOption(
                f"no selector of {', '.join(one.name for one in found)} has a {option}; "
                f"leave it out, or compare a composition that drafts, such as 'sparsespec'"
            )
    unique: list[Subject] = []
    for one in found:
        if one in unique:
            continue
        if (one.name, one.budget, one.min_budget) in [(o.name, o.budget, o.min_budget) for o in unique]:
            raise BadOption(f"two compositions are called {one.name!r}; give specs by names of their own")
        unique.append(one)
    return unique


def changes_of(text: str, given: Sequence[str] = GIVEN) -> dict[str, Any]:
    """Read `name=value,…`: parts, the loop, and the engine's options but those `given` already; raises `BadOption`."""
    changes: dict[str, Any] = {}
    places = [name for name in (*SHELVES, "loop", *OPTIONS) if name not in given]
    for piece in _pieces(text):
        name, _, value = (side.strip() for side in piece.partition("="))
        if not name or not value:
            raise BadOption(f"changes of a preset are written name=value,…, got {show(piece)}")
        if name not in places:
            raise unknown("part or engine option", name, places)
        if name in changes:
            raise BadOption(f"{name} is given twice in {show(text)}; give it once")
        changes[name] = _value(name, value) if name in OPTIONS else value
    return changes


def _bases(compositions: Compositions | None) -> Iterator[tuple[str, Composition, dict[str, Any]]]:
    """Yield name, base and changes of each composition."""
    if compositions is None:
        compositions = list(PRESETS)
    if not isinstance(compositions, Mapping | Sequence) or isinstance(compositions, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadOption(f"compositions are a list of presets and specs, or specs by name, got {show(compositions)}")
    by_name = isinstance(compositions, Mapping)
    pairs = compositions.items() if by_name else [(None, one) for one in compositions]
    for name, one in pairs:
        if isinstance(one, EngineSpec):
            yield name or str(one), one, {}
            continue
        if not isinstance(one, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadOption(
                f"a composition is a preset's name, perhaps with changes, or an EngineSpec, got {show(one)}"
            )
        base, _, rest = one.partition(":")
        yield name or one, preset(base).name, changes_of(rest)


def _subject(name: str, base: Composition, changes: Mapping[str, Any]) -> Subject:
    """Return a subject whose parts exist and can live together."""
    parts = compose(base, changes)[0]
    selector = parts.selector
    return Subject(
        name,
        base,
        changes,
        getattr(selector, "budget", None),
        getattr(selector, "min_budget", None),
        _keeps_law_only(parts),
    )


def _keeps_law_only(parts: Parts) -> bool:
    return "draft_probs" in parts.verifier.needs


def _with_budgets(one: Subject, budgets: Sequence[float], min_budgets: Sequence[int]) -> list[Subject]:
    """Return the subject with each budget, or as it is where its selector has none."""
    ours = budgets if one.budget is not None else ()
    least = min_budgets if one.min_budget is not None else ()
    return [_with(one, {"budget": a, "min_budget": b}) for a, b in product(ours or (None,), least or (None,))]


def _with(one: Subject, options: Mapping[str, Any]) -> Subject:
    wanted = {name: value for name, value in options.items() if value is not None}
    if not wanted:
        return one
    spec = preset(one.base).spec if isinstance(one.base, str) else one.base
    selector = PartSpec.of(one.changes.get("selector", spec.selector), "selector")
    changed = PartSpec("selector", selector.name, {**selector.options, **wanted})
    return _subject(one.name, one.base, {**one.changes, "selector": changed})


def _pieces(text: str) -> list[str]:
    """Split at the commas that stand in no brackets."""
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter in OPEN) - (letter in CLOSE)
        if letter == "," and not depth:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [piece for piece in pieces if piece.strip()]


def _value(name: str, text: str) -> Any:
    try:
        return read_options(f"({name}={text})")[name]
    except ValueError as error:
        raise BadOption(f"cannot read {name}={text} ({brief(error)}); write it like 'page_size=32'") from None
