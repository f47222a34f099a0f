"""A model to be timed: random weights of a few layers, used in turn by all of them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sparsespec.models.config import ModelConfig
from sparsespec.models.layout import expected_shapes, layer_prefix
from sparsespec.models.parameters import Parameters, assemble
from sparsespec.models.transformer import Transformer


def random_model(config: ModelConfig, dtype: torch.dtype, device: torch.device, rotated_bytes: int) -> Transformer:
    """Return a model whose layers share the weights of as few as hold `rotated_bytes`, so that no cache holds them.

    Weights are normal and keep the size of what goes through them: a GPU needs less power, and so less time, for
    products of zeros. The embedding is the LM head.
    """
    distinct = copies_for(layer_bytes(config, dtype), rotated_bytes, config.n_layers)
    short = replace(config, n_layers=distinct, tied=True)
    shapes = expected_shapes(short)
    generator = torch.Generator(device).manual_seed(0)

    def read(name: str) -> Tensor:
        shape = shapes[name]
        if "norm" in name:
            return torch.ones(shape, dtype=dtype, device=device)
        return torch.randn(shape, generator=generator, dtype=dtype, device=device).mul_(shape[-1] ** -0.5)

    made = assemble(short, read, dtype, device)
    layers = tuple(made.layers[i % distinct] for i in range(config.n_layers))
    return Transformer(config, Parameters(made.embed, layers, made.norm, made.head))


def copies_for(n_bytes: int, rotated_bytes: int, most: int) -> int:
    """Return how many of `n_bytes` each hold `rotated_bytes` together: 2 at least, and never more than `most`."""
    return min(most, max(2, math.ceil(rotated_bytes / n_bytes)))


def layer_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of a layer's weights."""
    shapes = expected_shapes(replace(config, n_layers=1))
    first = layer_prefix(0)
    return dtype.itemsize * sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(first))


def weight_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of weights that a step reads: of the embedding it reads a row a token, which is not counted."""
    head = (config.vocab + 1) * config.hidden * dtype.itemsize
    return config.n_layers * layer_bytes(config, dtype) + head


def token_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of K and V of one token in one layer."""
    return 2 * config.n_kv_heads * config.head_dim * dtype.itemsize
