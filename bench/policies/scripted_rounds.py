"""Drafts of one selector along texts that are fixed beforehand, by the engine itself.

Two parts of an engine are replaced. The proposer `Prompter` is asked before every forward, so before a verification it
takes down what was drafted and puts the text's own tokens in place of the drafts; the verifier `Scripted` then commits
these tokens and the one behind them. So every round of `draft` tokens moves on by `draft` + 1, wherever its drafts
were rejected: rounds begin at the same positions of the same text for all selectors, with the same KV, and with the
scores of a verification of the text itself. All else, the drafting included, is the engine's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.policies.recalled_prompts import Prompts, reading
from sparsespec.core.batch import Outcome, State, VerifyInputs, VerifyOutput
from sparsespec.core.config import Geometry
from sparsespec.core.errors import SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.core.plan import Phase
from sparsespec.core.registry import make
from sparsespec.core.result import RowResult
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import Completion
from sparsespec.models.transformer import Transformer
from sparsespec.sampling.shared_noise import SharedNoise

PAGE = 16


@dataclass(frozen=True)
class Script:
    """Texts, and what was drafted along them. Request i has seed i, by which rows find their text.

    Attributes:
        tokens: [requests, context + rounds × (draft + 1)], the first `context` of them prompt.
        context: Tokens of a prompt.
        drafts: [requests + 1, rounds, draft], -1 before they are drafted; the last request takes all other rows.
    """

    tokens: Tensor
    context: int
    drafts: Tensor

    @classmethod
    def of(cls, tokens: Tensor, context: int, draft: int) -> Script:
        """Return a script that waits for its drafts."""
        rounds = (tokens.shape[1] - context) // (draft + 1)
        drafts = torch.full((len(tokens) + 1, rounds, draft), -1, dtype=torch.int64, device=tokens.device)
        return cls(tokens, context, drafts)

    def at(self, request: Tensor, first: Tensor, width: int) -> Tensor:
        """Return `width` tokens of each request from position `first` on, [B, width]."""
        column = first[:, None] + torch.arange(width, device=first.device)
        return self.tokens[request[:, None], column.clamp(max=self.tokens.shape[1] - 1)]


class Prompter:
    """Proposes nothing; takes drafts down before they are verified, and puts the script in their place."""

    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset({"capturable"})
    guesses = True

    script: Script

    def bind(self, geometry: Geometry) -> None:
        """Allocate nothing."""

    def reset(self, seats: Sequence[int]) -> None:
        """Forget nothing."""

    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        """Return zeros."""
        script, first = self.script, state.n_committed[seat]
        n_requests, rounds, draft = script.drafts.shape
        request = state.seed[seat].clamp(0, n_requests - 2)
        number = ((first - script.context) // (draft + 1)).clamp(0, rounds - 1)
        # a round that waits for others after its last draft is seen twice
        fresh = (known == first) & (state.n_drafted[seat] == draft) & (script.drafts[request, number, 0] < 0)
        column = first[:, None] + torch.arange(draft, device=first.device)
        column = column.clamp(max=state.tokens.shape[1] - 1)
        drafts = state.tokens[seat[:, None], column]
        script.drafts[torch.where(fresh, request, n_requests - 1), number] = drafts
        text = script.at(request, first, draft)
        state.tokens[seat[:, None], column] = torch.where(fresh[:, None], text, drafts)
        return torch.zeros_like(room)

    def observe(self, outcome: Outcome) -> None:
        """Learn nothing."""


class Scripted(SharedNoise):
    """Samples drafts as `shared-noise` does, and accepts every candidate of a verification."""

    script: Script

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        """See `core.protocols.Verifier.verify`."""
        sampled, script = super().verify(logits, rows, q), self.script
        verified = (rows.level == 0) & (rows.count >= 0)
        request = rows.seed.clamp(0, len(script.tokens) - 1)
        text = script.at(request, rows.position, sampled.tokens.shape[1])
        return VerifyOutput(
            torch.where(verified[:, None], text, sampled.tokens),
            torch.where(verified, rows.count + 1, sampled.emitted),
            torch.where(verified, rows.count, sampled.accepted),
        )


def decode(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    params: Sequence[SamplingParams],
    collect: Callable[[RowResult], object] = lambda result: None,
) -> list[Completion]:
    """Return the completions in the order of the prompts, and close the engine; `collect` is called with every row."""
    places = {engine.add(prompt, one): i for i, (prompt, one) in enumerate(zip(prompts, params, strict=True))}
    found: dict[int, Completion] = {}
    while engine.has_work:
        result = engine.step()
        for row in result.info.collected:
            collect(row)
        for event in result.events:
            if event.completion is not None:
                if event.completion.error:
                    raise SparseSpecError(event.completion.error)
                found[places[event.request_id]] = event.completion
    engine.close()
    return [found[i] for i in range(len(prompts))]


def sizes(n_requests: int, length: int) -> dict[str, Any]:
    """Return the options of an engine that holds all requests at once."""
    blocks = -(-length // PAGE)
    return {
        "max_num_seqs": n_requests,
        "max_model_len": length,
        "block_size": PAGE,
        "num_gpu_blocks": 1 + n_requests * blocks,
    }


def drafted(
    model: Transformer,
    selector: str,
    script: Script,
    sampling: Sequence[SamplingParams],
    prompts: Prompts | None = None,
) -> tuple[Tensor, list[float]]:
    """Return the drafts of a selector [requests, rounds, draft], and the share of KV that those of each request read.

    The share is that of all rounds but the first.

    Args:
        model: The model.
        selector: What is written behind `selector/`.
        script: The texts; its drafts are taken along.
        sampling: How each request samples.
        prompts: What is known of the prompts, if anything.
    """
    rounds, draft = script.drafts.shape[1:]
    n_requests = len(script.tokens)
    # all requests are seated at once, in order: a seat is a request
    read, full = [0.0] * n_requests, [0.0] * n_requests

    def collect(row: RowResult) -> None:
        if row.phase is Phase.DRAFT and row.kv_full > script.context + draft:
            read[row.seat] += row.kv_read
            full[row.seat] += row.kv_full

    reader, parts = reading(model, prompts)
    prompter, scripted = Prompter(), Scripted()
    # an option of a part is a plain value, which a script is not
    prompter.script = scripted.script = script
    engine = Engine.compose(
        reader,
        "dense",
        selector=make(selector, shelf="selector"),
        length=f"fixed(draft={draft},guess=1)",
        proposer=prompter,
        verifier=scripted,
        **parts,
        **sizes(n_requests, script.tokens.shape[1]),
    )
    done = decode(engine, script.tokens[:, : script.context].tolist(), sampling, collect)
    found = script.drafts[:-1].cpu()
    assert bool((found >= 0).all()), "a round was not seen"
    assert all(one.metrics.num_spec_rounds == rounds for one in done), "a round was cut short"
    return found, [a / b for a, b in zip(read, full, strict=True)]
