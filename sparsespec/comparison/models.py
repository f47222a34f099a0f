"""The models of a comparison: their names, their tokenizers and their prompts as tokens, before weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from sparsespec.comparison.prompts import Prompt, Tokens, encode
from sparsespec.core.errors import BadRequest
from sparsespec.models.catalog import TINY, Progress, load, resolve
from sparsespec.models.config import ModelConfig
from sparsespec.models.tiny import tiny
from sparsespec.models.tokenizer import Tokenizer
from sparsespec.models.transformer import Transformer
from sparsespec.models.weights import read_config

Model: TypeAlias = str | Path | Transformer


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """One model of a comparison.

    Attributes:
        name: As its rows name it.
        source: Itself if it is loaded, or where it is loaded from.
        tokenizer: None if it has none.
        sets: The tokens of its prompts by the name of their set.
    """

    name: str
    source: Model
    tokenizer: Tokenizer | None
    sets: Mapping[str, Sequence[Tokens]]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(tokens) for prompts in self.sets.values() for tokens in prompts)

    def load(self, dtype: str, place: torch.device | None, progress: Progress) -> Transformer:
        """Return the model with its weights; a loaded one stays as it is, where it is unless a `place` is given."""
        progress(f"loading {self.name}", 0, 1)
        model = self.source
        if not isinstance(model, Transformer):
            return load(model, dtype, device=place or "cpu", progress=progress)
        return model if place in (None, model.device) else model.to(model.dtype, place)


def compared_models(
    models: Model | Sequence[Model],
    sets: Mapping[str, Sequence[Prompt] | int],
    *,
    tokenizer: Tokenizer | None,
    max_tokens: int,
    chat: bool,
    progress: Progress,
) -> Iterator[ComparedModel]:
    """Yield models with their prompts, fetched if need be but not loaded.

    Raises:
        SparseSpecError: for a model that is not there, and prompts that it cannot read or that are too long.
    """
    many = [models] if isinstance(models, str | Path | Transformer) else models
    if not many:
        raise BadRequest("there is no model to compare on; give one or more, such as 'smollm2'")
    for model in many:
        name, source, config, own = _looked_up(model, tokenizer, progress)
        room = config.max_model_len - max_tokens
        if room < 1:
            raise BadRequest(
                f"max_tokens={max_tokens} leaves no room for a prompt in the {config.max_model_len} tokens of {name}; "
                "lower it"
            )
        found = {
            label: encode(prompts, own, vocab=config.vocab, room=room, chat=chat) for label, prompts in sets.items()
        }
        yield ComparedModel(name, source, own, found)


def _looked_up(
    model: Model, tokenizer: Tokenizer | None, progress: Progress
) -> tuple[str, Model, ModelConfig, Tokenizer | None]:
    """Return name, source, shape and tokenizer of a model."""
    if isinstance(model, Transformer):
        return model.config.name, model, model.config, tokenizer
    if str(model) == TINY:
        return TINY, TINY, tiny().config, None
    folder = resolve(model, progress=progress)
    return str(model), folder, read_config(folder), Tokenizer(folder)
