"""Sizes of known models, for work that needs no weights: what a forward takes does not depend on what is in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparsespec.core.errors import UnknownName, unknown
from sparsespec.models.catalog import ALIASES, TINY, resolve
from sparsespec.models.config import ModelConfig
from sparsespec.models.tiny import tiny
from sparsespec.models.weights import read_config

GEOMETRIES: dict[str, dict[str, Any]] = {
    "qwen3-8b": {
        "model_type": "qwen3",
        "num_hidden_layers": 36,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12288,
        "vocab_size": 151936,
        "rope_theta": 1e6,
        "max_position_embeddings": 40960,
    },
    "smollm2-135m": {
        "model_type": "llama",
        "num_hidden_layers": 30,
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "rope_theta": 1e5,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    },
}
"""What matters of some models' `config.json`."""


def config_of(name: str, *, progress: Callable[[str, int, int], None] | None = None) -> ModelConfig:
    """Return the shape behind a geometry's name, `tiny`, an alias, a folder or a hub id.

    Only a geometry and `tiny` cost nothing: the others are fetched, weights included, if they are not here.
    """
    if name in GEOMETRIES:
        return ModelConfig.from_hf(GEOMETRIES[name], name=name)
    if name == TINY:
        return tiny().config
    try:
        folder = resolve(name, progress=progress)
    except UnknownName:
        raise unknown("model or geometry", name, (*ALIASES, TINY, *GEOMETRIES)) from None
    return read_config(folder)
