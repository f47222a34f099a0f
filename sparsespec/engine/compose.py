"""From a preset and a few changes to the parts of an engine: names are looked up, options sorted, conflicts raised."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from sparsespec.core.errors import BadOption, show, unknown
from sparsespec.core.protocols import Attention, Length, Proposer, Scheduler, Selector, Tiers, Verifier
from sparsespec.core.spec import SHELVES, EngineSpec, PartLike, PartSpec, preset
from sparsespec.engine.parts import Parts
from sparsespec.engine.sizes import Options
from sparsespec.models.transformer import Transformer

PROMISES = dict(zip(SHELVES, (Selector, Proposer, Length, Scheduler, Tiers, Attention, Verifier), strict=True))
OPTIONS = tuple(f.name for f in fields(Options))


def compose(base: str | EngineSpec, changes: Mapping[str, Any]) -> tuple[Parts, str, Options]:
    """Return parts, loop and options of `base` with `changes`; raises where something does not exist or fit."""
    if not isinstance(base, str | EngineSpec):
        raise BadOption(f"a composition begins with a preset's name or an EngineSpec, got {show(base)}")
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
            raise BadOption(
                f"{name} must be a name, a spec, or a finished part with a {name}'s verbs, got {show(value)}"
            )
    spec = spec.replace(**parts)
    for name in options:
        if name not in OPTIONS:
            raise unknown("engine option", name, OPTIONS)
    return Parts.make(spec, instances), spec.loop, Options(**options)


def check_company(model: object, decoder: object, eos_ids: object, device: object) -> None:
    """Raise `BadOption` for what an engine is given besides its composition and cannot be what it stands for."""
    if not isinstance(model, Transformer):
        raise BadOption(f"an engine needs a loaded model, got {show(model)}; LLM takes names and folders")
    if decoder is not None and not callable(decoder):
        raise BadOption(f"decoder is a function that makes a fresh decoder, or None, got {show(decoder)}")
    if eos_ids is not None and not (isinstance(eos_ids, Collection) and all(isinstance(i, int) for i in eos_ids)):
        raise BadOption(f"eos_ids is a list of token ids, or None for the model's, got {show(eos_ids)}")
    if device is not None and not callable(getattr(device, "launch", None)):
        raise BadOption(f"device is where launches run, like LazyDevice(), or None, got {show(device)}")


def spec_of(parts: Parts, loop: str, options: Options) -> EngineSpec:
    """Return the spec that composes such an engine again."""
    values = {name: getattr(options, name) for name in OPTIONS}
    return EngineSpec(**parts.specs(), loop=loop, engine=values)
