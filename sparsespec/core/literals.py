"""Plain JSON values in a spec: frozen inside, thawed for callers, compact on one line.

Frozen means lists as tuples and objects as read-only mappings with sorted keys, so that a spec
cannot change behind its hash. The compact form is Python's literals plus bare words for strings.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from sparsespec.core import errors

_CONSTANTS = {"true": True, "false": False, "null": None}


def freeze(value: object, where: str) -> Any:
    """Return a read-only copy; raise `BadOption` for what JSON cannot hold."""
    if value is None or isinstance(value, bool):
        return value
    # Subclasses (numpy floats, enums) become plain, so that their text reads back.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return tuple(freeze(item, where) for item in cast("list[object]", value))
    if isinstance(value, Mapping):
        return _freeze_object(cast("Mapping[object, object]", value), where)
    raise errors.BadOption(
        f"{where} must be plain JSON values (null, true, finite numbers, strings, lists, objects), "
        f"got {errors.show(value)}"
    )


def _freeze_object(value: Mapping[object, object], where: str) -> Mapping[str, Any]:
    keys: list[str] = []
    for key in value:
        if not isinstance(key, str):
            raise errors.BadOption(f"{where} must have strings as names, got {errors.show(key)}")
        keys.append(key)
    return MappingProxyType({key: freeze(value[key], where) for key in sorted(keys)})


def read_object(text: object, what: str, kind: type[errors.SparseSpecError]) -> dict[str, Any]:
    """Return the object that a JSON text holds; raise `kind`, naming `what`, for anything else."""
    if not isinstance(text, str | bytes):
        raise kind(f"{what} must be the text of a JSON object, got {errors.show(text)}")
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise kind(f"{what} must be a JSON object, got {errors.show(text)} ({errors.brief(error)})") from None
    if not isinstance(value, dict):
        raise kind(f"{what} must be a JSON object, got {errors.show(text)}")
    return cast("dict[str, Any]", value)


def thaw(value: Any) -> Any:
    """Return a fresh copy in lists and dicts, which `json` can write and a part may keep."""
    if isinstance(value, tuple):
        return [thaw(item) for item in cast("tuple[Any, ...]", value)]
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return value


def write(value: Any) -> str:
    """Return the compact form of a frozen value."""
    if isinstance(value, str):
        bare = value.isidentifier() and value.isascii() and not keyword.iskeyword(value)
        return value if bare and value not in _CONSTANTS else repr(value)
    if isinstance(value, tuple):
        return f"[{','.join(map(write, cast('tuple[Any, ...]', value)))}]"
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return "{" + ",".join(f"{key!r}:{write(item)}" for key, item in items) + "}"
    return repr(value)


def read_options(text: str) -> dict[str, Any]:
    """Read `(name=value,...)`; raise ValueError for anything else."""
    try:
        call = ast.parse(f"f{text}", mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError("options are written name=value")
    options: dict[str, Any] = {}
    for item in call.keywords:
        if item.arg is None or item.arg in options:
            raise ValueError(f"option {item.arg} is given twice" if item.arg else "** is not read")
        options[item.arg] = _read(item.value)
    return options


def _read(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=word):
            return _CONSTANTS.get(word, word)
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_read(item) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_read(cast("ast.expr", k)): _read(v) for k, v in zip(keys, values, strict=True)}
        case _:
            raise ValueError(f"{ast.unparse(node)} is not a plain value")
