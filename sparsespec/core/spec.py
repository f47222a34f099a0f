"""Compositions as data: `PartSpec`, `EngineSpec` and the presets.

A spec names parts and their options; it holds no part and imports none, so it can be written to JSON, stored beside a
result and read back exactly. Only the form is checked here: the registry checks that an option exists, the part itself
that its value works, and `core/capabilities.py` that parts work together.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from sparsespec.core import errors
from sparsespec.core.literals import freeze, read_object, read_options, thaw, write
from sparsespec.core.loops import LOOPS
from sparsespec.core.vllm_names import unknown_option

SHELVES = ("selector", "proposer", "length", "scheduler", "tiers", "attention", "verifier")

PartLike: TypeAlias = "str | PartSpec | Mapping[str, Any]"

_PART = re.compile(r"(?:(?P<shelf>\w+)/)?(?P<name>\w[\w.-]*)\s*(?P<options>\(.*\))?", re.DOTALL)


def _object(values: object, what: str) -> dict[Any, Any]:
    """Return a copy of a JSON object; raises `BadOption` for anything else."""
    if not isinstance(values, Mapping):
        raise errors.BadOption(f"{what} must be a JSON object, got {errors.show(values)}")
    return dict(cast("Mapping[Any, Any]", values))


@dataclass(frozen=True, slots=True, eq=False)
class PartSpec:
    """One part: its shelf, its name, and its options as plain JSON values (lists are tuples).

    The compact form is `pillar(budget=0.05,scored=[1,1])`; a bare word is a string.
    """

    shelf: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.shelf not in SHELVES:
            raise errors.unknown("shelf", self.shelf, SHELVES)
        if not isinstance(self.name, str) or not self.name:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise errors.BadOption(f"the name of a {self.shelf} must be a word, got {errors.show(self.name)}")
        for key in _object(self.options, f"options of {self.name}"):
            # An option is a constructor's parameter, so it can be written `name=value`.
            if not isinstance(key, str) or not key.isidentifier() or keyword.iskeyword(key):
                raise errors.BadOption(f"an option of {self.name} must be a word, got {errors.show(key)}")
        object.__setattr__(self, "options", freeze(self.options, f"options of {self.name}"))

    @classmethod
    def of(cls, value: PartLike, shelf: str | None = None) -> PartSpec:
        """Read a part from any of its forms; `shelf` is where a bare name is looked up."""
        if isinstance(value, str):
            value = cls._parse(value, shelf)
        elif not isinstance(value, PartSpec):
            value = cls.from_dict(value, shelf)
        if shelf is not None and value.shelf != shelf:
            raise errors.BadOption(f"a part of shelf {shelf!r} is wanted here, got {value.shelf}/{value.name}")
        return value

    @classmethod
    def _parse(cls, text: str, shelf: str | None) -> PartSpec:
        match = _PART.fullmatch(text.strip())
        if match is None:
            raise errors.BadOption(
                f"cannot read the part {errors.show(text)}; write it like 'pillar(budget=0.05,groups=1)'"
            )
        shelf = match["shelf"] or shelf
        if shelf is None:
            raise errors.BadOption(
                f"{errors.show(text)} does not say its shelf; write it like 'selector/{match['name']}'"
            )
        try:
            options = read_options(match["options"] or "()")
        except ValueError as error:
            raise errors.BadOption(
                f"cannot read the options of {errors.show(text)} ({errors.brief(error)}); "
                "write them like '(budget=0.05)'"
            ) from None
        return cls(shelf, match["name"], options)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"shelf": self.shelf, "name": self.name, "options": thaw(self.options)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], shelf: str | None = None) -> PartSpec:
        """Read what `to_dict` wrote; options may be absent, and the shelf where it is known."""
        keys: dict[str, Any] = {"shelf": shelf, "name": None, "options": {}}
        for key in _object(values, "a part"):
            if key not in keys:
                raise errors.unknown("key of a part", key, keys)
        keys |= values
        if not isinstance(keys["shelf"], str) or not isinstance(keys["name"], str):
            raise errors.BadOption(f"a part needs a shelf and a name, got {errors.show(dict(values))}")
        return cls(keys["shelf"], keys["name"], _object(keys["options"], "options"))

    def __str__(self) -> str:
        if not self.options:
            return self.name
        options = ",".join(f"{key}={write(value)}" for key, value in self.options.items())
        return f"{self.name}({options})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PartSpec):
            return NotImplemented
        return (self.shelf, str(self)) == (other.shelf, str(other))

    def __hash__(self) -> int:
        return hash((self.shelf, str(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return PartSpec, (self.shelf, self.name, thaw(self.options))


@dataclass(frozen=True, slots=True, eq=False)
class EngineSpec:
    """A whole engine: seven parts, the loop, and the engine's own options. The default is dense."""

    selector: PartSpec = PartSpec("selector", "none")
    proposer: PartSpec = PartSpec("proposer", "none")
    length: PartSpec = PartSpec("length", "zero")
    scheduler: PartSpec = PartSpec("scheduler", "lockstep")
    tiers: PartSpec = PartSpec("tiers", "gpu")
    attention: PartSpec = PartSpec("attention", "reference")
    verifier: PartSpec = PartSpec("verifier", "shared-noise")
    loop: str = "sync"
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for shelf in SHELVES:
            object.__setattr__(self, shelf, PartSpec.of(getattr(self, shelf), shelf))
        if not isinstance(self.loop, str) or self.loop not in LOOPS:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise errors.unknown("loop", self.loop, LOOPS)
        object.__setattr__(self, "engine", freeze(_object(self.engine, "engine options"), "engine options"))

    @classmethod
    def of(cls, **parts: PartLike) -> EngineSpec:
        """Compose from strings, dicts or PartSpecs: `EngineSpec.of(selector="pillar", ...)`."""
        return cls().replace(**parts)

    @property
    def parts(self) -> dict[str, PartSpec]:
        """The seven parts by shelf."""
        return {shelf: getattr(self, shelf) for shelf in SHELVES}

    def replace(self, **changes: PartLike) -> EngineSpec:
        """Return a copy with other parts (with their own options), another loop or engine options.

        A part is replaced whole: options of the part it replaces do not carry over.
        """
        return self._replace(changes)

    def _replace(self, changes: Mapping[str, Any]) -> EngineSpec:
        values: dict[str, Any] = {**self.parts, "loop": self.loop, "engine": self.engine}
        for key in changes:
            if key not in values:
                raise unknown_option("place in an engine spec", key, values)
        values.update(changes)
        return EngineSpec(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, every part included."""
        parts: dict[str, Any] = {shelf: part.to_dict() for shelf, part in self.parts.items()}
        return parts | {"loop": self.loop, "engine": thaw(self.engine)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineSpec:
        """Read what `to_dict` wrote; absent places take the defaults of a dense engine."""
        return cls()._replace(_object(values, "an engine spec"))

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> EngineSpec:
        """Read what `to_json` wrote."""
        return cls.from_dict(read_object(text, "an engine spec", errors.BadOption))

    def __str__(self) -> str:
        words = [f"{shelf}={part}" for shelf, part in self.parts.items()] + [f"loop={self.loop}"]
        return " ".join(words + [f"{key}={write(value)}" for key, value in self.engine.items()])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EngineSpec):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[Any, ...]:
        return EngineSpec.from_dict, (self.to_dict(),)


@dataclass(frozen=True, slots=True)
class Preset:
    """A composition with a name; it has no code of its own."""

    name: str
    spec: EngineSpec
    description: str
    source: str


def _presets(*presets: Preset) -> dict[str, Preset]:
    return {preset.name: preset for preset in presets}


PRESETS = _presets(
    Preset("dense", EngineSpec(), "Plain decoding by the same code: no drafts.", "the baseline"),
    Preset(
        "ngram",
        EngineSpec.of(proposer="ngram", length="fixed(draft=0,guess=4)"),
        "Prompt lookup: repeats of the text so far are guessed and verified.",
        "arXiv 2304.04487",
    ),
    Preset(
        "magicdec",
        EngineSpec.of(selector="window(sinks=4,budget=0.05)", length="fixed(draft=8)"),
        "Self-drafting over sinks and the newest tokens.",
        "arXiv 2408.11049",
    ),
    Preset(
        "triforce",
        EngineSpec.of(selector="window", proposer="ngram", length="fixed(draft=8,guess=4)"),
        "Two levels: guesses are checked by the sparse level, its drafts by the full one.",
        "arXiv 2404.11912",
    ),
    Preset(
        "vegas",
        EngineSpec.of(
            selector="pillar(groups=1,budget=0.07,min_budget=256,scored=[1,1],recent=0.0)",
            length="fixed(draft=6)",
        ),
        "One selection a layer, from the scores of the first and the last verified query.",
        "arXiv 2602.07223",
    ),
    Preset(
        "sparsespec",
        EngineSpec.of(
            selector="pillar(budget=0.05,groups=1,recent=0.5)",
            length="fixed(draft=8)",
            scheduler="staggered",
            loop="delayed",
        ),
        "PillarAttn drafts in one unified batch with delayed verification; the selection is shared "
        "by a layer and half recent, which accepts more than the published one.",
        "arXiv 2512.01278",
    ),
    Preset(
        "best",
        EngineSpec.of(
            selector="pillar(budget=0.05,groups=1,recent=0.5)",
            length="fixed(draft=8)",
            scheduler="staggered",
            loop="resident",
        ),
        "sparsespec in the resident loop, where no row waits for a verification. Not tuned yet: without pooled and "
        "smoothed scores, guesses and adaptive lengths.",
        "ours",
    ),
)


def preset(name: str) -> Preset:
    """Return the preset of that name."""
    if not isinstance(name, str) or name not in PRESETS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise errors.unknown("preset", name, PRESETS)
    return PRESETS[name]
