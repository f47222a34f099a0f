"""Times the forward without attention, the matrix products in it alone, and the LM head."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from sparsespec.engine.profile.clock import Clock
from sparsespec.engine.profile.sample import Plan, Sample
from sparsespec.engine.profile.weights import copies_for
from sparsespec.kernels.linear.api import linear
from sparsespec.models.transformer import Transformer


def product_samples(model: Transformer, plan: Plan, clock: Clock) -> Iterator[Sample]:
    """Yield a sample for each size: of all layers as the model runs them, of their products, of the LM head."""
    for n in plan.tokens:
        yield Sample("layers", f"{n} tokens", (n,), clock([_layers(model, n)]))
    for n in plan.tokens:
        yield Sample("products", f"{n} tokens", (n,), clock([_products(model, n)]))
    heads = _heads(model, plan.rotated_bytes)
    for n in plan.logits:
        hidden = _random(model, n, model.config.hidden)
        calls = [partial(linear, hidden, head, impl=model.linear_impl) for head in heads]
        yield Sample("head", f"{n} rows of logits", (n,), clock(calls))


def _layers(model: Transformer, n: int) -> partial[Tensor]:
    config = model.config
    tokens = torch.randint(config.vocab, (n,), device=model.device)
    attended = _random(model, n, config.n_heads, config.head_dim)
    return partial(model.forward, tokens, lambda layer, q, k, v: attended)


def _products(model: Transformer, n: int) -> partial[None]:
    layers = [(w.qkv, w.o, w.gate_up, w.down) for w in model.parameters.layers]
    # one input for all products of a width; random, for the reason that weights are
    inputs = {w.shape[1]: _random(model, n, w.shape[1]) for w in layers[0]}

    def run() -> None:
        for layer in layers:
            for weight in layer:
                linear(inputs[weight.shape[1]], weight, impl=model.linear_impl)

    return partial(run)


def _heads(model: Transformer, rotated_bytes: int) -> list[Tensor]:
    """Return copies of the head that no cache holds together; a step reads it once."""
    head = model.parameters.head
    n = head.numel() * head.element_size()
    if n >= rotated_bytes:
        return [head]
    # a head that is small beside the cache is small beside the layers too: a few copies say enough
    return [head, *(head.clone() for _ in range(copies_for(n, rotated_bytes, 8) - 1))]


def _random(model: Transformer, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=model.dtype, device=model.device)
