"""The parameters of rotary embeddings, read from either generation of Hugging Face configs.

The old generation writes `rope_theta` beside an optional `rope_scaling`; the new one writes both
into `rope_parameters`. Only types whose frequencies do not depend on the sequence are supported,
because cached keys are rotated once. The frequencies themselves are computed in `rope.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsespec.core.errors import BadModel, show

_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_SCALED = _COMMON | {"factor", "original_max_position_embeddings"}
_KEYS = {
    "default": _SCALED,  # leftovers of a scaling that was switched off change nothing
    "llama3": _SCALED | {"low_freq_factor", "high_freq_factor"},
    "yarn": _SCALED | {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
}
_DEFAULT_THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """What fixes the rotation of position p in dimension pair i.

    Attributes:
        type: `default`, `llama3` or `yarn`.
        theta: base of the wavelengths.
        factor: how many times the trained context is stretched (llama3, yarn).
        original_context: tokens of context before stretching (llama3, yarn).
        low_freq_factor: llama3: `original_context` over this is the longest wavelength of the blend.
        high_freq_factor: llama3: and over this the shortest.
        attention_factor: yarn: multiplies cos and sin; None derives it from factor and mscale.
        beta_fast: yarn: most rotations within the original context at which dimensions blend.
        beta_slow: yarn: and the fewest.
        mscale: yarn: used with `mscale_all_dim` when `attention_factor` is None.
        mscale_all_dim: yarn: see `mscale`.
        truncate: yarn: round the blend's bounds to whole dimensions.
    """

    type: str = "default"
    theta: float = _DEFAULT_THETA
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> RopeConfig:
        """Read the rope of a `config.json`.

        Raises:
            BadModel: for an unsupported type or option, or a scaled type without its numbers.
        """
        rope: Any = config.get("rope_scaling") or config.get("rope_parameters") or {}
        if not isinstance(rope, Mapping):
            raise BadModel(f"config.json needs a table of rope parameters, got {rope!r}")
        rope_type = str(rope.get("rope_type", rope.get("type", "default")))
        _check(rope_type, rope, config)
        theta = _positive("rope_theta", _first(rope.get("rope_theta"), config.get("rope_theta"), _DEFAULT_THETA))
        if rope_type == "default":
            return cls(theta=theta)
        context = config["max_position_embeddings"]
        # transformers lets a number beside the rope table win over the one inside it
        key = "original_max_position_embeddings"
        original = _positive(key, _first(config.get(key), rope.get(key), context))
        factor: Any = rope.get("factor")
        if factor is None and rope_type == "yarn":
            factor = context / original
        names = sorted(_KEYS[rope_type] - _SCALED)
        given = {k: rope[k] for k in names if rope.get(k) is not None}
        for key in ("beta_fast", "beta_slow"):
            if not given.get(key, 1):  # transformers reads 0 as "not given"
                del given[key]
        for key in given.keys() - {"truncate"}:
            _number(key, given[key])
        numbers: dict[str, Any] = {"factor": factor, **given}
        _check_numbers(rope_type, numbers)
        options: dict[str, Any] = {k: bool(v) if k == "truncate" else float(v) for k, v in given.items()}
        return cls(rope_type, theta, float(numbers["factor"]), int(original), **options)


def _first(*values: Any) -> Any:
    return next(v for v in values if v is not None)


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadModel(f"config.json needs {key!r} to be a number, got {show(value)}")
    return float(value)


def _positive(key: str, value: object) -> float:
    if _number(key, value) <= 0:
        raise BadModel(f"config.json needs {key!r} to be above 0, got {show(value)}")
    return _number(key, value)


def _check(rope_type: str, rope: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    nested = sorted(k for k, v in rope.items() if isinstance(v, Mapping))
    if nested:
        raise BadModel(f"rope parameters must be the same in all layers, got one set for {nested}")
    if rope_type not in _KEYS:
        raise BadModel(f"unsupported rope type {rope_type!r}; supported: {', '.join(_KEYS)}")
    partial = _first(rope.get("partial_rotary_factor"), config.get("partial_rotary_factor"), 1.0)
    if _number("partial_rotary_factor", partial) != 1.0:
        raise BadModel(f"partial_rotary_factor must be 1.0 (the whole head), got {partial}")
    for key in sorted(rope.keys() - _KEYS[rope_type]):
        if rope[key] is not None:
            raise BadModel(
                f"rope option {key!r} is not supported for type {rope_type!r}; "
                f"supported: {', '.join(sorted(_KEYS[rope_type]))}"
            )


def _check_numbers(rope_type: str, given: Mapping[str, Any]) -> None:
    needs = {"llama3": ("factor", "low_freq_factor", "high_freq_factor"), "yarn": ("factor",)}
    for key in needs[rope_type]:
        value = given.get(key)
        if not isinstance(value, (int, float)) or value <= 0:
            raise BadModel(f"rope type {rope_type!r} needs a positive {key!r}, got {value!r}")
