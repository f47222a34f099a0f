"""The composition that the command line asks for, checked before anything is fetched, and made into an `LLM`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsespec.cli.screen import Bars
from sparsespec.core.errors import BadRequest
from sparsespec.engine.compose import compose
from sparsespec.engine.parts import Parts
from sparsespec.llm import LLM, load_model
from sparsespec.models.tokenizer import Tokenizer
from sparsespec.models.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Composition:
    """A model by name and a preset; `changes` are parts by shelf and the loop."""

    model: str
    dtype: str
    preset: str
    changes: Mapping[str, Any]

    def parts(self) -> Parts:
        """Return the finished parts; raises what is wrong with them, before minutes of fetching."""
        return compose(self.preset, self.changes)[0]

    def load(self, bars: Bars) -> tuple[Transformer, Tokenizer]:
        """Return the model and its tokenizer; one without a tokenizer is refused."""
        model, tokenizer = load_model(self.model, self.dtype, progress=bars)
        bars.hide()
        if tokenizer is None:
            raise BadRequest(f"the model {self.model!r} has no tokenizer; use it from Python, with token ids")
        return model, tokenizer

    def open(self, model: Transformer, tokenizer: Tokenizer, *, max_model_len: int, max_num_seqs: int) -> LLM:
        """Return an `LLM` of these sizes, with no more tokens per request than the model takes."""
        sizes = {"max_model_len": min(model.config.max_model_len, max_model_len), "max_num_seqs": max_num_seqs}
        return LLM(model, self.preset, tokenizer=tokenizer, **sizes, **self.changes)
