"""A seeded random model, small enough for tests: `tiny()`.

A naive random transformer is useless for testing sparse attention: its attention is nearly
uniform and its logits nearly flat. Here scales are chosen so that attention picks a few tokens, its
output matters to the residual stream, and logits have spread: dropping most of the KV changes some
argmaxes and keeps others. Same seed, same weights, in every dtype, whatever else was drawn.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.errors import unknown
from sparsespec.models.config import FAMILIES, ModelConfig
from sparsespec.models.layout import EMBED, HEAD, Shape, expected_shapes
from sparsespec.models.parameters import assemble, torch_dtype
from sparsespec.models.rope_config import RopeConfig
from sparsespec.models.transformer import Transformer


def tiny(
    family: str = "qwen3",
    *,
    n_layers: int = 2,
    hidden: int = 32,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    head_dim: int = 8,
    intermediate: int = 48,
    vocab: int = 61,
    max_model_len: int = 256,
    rope: RopeConfig | None = None,
    tied: bool = False,
    eos_ids: tuple[int, ...] = (),
    attention_std: float = 3.0,
    logit_std: float = 2.5,
    seed: int = 0,
    dtype: str | torch.dtype = "float64",
) -> Transformer:
    """Make a random model of a family.

    Args:
        family: `llama`, `qwen2` or `qwen3`; qwen2 brings biases of q, k, v, qwen3 q/k norm.
        n_layers: L.
        hidden: width of the residual stream.
        n_heads: Hq.
        n_kv_heads: Hkv, a divisor of Hq.
        head_dim: D, even.
        intermediate: width of the MLP.
        vocab: V.
        max_model_len: tokens.
        rope: rotary parameters; the default type and base if None.
        tied: the LM head is the embedding; such a model tends to repeat its last token.
        eos_ids: tokens that end a text.
        attention_std: standard deviation of the attention scores; larger is more peaked.
        logit_std: standard deviation of the logits over the vocabulary.
        seed: fixes the weights, together with the shape.
        dtype: what the float64 weights are cast to.
    """
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    config = _config(
        family,
        n_layers=n_layers,
        hidden=hidden,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        intermediate=intermediate,
        rope=rope or RopeConfig(),
        tied=tied,
        max_model_len=max_model_len,
        eos_ids=eos_ids,
    )
    generator = torch.Generator().manual_seed(seed)
    scales = _Scales(config, attention_std, logit_std)
    drawn = {name: scales.draw(name, s, generator) for name, s in expected_shapes(config).items()}
    return Transformer(config, assemble(config, drawn.__getitem__, torch_dtype(dtype)))


def _config(family: str, **shape: Any) -> ModelConfig:
    """Add to a shape what the family fixes."""
    return ModelConfig(
        family=family,
        rms_eps=1e-6,
        qkv_bias=family == "qwen2",
        o_bias=False,
        mlp_bias=False,
        qk_norm=family == "qwen3",
        name=f"tiny-{family}",
        **shape,
    )


class _Scales:
    """Chooses the standard deviation of each tensor's entries; norms vary by a tenth around it."""

    def __init__(self, config: ModelConfig, attention_std: float, logit_std: float) -> None:
        # scores are a sum of D products over sqrt(D): their deviation is that of q times that of k
        self._qk = math.sqrt(attention_std)
        self._logits = logit_std / math.sqrt(config.hidden)
        self._tied = config.tied

    def draw(self, name: str, shape: Shape, generator: torch.Generator) -> Tensor:
        """Draw one float64 tensor; consumes the generator by its size alone."""
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        if "norm" in name:
            return self._gain(name) * (1 + 0.1 * noise)
        if name.endswith(".bias"):
            return 0.2 * noise
        if name == HEAD or (name == EMBED and self._tied):
            return self._logits * noise
        if name == EMBED:
            return noise
        gain = 1.0
        if "q_proj" in name or "k_proj" in name:
            gain = self._qk
        elif "o_proj" in name:
            # measured: at 1 a window of 20 keeps a third of the argmaxes, at 0.5 more than half
            gain = 0.5
        return gain * noise / math.sqrt(shape[1])

    def _gain(self, name: str) -> float:
        in_attention = name.endswith(("q_norm.weight", "k_norm.weight"))
        return self._qk if in_attention else 1.0
