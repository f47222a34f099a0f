"""What benchmarks of an engine compare: presets, each with the changes behind it, and options for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from sparsespec.comparison.variants import changes_of
from sparsespec.core.errors import unknown
from sparsespec.core.literals import write
from sparsespec.core.loops import LOOPS
from sparsespec.core.registry import make
from sparsespec.core.spec import SHELVES, EngineSpec, PartSpec, preset
from sparsespec.engine.compose import OPTIONS
from sparsespec.engine.parts import Parts
from sparsespec.testing.simulated_acceptance import SimulatedAcceptance, chance_for


@dataclass(frozen=True)
class Entry:
    """A preset and what is different; `draft` and `guess` are the most that a round of it asks for."""

    preset: str
    changes: dict[str, Any] = field(default_factory=dict)
    draft: int = 0
    guess: int = 0

    @property
    def label(self) -> str:
        """The entry as `--preset` reads it."""
        written = (f"{name}={value if name in SHELVES else write(value)}" for name, value in self.changes.items())
        return f"{self.preset}:{','.join(written)}" if self.changes else self.preset

    @property
    def is_dense(self) -> bool:
        """Whether it decodes plainly."""
        return not self.draft and not self.guess

    @property
    def spec(self) -> EngineSpec:
        """Its parts and loop; options of the engine that are changed are not in it."""
        return preset(self.preset).spec.replace(**{k: v for k, v in self.changes.items() if k not in OPTIONS})

    def composed(self, accept: float | None) -> dict[str, Any]:
        """Return the changes as `Engine.compose` takes them; a fresh verifier if acceptance is simulated."""
        if accept is None or self.is_dense:
            return dict(self.changes)
        return {**self.changes, "verifier": SimulatedAcceptance(accept)}


def entries(
    presets: Sequence[str],
    *,
    loops: Sequence[str] = (),
    schedulers: Sequence[str] = (),
    budget: float | None = None,
    accept: float | None = None,
) -> list[Entry]:
    """Return what is to be measured, dense first, because all others are compared with it.

    Raises:
        BadOption, UnknownName: for what does not exist or does not fit, before anything is measured.
    """
    found: dict[str, Entry] = {}
    for text in presets:
        name, _, rest = text.partition(":")
        given = changes_of(rest, given=())
        has_drafts = _checked(name, given | ({"loop": loops[0]} if loops else {})).draft > 0
        # a composition that drafts nothing runs in every step, whatever the scheduler
        wanted = schedulers if has_drafts else ()
        for loop, scheduler in product(loops or (None,), wanted or (None,)):
            changes = dict(given)
            if loop:
                changes["loop"] = loop
            if scheduler:
                changes["scheduler"] = scheduler
            if budget is not None and has_drafts:
                changes = _with_budget(name, changes, budget)
            one = _checked(name, changes)
            if accept is not None and not one.is_dense:
                chance_for(accept, one.draft or one.guess)
            found[one.label] = one
    return sorted(found.values(), key=lambda one: not one.is_dense)


def _checked(name: str, changes: dict[str, Any]) -> Entry:
    """Return a subject whose parts exist and can live together."""
    spec = preset(name).spec.replace(**{k: v for k, v in changes.items() if k not in OPTIONS})
    if spec.loop not in LOOPS:
        raise unknown("loop", spec.loop, LOOPS)
    parts = Parts.make(spec, {})
    return Entry(name, changes, parts.length.max_draft, parts.length.max_guess)


def _with_budget(name: str, changes: dict[str, Any], budget: float) -> dict[str, Any]:
    """Return changes in which the selector, whichever it is, has `budget`; one without a budget stays."""
    selector = PartSpec.of(changes.get("selector", preset(name).spec.selector), "selector")
    if not hasattr(make(selector), "budget"):
        return changes
    return changes | {"selector": str(PartSpec("selector", selector.name, {**selector.options, "budget": budget}))}
