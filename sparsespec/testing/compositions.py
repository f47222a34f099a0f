"""Random compositions of everything on the shelves, legal and small enough to hurt.

Parts are drawn by name, so a new plug-in is drawn by existing: with the options below where its name is known
here, else with its defaults and a budget. Budgets are small, because a draft that reads everything proves nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from sparsespec.core import registry
from sparsespec.core.capabilities import check_capabilities
from sparsespec.core.errors import SparseSpecError
from sparsespec.core.loops import LOOPS
from sparsespec.core.options import parameters_of
from sparsespec.core.spec import SHELVES, EngineSpec, PartSpec
from sparsespec.testing.adversaries import register_adversaries

Options = dict[str, Any]

MAX_DRAFT = 6
"""Drafts a round makes at most in drawn compositions."""

_OFTEN = {("tiers", "gpu"): 4, ("tiers", "host"): 2}
"""Who is drawn so many times as often as others: `gpu` preempts and `host` copies, where `reserve` only waits."""


def draw_spec(
    dice: random.Random, verifiers: Sequence[str] = (), attentions: Sequence[str] = ("reference",)
) -> EngineSpec:
    """Return a spec whose parts and loop can live together; its engine options are the caller's to add.

    Args:
        dice: Where chance comes from.
        verifiers: Names to draw from; empty is all that are registered.
        attentions: Likewise, the defining one by default because others need a GPU.
    """
    register_adversaries()
    shelves = {shelf: [n for n in registry.names(shelf) for _ in range(_OFTEN.get((shelf, n), 1))] for shelf in SHELVES}
    shelves["verifier"] = list(verifiers) or shelves["verifier"]
    shelves["attention"] = list(attentions) or shelves["attention"]
    for _ in range(1000):
        names = {shelf: dice.choice(found) for shelf, found in shelves.items()}
        spec = EngineSpec.of(**{shelf: _part(shelf, name, names, dice) for shelf, name in names.items()})
        spec = spec.replace(loop=dice.choice(tuple(LOOPS)))
        if _is_legal(spec):
            return spec
    raise SparseSpecError(
        f"no legal composition was found on the shelves {shelves}; give other verifiers or attentions"
    )


def _is_legal(spec: EngineSpec) -> bool:
    parts = {shelf: registry.make(part) for shelf, part in spec.parts.items()}
    try:
        check_capabilities(parts, spec.loop)
    except SparseSpecError:
        return False
    return True


def _part(shelf: str, name: str, names: dict[str, str], dice: random.Random) -> PartSpec:
    if shelf == "length":
        options = _length(name, names, dice)
    else:
        make = _OPTIONS.get((shelf, name))
        options = make(dice) if make else _small(shelf, name, dice)
    return PartSpec(shelf, name, options)


def _length(name: str, names: dict[str, str], dice: random.Random) -> Options:
    """Return options that fit the selector and the proposer: who has no draft level drafts nothing."""
    draft = 0 if names["selector"] == "none" else dice.randint(1, MAX_DRAFT)
    guess = 0 if names["proposer"] == "none" else dice.randint(1, 4)
    if name == "fixed":
        return {"draft": draft, "guess": guess}
    if name == "cost":
        # free to stop, and to probe again at once: prices are of another model
        return {"draft": draft, "guess": guess or int(not draft), "probe": dice.choice((1, 2, 64))}
    if name == "table":
        bounds = {"batch": [dice.randint(1, 3), 64], "context": [dice.randint(8, 64), 4096]}
        return {**bounds, "draft": _grid(draft, dice), "guess": _grid(guess, dice)}
    if name == "ema":
        return {"most": max(draft, 1), "least": 1, "guess": guess, "memory": dice.choice((0.0, 0.7))}
    if name == "confidence":
        return {"draft": max(draft, 1), "guess": guess, "stop_below": dice.choice((0.05, 0.3, 1.0))}
    if name == "erratic":
        stop = dice.choice((0.0, 0.0, 0.5, 1.0))
        return {"max_draft": draft, "max_guess": guess, "stop": stop, "seed": dice.randrange(100)}
    return {}


def _grid(most: int, dice: random.Random) -> list[list[int]]:
    return [[most, dice.randint(0, most)], [dice.randint(0, most), most]]


def _small(shelf: str, name: str, dice: random.Random) -> Options:
    """Return a small budget for a part that takes one, and nothing else: the part is not known here."""
    takes = parameters_of(registry.lookup(shelf, name)).keys() & {"budget", "min_budget"}
    return {option: value for option, value in _budget(dice).items() if option in takes} if takes else {}


def _budget(dice: random.Random) -> Options:
    return {"budget": dice.choice((0.1, 0.2, 0.3, 0.4)), "min_budget": dice.choice((8, 8, 8, 12, 16, 24, 32))}


def _groups(dice: random.Random) -> Options:
    return {"groups": dice.choice((1, 2, "heads"))}


def _pillar(dice: random.Random) -> Options:
    return {
        **_budget(dice),
        **_groups(dice),
        "recent": dice.choice((0.0, 0.25, 0.5, 1.0)),
        "scored": dice.choice(([1, 1], [1, 0], [0, 1], [0, 8], [0, 16])),
        "pool": dice.choice((1, 1, 3, 5)),
        "smooth": dice.choice((0.0, 0.0, 0.5, 0.9)),
        "warm_start": dice.random() < 0.7,
    }


def _ngram(dice: random.Random) -> Options:
    longest = dice.randint(1, 4)
    return {"max_ngram": longest, "min_ngram": dice.randint(1, longest)}


def _suffix(dice: random.Random) -> Options:
    longest = dice.choice((1, 2, 7, 64))
    return {"max_match": longest, "min_match": dice.randint(1, min(longest, 3)), "factor": dice.choice((1.0, 2.5))}


def _snapkv(dice: random.Random) -> Options:
    kept = {f"{name.removesuffix('budget')}keep": value for name, value in _budget(dice).items()}
    return {**kept, **_groups(dice), "window": dice.choice((1, 3, 16)), "pool": dice.choice((1, 7))}


def _host(dice: random.Random) -> Options:
    low = dice.choice((0.0, 0.1, 0.3))
    return {
        "victim": dice.choice(("newest", "shortest", "longest_remaining")),
        "size": dice.choice((0.1, 0.5, 4.0)),
        "low": low,
        "high": low + dice.choice((0.0, 0.2)),
        "chunk": dice.choice((1, 4, 64)),
    }


def _chunk(dice: random.Random) -> Options:
    # small ones seldom: their steps are many, and alike
    return {"chunk": dice.choice((1, 3, 7, 7, 16, 16, 64, 64))}


def _chaos(dice: random.Random) -> Options:
    return {
        **_chunk(dice),
        "seed": dice.randrange(1000),
        "idle": dice.choice((0.0, 0.2, 0.5)),
        "early": dice.choice((0.0, 0.1, 0.4)),
    }


_OPTIONS: dict[tuple[str, str], Callable[[random.Random], Options]] = {
    ("selector", "window"): lambda dice: {**_budget(dice), "sinks": dice.randint(0, 4)},
    ("selector", "random"): lambda dice: {**_budget(dice), **_groups(dice), "seed": dice.randrange(100)},
    ("selector", "oracle"): lambda dice: {**_budget(dice), **_groups(dice)},
    ("selector", "pillar"): _pillar,
    ("selector", "quest"): lambda dice: {**_budget(dice), **_groups(dice)},
    ("selector", "snapkv"): _snapkv,
    ("proposer", "ngram"): _ngram,
    ("proposer", "suffix"): _suffix,
    ("scheduler", "lockstep"): _chunk,
    ("scheduler", "staggered"): _chunk,
    ("scheduler", "chaos"): _chaos,
    ("tiers", "host"): _host,
}
