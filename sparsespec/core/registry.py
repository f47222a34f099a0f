"""Seven shelves of named parts: built-ins, what is registered, and what is installed.

Every built-in is a lazy string `"module:Class"`, and other distributions add theirs through the
entry-point groups `sparsespec.<shelf>`, so listing names imports nothing and a part is imported
when it is looked up. A name is never overwritten; a broken distribution breaks its own names only.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, cast

from sparsespec.core import errors
from sparsespec.core.literals import thaw
from sparsespec.core.options import check_options, parameters_of
from sparsespec.core.spec import SHELVES, PartLike, PartSpec

_SELECTORS = "sparsespec.policies.selectors"
_PROPOSERS = "sparsespec.policies.proposers"
_LENGTHS = "sparsespec.policies.lengths"

_BUILTIN: dict[str, dict[str, str]] = {
    "selector": {
        "none": f"{_SELECTORS}.none:NoSelector",
        "full": f"{_SELECTORS}.full:Full",
        "window": f"{_SELECTORS}.window:Window",
        "random": f"{_SELECTORS}.random:RandomSelector",
        "oracle": f"{_SELECTORS}.oracle:Oracle",
        "pillar": f"{_SELECTORS}.pillar:Pillar",
        "quest": f"{_SELECTORS}.quest:Quest",
        "snapkv": f"{_SELECTORS}.snapkv:SnapKV",
    },
    "proposer": {
        "none": f"{_PROPOSERS}.none:NoProposer",
        "ngram": f"{_PROPOSERS}.ngram:Ngram",
        "suffix": f"{_PROPOSERS}.suffix:Suffix",
    },
    "length": {
        "zero": f"{_LENGTHS}.zero:Zero",
        "fixed": f"{_LENGTHS}.fixed:Fixed",
        "ema": f"{_LENGTHS}.ema:Ema",
        "table": f"{_LENGTHS}.table:Table",
        "confidence": f"{_LENGTHS}.confidence:Confidence",
        "cost": f"{_LENGTHS}.cost:Cost",
    },
    "scheduler": {
        "lockstep": "sparsespec.sched.lockstep:Lockstep",
        "random": "sparsespec.sched.random:RandomScheduler",
        "staggered": "sparsespec.sched.staggered:Staggered",
    },
    "tiers": {
        "gpu": "sparsespec.kv.gpu:GpuTier",
        "host": "sparsespec.kv.host:HostTier",
        "reserve": "sparsespec.kv.reserve:ReserveTier",
    },
    "attention": {
        "reference": "sparsespec.attention.reference:ReferenceAttention",
        "triton": "sparsespec.attention.triton:TritonAttention",
        "flashinfer": "sparsespec.attention.flashinfer:FlashInferAttention",
    },
    "verifier": {
        "greedy": "sparsespec.sampling.greedy:Greedy",
        "shared-noise": "sparsespec.sampling.shared_noise:SharedNoise",
        "rejection": "sparsespec.sampling.rejection:Rejection",
    },
}
_registered: dict[tuple[str, str], str | type] = {}
_NAME = re.compile(r"\w[\w.-]*")
_VALUES = (bool, int, float, bytes, list, tuple, set)


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What `describe` says of one part.

    Attributes:
        options: name to default; `...` where the caller must give a value.
        origin: the distribution that brings the part, or "registered".
        error: why it cannot be loaded; then the other fields are empty.
    """

    name: str
    options: Mapping[str, object]
    needs: frozenset[str]
    provides: frozenset[str]
    origin: str
    doc: str
    error: str | None = None


def register(shelf: str, name: str, target: str | type) -> None:
    """Put a class, or a lazy `"module:Class"`, on a shelf for this process; duplicates raise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise errors.BadOption(f"a part's name is letters, digits, '-', '_' and '.', got {errors.show(name)}")
    if not isinstance(target, type) and not re.fullmatch(r"[\w.]+:[\w.]+", str(target)):
        raise errors.BadOption(f"register takes a class, or a lazy one as 'module:Class', got {errors.show(target)}")
    if name in names(shelf):
        raise errors.BadOption(f"{shelf} {name!r} is taken; register it under another name")
    _registered[shelf, name] = target


def names(shelf: str) -> list[str]:
    """List the names on a shelf, importing none of them."""
    found = [*_table(shelf), *(entry.name for entry in _installed(shelf))]
    return sorted({*found, *(name for where, name in _registered if where == shelf)})


def lookup(shelf: str, name: str) -> type:
    """Import and return the class behind a name."""
    if name not in names(shelf):
        raise errors.unknown(shelf, name, names(shelf))
    builtin = _table(shelf).get(name)
    entries = [entry for entry in _installed(shelf) if entry.name == name]
    origins = [_origin(entry) for entry in entries] + ["sparsespec"] * (builtin is not None)
    if len(origins) > 1:
        raise errors.BadOption(
            f"{shelf} {name!r} comes from {' and from '.join(sorted(origins))}; uninstall all but one, or rename theirs"
        )
    if entries:
        return _load_entry(shelf, entries[0])
    return _load(shelf, name, builtin or _registered[shelf, name])


def make(spec: PartLike | object, /, *, shelf: str | None = None, **options: Any) -> Any:
    """Make a part from `"selector/pillar"`, a compact string, a PartSpec or a dict.

    Options given here win over those in the spec. An instance is returned as it is.

    Args:
        spec: what to make.
        shelf: where a bare name such as `"pillar"` is looked up.
        options: the part's options, checked against its constructor.
    """
    if not isinstance(spec, str | PartSpec | Mapping):
        if options or isinstance(spec, type):
            raise errors.BadOption(
                f"cannot give options to {errors.show(spec)}; pass a name, a spec, or a finished instance"
            )
        if spec is None or isinstance(spec, _VALUES):
            got = errors.show(cast("object", spec))
            raise errors.BadOption(f"a part is a name, a spec, or a finished instance, got {got}")
        return spec
    part = PartSpec.of(cast("PartLike", spec), shelf)
    cls = lookup(part.shelf, part.name)
    options = {**thaw(part.options), **options}
    check_options(cls, f"{part.shelf}/{part.name}", options)
    return cls(**options)


def spec_of(shelf: str, part: object) -> PartSpec:
    """Return the spec that makes such a part again: its constructor's options as it stores them."""
    cls, values = type(part), dict[str, Any]()
    for name, parameter in parameters_of(cls).items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if not hasattr(part, name):
            raise errors.ContractBroken(f"{cls.__name__} does not store its option {name!r}")
        values[name] = getattr(part, name)
    return PartSpec(shelf, name_of(shelf, cls), values)


def name_of(shelf: str, cls: type) -> str:
    """Return the name of a class on a shelf, or the class's own where it has none there."""
    path = f"{cls.__module__}:{cls.__qualname__}"
    for name, target in _table(shelf).items():
        if target == path:
            return name
    for (where, name), target in _registered.items():
        if where == shelf and target in (cls, path):
            return name
    return next((e.name for e in _installed(shelf) if e.value == path), cls.__qualname__)


def describe(shelf: str) -> list[PartInfo]:
    """Return what is known of each part of a shelf; one that cannot be loaded says why."""
    return [_describe(shelf, name) for name in names(shelf)]


def _describe(shelf: str, name: str) -> PartInfo:
    origins = [_origin(entry) for entry in _installed(shelf) if entry.name == name]
    origin = "registered" if (shelf, name) in _registered else "sparsespec"
    origin = " and ".join(origins) or origin
    try:
        cls = lookup(shelf, name)
        options = {
            key: ... if parameter.default is parameter.empty else parameter.default
            for key, parameter in parameters_of(cls).items()
            if parameter.kind is not parameter.VAR_KEYWORD
        }
    except (errors.SparseSpecError, ImportError) as error:
        return PartInfo(name, {}, frozenset(), frozenset(), origin, "", str(error))
    needs, provides = (frozenset(getattr(cls, side, ())) for side in ("needs", "provides"))
    doc = (cls.__doc__ or "").strip().partition("\n")[0]
    return PartInfo(name, options, needs, provides, origin, doc)


def _table(shelf: str) -> dict[str, str]:
    if shelf not in SHELVES:
        raise errors.unknown("shelf", shelf, SHELVES)
    return _BUILTIN[shelf]


@functools.cache
def _installed(shelf: str) -> tuple[metadata.EntryPoint, ...]:
    """Scan the installed distributions once per shelf: it reads a file for each of them."""
    return tuple(metadata.entry_points(group=f"sparsespec.{shelf}"))


def _origin(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unnamed distribution"


def _load(shelf: str, name: str, target: str | type) -> type:
    if isinstance(target, type):
        return target
    module, _, attribute = target.partition(":")
    package = module.partition(".")[0]
    try:
        found: object = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except Exception as error:
        missing = (getattr(error, "name", None) or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and missing not in ("", "sparsespec", package):
            raise errors.MissingPackage(
                f"{shelf} {name!r} needs the package {missing!r}; pip install {missing!r}, or choose "
                f"from: {', '.join(other for other in names(shelf) if other != name)}"
            ) from error
        if package == "sparsespec":
            raise
        raise errors.BadOption(
            f"{shelf} {name!r} is registered as {target!r}, which cannot be loaded ({_why(error)}); "
            "register what can be imported"
        ) from error
    return _a_class(f"{shelf} {name!r}, registered as {target!r},", found)


def _load_entry(shelf: str, entry: metadata.EntryPoint) -> type:
    """Load the class of another distribution; whatever its import raises is reported as its own."""
    try:
        found: object = entry.load()
    except Exception as error:
        raise errors.BadOption(
            f"{shelf} {entry.name!r} of {_origin(entry)} cannot be loaded ({_why(error)}); "
            f"mend or uninstall {_origin(entry)}"
        ) from error
    return _a_class(f"{shelf} {entry.name!r} of {_origin(entry)}", found)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {errors.brief(error)}"


def _a_class(name: str, found: object) -> type:
    if not isinstance(found, type):
        raise errors.BadOption(f"{name} must be a class, got {errors.show(found)}")
    return found
