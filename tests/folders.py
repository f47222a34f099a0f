"""A model folder with weights, tokenizer and chat template, small enough to be written in a moment."""

from __future__ import annotations

from pathlib import Path

from sparsespec.models.tokenizer import Tokenizer
from tests.models.checkpoints import reference_model
from tests.models.tokenizers import byte_level

CONTEXT = 512


def tiny_folder(folder: Path, context: int = CONTEXT) -> Path:
    """Write the folder; its texts go on until they are cut off."""
    byte_level(folder)
    vocab = Tokenizer(folder).vocab
    model = reference_model("llama", vocab_size=vocab, max_position_embeddings=context, eos_token_id=0)
    model.save_pretrained(folder)
    return folder
