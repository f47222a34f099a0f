"""How one request is sampled: `SamplingParams`, checked when it is made.

It holds what the caller asked for and nothing that the engine finds out later. A parameter that is not supported
raises: none is ignored, because an ignored parameter is a wrong output that goes unnoticed.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from sparsespec.core import errors
from sparsespec.core.literals import read_object
from sparsespec.core.vllm_names import unknown_option

SEED_END = 1 << 64

_T = TypeVar("_T")


def _answers_unknown_names(cls: type[_T]) -> type[_T]:
    """Make the constructor of a dataclass answer a name that is no field with a sentence, and not a `TypeError`."""
    init, have = cls.__init__, [field.name for field in fields(cls)]  # type: ignore[arg-type]

    @functools.wraps(init)
    def checked(self: _T, *args: Any, **values: Any) -> None:
        for name in values:
            if name not in have:
                raise unknown_option("sampling parameter", name, have)
        init(self, *args, **values)

    setattr(cls, "__init__", checked)  # noqa: B010, a type checker would refuse the assignment
    return cls


@_answers_unknown_names
@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request is sampled; raises `BadRequest` for a value and `UnknownName` for a name that cannot work.

    Attributes:
        temperature: 0 is greedy: argmax without noise.
        top_p: smallest set of tokens whose probability reaches it; the token that crosses stays.
        top_k: tokens kept; 0 is off (-1 is read as 0).
        min_p: tokens below this share of the top probability are dropped; 0 is off.
        max_tokens: new tokens, at most.
        stop: strings that end the output; a lone string is a tuple of one.
        stop_token_ids: tokens that end the output.
        seed: 64 bits; None takes one from the engine's seed and the request's number.
        ignore_eos: go on past the model's end-of-sequence token.
        logprobs: how many top logprobs to report besides the emitted token's; None is none.
        n: independent samples of the prompt.
        speculate: False decodes this request densely, whatever the engine's policies.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    n: int = 1
    speculate: bool = True

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("temperature", "top_p", "min_p"):
            put(self, name, _real(name, getattr(self, name)))
        # Below 1e-5 the division overflows float32 and every token ties at infinity.
        if self.temperature != 0.0 and self.temperature < 1e-5:
            raise _bad("temperature", "0 (greedy) or at least 1e-5", self.temperature)
        if not 0.0 < self.top_p <= 1.0:
            raise _bad("top_p", "in (0, 1]", self.top_p)
        if not 0.0 <= self.min_p <= 1.0:
            raise _bad("min_p", "in [0, 1]", self.min_p)
        put(self, "top_k", max(0, _whole("top_k", self.top_k, -1)))
        _whole("max_tokens", self.max_tokens, 1)
        _whole("n", self.n, 1)
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0)
        if self.seed is not None and _whole("seed", self.seed, 0) >= SEED_END:
            raise _bad("seed", "a whole number in [0, 2**64)", self.seed)
        for name in ("ignore_eos", "speculate"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, "True or False", getattr(self, name))
        put(self, "stop", _strings(self.stop))
        put(self, "stop_token_ids", _tokens(self.stop_token_ids))

    @property
    def is_greedy(self) -> bool:
        """Whether tokens are chosen by argmax, without noise."""
        return self.temperature == 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, defaults included."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingParams:
        """Read what `to_dict` wrote; absent fields take the defaults of this class."""
        if not isinstance(values, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _bad("sampling parameters", "a table of names and values", values)
        for name in values:
            if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise unknown_option("sampling parameter", name, [field.name for field in fields(cls)])
        return cls(**values)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> SamplingParams:
        """Read what `to_json` wrote."""
        return cls.from_dict(read_object(text, "sampling parameters", errors.BadRequest))


def _bad(name: str, must: str, got: object) -> errors.BadRequest:
    return errors.BadRequest(f"{name} must be {must}, got {errors.show(got)}")


def _real(name: str, value: object) -> float:
    """Return a finite, non-negative float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(name, "a number", value)
    try:
        real = float(value)
    except OverflowError:
        real = math.inf
    if not math.isfinite(real) or real < 0:
        raise _bad(name, "finite and not negative", value)
    return real


def _whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _bad(name, f"a whole number of at least {least}", value)
    return value


def _strings(stop: object) -> tuple[str, ...]:
    """Return the stop strings; an empty one would end every output at once."""
    items: tuple[object, ...] = (stop,) if isinstance(stop, str) else _items("stop", stop)
    for item in items:
        if not isinstance(item, str) or not item:
            raise _bad("stop", "a string or strings that are not empty", stop)
    return tuple(str(item) for item in items)


def _tokens(ids: object) -> tuple[int, ...]:
    return tuple(_whole("each of stop_token_ids", item, 0) for item in _items("stop_token_ids", ids))


def _items(name: str, value: object) -> tuple[object, ...]:
    if value is None:
        return ()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _bad(name, "a list", value)  # pyright: ignore[reportUnknownArgumentType]
    return tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
