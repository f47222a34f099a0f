"""The models of benchmarks: a geometry with random weights, or weights by name."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparsespec.core.errors import UnknownName, unknown
from sparsespec.llm import load_model
from sparsespec.models.catalog import ALIASES
from sparsespec.models.config import ModelConfig
from sparsespec.models.geometries import GEOMETRIES, config_of
from sparsespec.models.layout import EMBED, expected_shapes
from sparsespec.models.parameters import assemble, torch_dtype
from sparsespec.models.tiny import tiny
from sparsespec.models.tokenizer import Tokenizer
from sparsespec.models.transformer import Transformer

TINY = "tiny"
LONGEST = 40960
"""Tokens that a geometry's context holds at least: with random weights only sizes matter."""
RANDOM = (*GEOMETRIES, TINY)
"""Names that mean a geometry, whose weights are random."""
TINY_CONTEXT = 4096


def model_of(name: str, dtype: str, device: str, seed: int) -> tuple[Transformer, Tokenizer | None]:
    """Return a model on `device`, and its tokenizer where its weights are real."""
    if name == TINY:
        return tiny(max_model_len=TINY_CONTEXT, dtype=dtype, seed=seed).to(dtype, device), None
    if name in GEOMETRIES:
        return random_model(name, dtype, device, seed), None
    try:
        model, tokenizer = load_model(name, dtype)
    except UnknownName:
        raise unknown("model", name, (*ALIASES, *RANDOM)) from None
    return model.to(dtype, device), tokenizer


def shape_of(name: str) -> ModelConfig:
    """Return the shape of a geometry, for contexts that its model was perhaps never trained for."""
    config = config_of(name)
    return replace(config, max_model_len=max(config.max_model_len, LONGEST))


def random_model(name: str, dtype: str, device: str, seed: int) -> Transformer:
    """Return a geometry with normal weights that keep the size of what goes through them, drawn on `device`."""
    config = shape_of(name)
    shapes, kind = expected_shapes(config), torch_dtype(dtype)
    generator = torch.Generator(device).manual_seed(seed)

    def read(tensor: str) -> Tensor:
        shape = shapes[tensor]
        if "norm" in tensor:
            return torch.ones(shape, dtype=kind, device=device)
        drawn = torch.randn(shape, generator=generator, dtype=kind, device=device)
        return drawn if tensor == EMBED and not config.tied else drawn.mul_(shape[-1] ** -0.5)

    return Transformer(config, assemble(config, read, kind, device))
