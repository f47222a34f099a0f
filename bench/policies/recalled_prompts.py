"""Prompts that are read once, though every selector has an engine of its own.

A prompt's keys and values do not depend on who reads them sparsely afterwards. The first engine leaves them as its
model handed them to attention; later ones append them again, without a forward, for all but the prompt's last `TAIL`
tokens. These are read as ever, because selectors look at a prompt's last queries. On a CPU, reading prompts is most of
the time of a run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsespec.attention.reference import ReferenceAttention
from sparsespec.attention.step import Bound
from sparsespec.core.batch import Batch
from sparsespec.core.config import Geometry
from sparsespec.core.plan import Phase, StepPlan
from sparsespec.core.protocols import AttentionSide, Selection
from sparsespec.core.view import View
from sparsespec.models.transformer import Attend, Transformer
from sparsespec.sched.lockstep import Lockstep
from sparsespec.sched.prefill import prefill_rows

CHUNK = 2048
"""Tokens of prompts read in one step, where nothing is recalled."""
PART = 256
"""Tokens of prompts read in one step of a run that recalls prompts: large tensors are slow to come by on a CPU."""
TAIL = 64
"""Tokens of a prompt that are always read."""
RECALLED = 8192
"""Tokens recalled in one step, at most."""


class Prompts:
    """Keys and values of prompts of one length; the request with seed i has prompt i modulo their number.

    Attributes:
        tail: Tokens of each prompt that are always read.
        known: Tokens of each prompt that are recalled once they have been read.
        complete: Whether an engine has read them.
        step: The prompt and position of each token of the step at hand, if that is only recalled.
    """

    def __init__(self, model: Transformer, n_prompts: int, context: int, tail: int = TAIL) -> None:
        config = model.config
        size = (2, config.n_layers, n_prompts, context, config.n_kv_heads, config.head_dim)
        self._kept = torch.empty(size, dtype=model.dtype, device=model.device)
        self.tail = tail
        self.begin(context)
        self.complete = False
        self.step: tuple[Tensor, Tensor] | None = None

    def begin(self, context: int) -> None:
        """Take the first `context` tokens of each prompt for the whole of it."""
        assert context <= self._kept.shape[3], "longer prompts come first"
        self.known = max(0, context - self.tail)

    def prompt_of(self, batch: Batch) -> Tensor:
        """Return the prompt of each token of a step."""
        return batch.state.seed[batch.seat][batch.row_of] % self._kept.shape[2]

    def keep(self, layer: int, prompt: Tensor, position: Tensor, k: Tensor, v: Tensor) -> None:
        """Keep k and v [tokens, Hkv, D] of a layer."""
        self._kept[0, layer, prompt, position] = k
        self._kept[1, layer, prompt, position] = v

    def of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return k and v of a layer for the tokens of the step."""
        assert self.step is not None, "the step is not one that is recalled"
        return self._kept[0, layer][self.step], self._kept[1, layer][self.step]


class Recalling(ReferenceAttention):
    """Keeps the prompts that it sees while they are not complete, and recalls them afterwards."""

    prompts: Prompts

    def bind(self, geometry: Geometry, model: AttentionSide, k_pages: Tensor, v_pages: Tensor) -> None:
        """See `core.protocols.Attention.bind`."""
        super().bind(geometry, model, k_pages, v_pages)
        self.pool = Bound(geometry, model, k_pages, v_pages)

    def plan(self, batch: Batch, choice: Selection | None) -> None:
        """Prepare for a step, and find out whether it can be recalled."""
        super().plan(batch, choice)
        self.batch, prompts = batch, self.prompts
        filling = batch.phase == Phase.PREFILL
        known = filling & (batch.start + batch.live <= prompts.known)
        self._kept = (batch.alive & filling[batch.row_of]).nonzero()[:, 0]
        self._prompt = prompts.prompt_of(batch)
        recalled = prompts.complete and bool((known | (batch.live == 0)).all())
        prompts.step = (self._prompt, batch.positions) if recalled else None

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend; or append only, and return q, which nothing reads."""
        prompts = self.prompts
        if prompts.step is not None:
            return self.pool.append(self.batch, layer, q, k, v, impl="reference")
        if not prompts.complete and len(self._kept):
            at = self._kept
            prompts.keep(layer, self._prompt[at], self.batch.positions[at], k[at], v[at])
        return super().run(layer, q, k, v)


class Recalled(Transformer):
    """A model that is not run where its keys and values are known."""

    def __init__(self, model: Transformer, prompts: Prompts) -> None:
        super().__init__(model.config, model.parameters)
        self._prompts = prompts

    def forward(self, tokens: Tensor, attend: Attend) -> Tensor:
        """See `Transformer.forward`; the hidden states of a step that is recalled are 0."""
        if self._prompts.step is None:
            return super().forward(tokens, attend)
        config, n = self.config, len(tokens)
        q = self.parameters.embed.new_zeros(n, config.n_heads, config.head_dim)
        for layer in range(config.n_layers):
            attend(layer, q, *self._prompts.of(layer))
        return q.new_zeros(n, config.hidden)


class Gathering(Lockstep):
    """Fills all that is known of the prompts, then all tails, and lets no request decode before."""

    def __init__(self, tail: int) -> None:
        super().__init__(PART)
        self.tail = tail

    def plan(self, view: View) -> StepPlan:
        """See `core.protocols.Scheduler.plan`."""
        known = (view.to_prefill - self.tail).clip(min=0)
        if known.any():
            return StepPlan(prefill_rows(replace(view, to_prefill=known), RECALLED))
        if view.to_prefill.any():
            return StepPlan(prefill_rows(view, self.chunk))
        return super().plan(view)


def reading(model: Transformer, prompts: Prompts | None) -> tuple[Transformer, dict[str, Any]]:
    """Return the model and the parts of an engine that keeps or recalls `prompts`, or does neither for None."""
    if prompts is None:
        return model, {"scheduler": f"lockstep(chunk={CHUNK})"}
    # an option of a part is a plain value, which prompts are not
    attention = Recalling()
    attention.prompts = prompts
    return Recalled(model, prompts), {"scheduler": Gathering(prompts.tail), "attention": attention}
