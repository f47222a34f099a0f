"""Which tensors a checkpoint of a config holds: Hugging Face's names and shapes.

The one place that knows the names: loading checks a folder against this table, and the seeded
random model draws from it, in this order.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparsespec.models.config import ModelConfig

EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

Shape = tuple[int, ...]


def layer_prefix(layer: int) -> str:
    """Return what the names of a layer's tensors start with."""
    return f"model.layers.{layer}."


def expected_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Return the shape of every tensor, by name; a tied model has no `lm_head.weight`."""
    shapes: dict[str, Shape] = {EMBED: (config.vocab, config.hidden)}
    for layer in range(config.n_layers):
        prefix = layer_prefix(layer)
        shapes.update((prefix + name, shape) for name, shape in _layer_shapes(config))
    shapes[NORM] = (config.hidden,)
    if not config.tied:
        shapes[HEAD] = (config.vocab, config.hidden)
    return shapes


def _layer_shapes(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    hidden, inner, d = config.hidden, config.intermediate, config.head_dim
    queries, keys = config.n_heads * d, config.n_kv_heads * d
    products = (
        ("self_attn.q_proj", queries, hidden, config.qkv_bias),
        ("self_attn.k_proj", keys, hidden, config.qkv_bias),
        ("self_attn.v_proj", keys, hidden, config.qkv_bias),
        ("self_attn.o_proj", hidden, queries, config.o_bias),
        ("mlp.gate_proj", inner, hidden, config.mlp_bias),
        ("mlp.up_proj", inner, hidden, config.mlp_bias),
        ("mlp.down_proj", hidden, inner, config.mlp_bias),
    )
    yield "input_layernorm.weight", (hidden,)
    for name, n_out, n_in, has_bias in products:
        yield name + ".weight", (n_out, n_in)
        if has_bias:
            yield name + ".bias", (n_out,)
    if config.qk_norm:
        yield "self_attn.q_norm.weight", (d,)
        yield "self_attn.k_norm.weight", (d,)
    yield "post_attention_layernorm.weight", (hidden,)
