"""From a preset and a few changes to the parts of an engine: names are looked up, options sorted, conflicts raised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sparsespec.core.errors import BadOption, unknown
from sparsespec.core.protocols import Attention, Length, Proposer, Scheduler, Selector, Tiers, Verifier
from sparsespec.core.spec import SHELVES, EngineSpec, PartLike, PartSpec, preset
from sparsespec.engine.parts import Parts
from sparsespec.engine.sizes import Options

PROMISES = dict(zip(SHELVES, (Selector, Proposer, Length, Scheduler, Tiers, Attention, Verifier), strict=True))
OPTIONS = tuple(f.name for f in fields(Options))


def compose(base: str | EngineSpec, changes: Mapping[str, Any]) -> tuple[Parts, str, Options]:
    """Return parts, loop and options of `base` with `changes`; raises where something does not exist or fit."""
    spec = preset(base).spec if isinstance(base, str) else base
    options = dict(spec.engine)
    parts: dict[str, PartLike] = {}
    instances: dict[str, Any] = {}
    for name, value in changes.items():
        if name in OPTIONS:
            options[name] = value
        elif name not in (*SHELVES, "loop"):
            raise unknown("engine option", name, (*SHELVES, "loop", *OPTIONS))
        elif name == "loop" or isinstance(value, (str, PartSpec, Mapping)):
            parts[name] = value
        elif isinstance(value, (type, PROMISES[name])):  # a class is refused where parts are made
            instances[name] = value
        else:
            raise BadOption(f"{name} must be a name, a spec, or a finished part with a {name}'s verbs, got {value!r}")
    spec = spec.replace(**parts)
    for name in options:
        if name not in OPTIONS:
            raise unknown("engine option", name, OPTIONS)
    return Parts.make(spec, instances), spec.loop, Options(**options)


def spec_of(parts: Parts, loop: str, options: Options) -> EngineSpec:
    """Return the spec that composes such an engine again."""
    values = {name: getattr(options, name) for name in OPTIONS}
    return EngineSpec(**parts.specs(), loop=loop, engine=values)
