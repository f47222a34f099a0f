"""Rotary frequencies and the tables of cosines and sines that `append_kv` reads.

Dimension i turns with dimension i + D/2 (the layout of Hugging Face checkpoints, not the
interleaved one of GGUF files). Frequencies and angles are rounded to float32 in every dtype, as
models are trained and as transformers runs them: at position 8,000 the rounding of an angle is
2e-4, so tables without it would part from the published model. Cosines are taken in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsespec.models.rope_config import RopeConfig


def rope_table(rope: RopeConfig, head_dim: int, max_model_len: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return `(cos, sin)`, each `[max_model_len, head_dim / 2]`, yarn's attention factor included."""
    inv_freq, scale = frequencies(rope, head_dim)
    angles = torch.arange(max_model_len, dtype=torch.float32)[:, None] * inv_freq
    wide = angles.double()
    return (wide.cos() * scale).to(dtype), (wide.sin() * scale).to(dtype)


def frequencies(rope: RopeConfig, head_dim: int) -> tuple[Tensor, float]:
    """Return the angle per position `[head_dim / 2]` in float32, and the factor of cos and sin."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    wave = rope.theta**exponent
    if rope.type == "llama3":
        return _llama3(rope, 1.0 / wave), 1.0
    if rope.type == "yarn":
        return _yarn(rope, wave, head_dim), _yarn_scale(rope)
    return 1.0 / wave, 1.0


def _llama3(rope: RopeConfig, inv_freq: Tensor) -> Tensor:
    """Llama 3.1: slow dimensions are stretched, fast ones kept, those between blended.

    "Slow" is judged by the wavelength in tokens against the original context.
    """
    turns = rope.original_context / (2 * math.pi / inv_freq)
    low, high = rope.low_freq_factor, rope.high_freq_factor
    stretched = inv_freq / rope.factor
    keep = (turns - low) / (high - low)
    blend = (1 - keep) * stretched + keep * inv_freq
    slow, fast = turns < low, turns > high
    return torch.where(slow, stretched, torch.where(fast, inv_freq, blend))


def _yarn(rope: RopeConfig, wave: Tensor, head_dim: int) -> Tensor:
    """YaRN (arXiv 2309.00071): a linear ramp over dimensions from kept to stretched."""
    low, high = (_yarn_dimension(rope, beta, head_dim) for beta in (rope.beta_fast, rope.beta_slow))
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    stretch = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return stretch / (rope.factor * wave) + (1 - stretch) / wave


def _yarn_dimension(rope: RopeConfig, turns: float, head_dim: int) -> float:
    """Return the (fractional) dimension that makes so many turns within the original context."""
    ratio = rope.original_context / (turns * 2 * math.pi)
    return head_dim * math.log(ratio) / (2 * math.log(rope.theta))


def _yarn_scale(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    return _mscale(rope.factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
