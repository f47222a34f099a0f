"""The models of `bench.engine`: a geometry with random weights, or weights by name; and prompts for either."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench.common import prose
from sparsespec.core.errors import BadOption, UnknownName, unknown
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


def random_prompts(vocab: int, lengths: Sequence[int], seed: int) -> Iterator[list[int]]:
    """Yield a prompt of random tokens of each length."""
    generator = torch.Generator().manual_seed(seed)
    for length in lengths:
        yield torch.randint(vocab, (length,), generator=generator).tolist()


def text_prompts(tokenizer: Tokenizer, path: Path | None, lengths: Sequence[int], seed: int) -> Iterator[list[int]]:
    """Yield a prompt of each length: pieces of the text, in an order of its own and again if they are too few."""
    pieces = [tokens for piece in pieces_of(path) if (tokens := tokenizer.encode(piece))]
    for number, length in enumerate(lengths):
        order = random.Random(f"{seed} {number}")
        prompt: list[int] = []
        while len(prompt) < length:
            for piece in order.sample(pieces, len(pieces)):
                prompt += piece
                if len(prompt) >= length:
                    break
        yield prompt[:length]


def pieces_of(path: Path | None) -> list[str]:
    """Return the pieces of a text: problems of a JSONL file, paragraphs of another, or what every machine has.

    Raises:
        BadOption: if the file cannot be read or holds no text.
    """
    try:
        if path is None or path.suffix == ".jsonl":
            found = [piece for piece in prose(path, 0) if piece.strip()]
        else:
            found = [piece + "\n\n" for piece in path.read_text("utf-8").split("\n\n") if piece.strip()]
    except OSError as error:
        raise BadOption(f"--prompts {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadOption(
            "--prompts takes UTF-8 text, or JSON lines with problem or question, and solution; "
            f"{path} holds something else"
        ) from error
    if not found:
        raise BadOption(f"--prompts takes a file with text, and {path} has none")
    return found
