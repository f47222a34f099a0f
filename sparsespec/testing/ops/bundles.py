"""Arguments and results as bundles of tensors: their names, copies of them, and one part replaced by another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


def leaves(x: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a bundle, with their names: `rows.live`."""
    if torch.is_tensor(x):
        yield name, x
        return
    for key, part in _parts(x):
        yield from leaves(part, f"{name}.{key}" if name else key)


def copied(x: Any, device: str | torch.device | None = None, floats: torch.dtype | None = None) -> Any:
    """Return a bundle whose tensors are copies, elsewhere or with floats of another type if asked to."""
    if torch.is_tensor(x):
        return x.to(device or x.device, floats if floats and x.is_floating_point() else x.dtype, copy=True)
    return _made_like(x, lambda part: copied(part, device, floats))


def copy_into(held: Any, fresh: Any) -> None:
    """Write the tensors of one bundle into those of another of the same shapes."""
    for (_, old), (_, new) in zip(leaves(held), leaves(fresh), strict=True):
        old.copy_(new)


def changed(x: Any, path: str, change: Callable[[Any], Any]) -> Any:
    """Return a bundle with the part at `path` changed; the others are shared."""
    if not path:
        return change(x)
    name, _, rest = path.partition(".")
    part = changed(x[name] if isinstance(x, dict) else getattr(x, name), rest, change)
    if isinstance(x, dict):
        return {**x, name: part}
    if is_dataclass(x) and not isinstance(x, type):
        return replace(x, **{name: part})
    named: Any = x
    return named._replace(**{name: part})


def _parts(x: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(x, dict):
        yield from x.items()
    elif is_dataclass(x):
        yield from ((field.name, getattr(x, field.name)) for field in fields(x))
    elif isinstance(x, tuple):
        names = getattr(x, "_fields", range(len(x)))
        yield from ((str(name), part) for name, part in zip(names, x, strict=True))


def _made_like(x: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(x, dict):
        return {name: change(part) for name, part in x.items()}
    if is_dataclass(x) and not isinstance(x, type):
        return type(x)(**{field.name: change(getattr(x, field.name)) for field in fields(x)})
    if isinstance(x, tuple):
        parts = [change(part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x
