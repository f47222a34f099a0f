"""The options of a part against its constructor's signature: do they exist, are they given, are they of the right kind?

Whether a value of the right kind works is checked by the constructor itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import cast

from sparsespec.core import errors

# annotation → (what it is called, whether a value is one); what is annotated otherwise is checked by the part itself
_KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "int": ("a whole number", lambda v: type(v) is int),
    "float": ("a number", lambda v: type(v) in (int, float)),
    "bool": ("true or false", lambda v: type(v) is bool),
    "str": ("a word", lambda v: isinstance(v, str)),
    "None": ("null", lambda v: v is None),
    "Sequence[int]": (
        "a list of whole numbers",
        lambda v: isinstance(v, list | tuple) and all(type(i) is int for i in cast("list[object]", v)),
    ),
}


def parameters_of(cls: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class's constructor by name."""
    return inspect.signature(cls).parameters


def check_options(cls: type, part: str, options: Mapping[str, object]) -> None:
    """Raise for an option the constructor does not have, one of the wrong kind, and one it must have."""
    parameters = parameters_of(cls)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in options:
            if name not in parameters:
                raise errors.unknown(f"option of {part}", name, parameters)
    for name, value in options.items():
        if name in parameters:
            _check_kind(part, name, str(parameters[name].annotation), value)
    for name, p in parameters.items():
        optional = p.default is not p.empty or p.kind is p.VAR_KEYWORD
        if not optional and name not in options:
            raise errors.BadOption(f"{part} needs a value for {name!r}, like '{part}({name}=...)'")


def _check_kind(part: str, name: str, annotation: str, value: object) -> None:
    words = [word.strip() for word in annotation.split("|")]
    if all(word in _KINDS for word in words) and not any(_KINDS[word][1](value) for word in words):
        kinds = " or ".join(_KINDS[word][0] for word in words)
        raise errors.BadOption(f"{name} of {part} must be {kinds}, got {errors.show(value)}")
