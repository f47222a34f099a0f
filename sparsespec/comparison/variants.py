"""What is compared: presets and specs with changes, at each budget that was asked for.

Whatever can be checked without a model is checked here, so that a mistake is found before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias

from sparsespec.core.errors import BadOption, brief, show
from sparsespec.core.literals import read_options
from sparsespec.core.spec import PRESETS, SHELVES, EngineSpec, PartSpec, preset
from sparsespec.core.vllm_names import unknown_option
from sparsespec.engine.compose import OPTIONS, compose

Composition: TypeAlias = str | EngineSpec
Compositions: TypeAlias = Sequence[Composition] | Mapping[str, Composition]

OPEN, CLOSE = "([{", ")]}"
GIVEN = ("max_num_seqs", "max_model_len")
"""Options of an engine that a comparison sets itself, the same for all."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One composition of a comparison.

    Attributes:
        name: The composition that its rows name.
        base: A preset's name, which leaves the attention backend to the device, or a whole spec.
        changes: What is different, as `Engine.compose` takes it.
        budget: Share of the context its drafts read; None where the selector has no such option.
        min_budget: Tokens they read at least; likewise.
        same_distribution_only: Sampled tokens are not those of dense decoding, only their distribution is the same.
    """

    name: str
    base: Composition
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    budget: float | None = None
    min_budget: int | None = None
    same_distribution_only: bool = False


def variants(
    compositions: Compositions | None, *, budgets: Sequence[float] = (), min_budgets: Sequence[int] = ()
) -> list[Variant]:
    """Return what is to be compared: dense first, and no composition twice.

    Args:
        compositions: Texts like `"sparsespec:selector=window,loop=sync"`, and specs; either of them by names of your
            own. None is all presets.
        budgets: Shares of the context; each selector with a `budget` is compared at all of them.
        min_budgets: Tokens; likewise for selectors with a `min_budget`.

    Raises:
        BadOption, UnknownName: for what does not exist or does not fit together.
    """
    found = [_variant("dense", "dense", {})]
    for name, base, changes in _bases(compositions):
        found += _with_budgets(_variant(name, base, changes), budgets, min_budgets)
    for option, values in (("budget", budgets), ("min_budget", min_budgets)):
        if values and all(getattr(one, option) is None for one in found):
            raise BadOption(
                f"no selector of {', '.join(one.name for one in found)} has a {option}; "
                f"leave it out, or compare a composition that drafts, such as 'sparsespec'"
            )
    unique: list[Variant] = []
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
            raise unknown_option("part or engine option", name, places)
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


def _variant(name: str, base: Composition, changes: Mapping[str, Any]) -> Variant:
    """Return a variant whose parts exist and fit together."""
    parts = compose(base, changes)[0]
    selector = parts.selector
    return Variant(
        name,
        base,
        changes,
        getattr(selector, "budget", None),
        getattr(selector, "min_budget", None),
        "draft_probs" in parts.verifier.needs,
    )


def _with_budgets(one: Variant, budgets: Sequence[float], min_budgets: Sequence[int]) -> list[Variant]:
    """Return the variant with each budget, or as it is where its selector has none."""
    ours = budgets if one.budget is not None else ()
    least = min_budgets if one.min_budget is not None else ()
    return [_with(one, {"budget": a, "min_budget": b}) for a, b in product(ours or (None,), least or (None,))]


def _with(one: Variant, options: Mapping[str, Any]) -> Variant:
    wanted = {name: value for name, value in options.items() if value is not None}
    if not wanted:
        return one
    spec = preset(one.base).spec if isinstance(one.base, str) else one.base
    selector = PartSpec.of(one.changes.get("selector", spec.selector), "selector")
    changed = PartSpec("selector", selector.name, {**selector.options, **wanted})
    return _variant(one.name, one.base, {**one.changes, "selector": changed})


def _pieces(text: str) -> list[str]:
    """Split at the commas outside all brackets."""
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
        raise BadOption(f"cannot read {name}={text} ({brief(error)}); write it like 'block_size=32'") from None
