"""A case: one engine, one tiny model and a few requests, all a function of a seed.

A failing example prints as one line, `case_of(...)` with the spec behind it, and that call makes it again without
Hypothesis. Every request is drawn from a seed of its own, so taking one away leaves the others as they were.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

from sparsespec.core.params import SamplingParams
from sparsespec.core.spec import EngineSpec
from sparsespec.engine.engine import Engine
from sparsespec.engine.lazy import LazyDevice
from sparsespec.models.config import FAMILIES
from sparsespec.models.tiny import tiny
from sparsespec.models.transformer import Transformer
from sparsespec.testing.compositions import draw_spec

ModelKey = tuple[str, int]

VOCAB, EOS, MAX_MODEL_LEN = 61, 60, 256
VERIFIERS = ("shared-noise", "shared-noise", "greedy", "rejection")
"""Drawn evenly, so the only one that is token-exact when sampled comes twice."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a case.

    Attributes:
        prompt: Its tokens.
        params: How it is sampled.
        at: Step before which it is added.
        abort: Step before which it is aborted, None for never.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    at: int = 0
    abort: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    """What to run.

    Attributes:
        spec: The engine, its own options included.
        model_key: Family and seed of the tiny model, for `model_of`.
        requests: What is asked of it, in the order of `at`.
        early: Chance that the lazy device runs a launch at once.
        seed: Seed of that chance.
        origin: The call that makes this case again.
    """

    spec: EngineSpec
    model_key: ModelKey
    requests: tuple[Ask, ...]
    early: float
    seed: int
    origin: str = ""

    def __repr__(self) -> str:
        sizes = " ".join(f"{len(ask.prompt)}+{ask.params.max_tokens}x{ask.params.n}" for ask in self.requests)
        return f"{self.origin} [{self.spec} model={self.model_key} early={self.early} requests={sizes}]"


@cache
def model_of(key: ModelKey, dtype: str = "float64") -> Transformer:
    """Return the tiny model of a family and seed; token `EOS` ends its texts."""
    family, seed = key
    return tiny(family, vocab=VOCAB, max_model_len=MAX_MODEL_LEN, eos_ids=(EOS,), seed=seed, dtype=dtype)


def engine_of(case: Case, **changes: Any) -> Engine:
    """Return the engine of a case on a lazy device, its parts changed by shelf if asked to."""
    return Engine.compose(model_of(case.model_key), case.spec, device=LazyDevice(case.early, case.seed), **changes)


def case_of(
    seed: int,
    *,
    verifiers: Sequence[str] = VERIFIERS,
    n_requests: int | None = None,
    longest: int = 60,
    max_tokens: int = 24,
) -> Case:
    """Return the case of a seed; a pure function of its arguments.

    Requests are greedy where the verifier is not `shared-noise`: only then are tokens, not just laws, those of `dense`.

    Args:
        seed: Any integer; neighbouring ones have nothing in common.
        verifiers: Names to draw from.
        n_requests: How many requests; None draws 1 to 4.
        longest: Prompt tokens at most.
        max_tokens: New tokens of a request at most.
    """
    dice = _dice(seed, "engine")
    spec = draw_spec(dice, verifiers)
    sampled = spec.verifier.name == "shared-noise"
    count = n_requests or _dice(seed, "count").randint(1, 4)
    asks = [_ask(_dice(seed, f"request {i}"), i, longest, max_tokens, sampled) for i in range(count)]
    arguments = f"{seed}, verifiers={tuple(verifiers)}, n_requests={count}, longest={longest}, max_tokens={max_tokens}"
    return Case(
        spec=spec.replace(engine={**_engine_options(dice, asks), "graphs": _dice(seed, "graphs").random() < 0.5}),
        model_key=(dice.choice(FAMILIES), dice.randrange(3)),
        requests=tuple(sorted(asks, key=lambda ask: ask.at)),
        early=dice.choice((0.0, 0.0, 0.3, 0.7)),
        seed=seed & 0xFFFFFFFF,
        origin=f"case_of({arguments})",
    )


def _dice(seed: int, what: str) -> random.Random:
    """Return a generator of its own for each purpose; hashed, so that small seeds cover as much as large ones."""
    return random.Random(blake2b(f"{seed}/{what}".encode(), digest_size=16).digest())


def _engine_options(dice: random.Random, asks: Sequence[Ask]) -> dict[str, Any]:
    """Return sizes from "fits exactly the largest request" to ample."""
    block_size = dice.choice((1, 2, 4, 16))
    limits = [len(ask.prompt) + ask.params.max_tokens for ask in asks]
    # the last token is never fed back, so its KV needs no place
    pages = [-(-(limit - 1) // block_size) for limit in limits for _ in range(2)]
    least, most = max(1, *pages), sum(pages) + 4
    n_pages = 1 + dice.choice((least, least, least, least + dice.randint(0, least), most))
    return {
        "max_num_seqs": dice.choice((1, 2, 3, 4, 4)),
        "max_model_len": dice.choice((max(limits), MAX_MODEL_LEN)),
        "block_size": block_size,
        "num_gpu_blocks": n_pages,
        "seed": dice.randrange(1 << 32),
        "checked": True,
    }


def _ask(dice: random.Random, index: int, longest: int, max_tokens: int, sampled: bool) -> Ask:
    length = dice.choice((1, 2, dice.randint(1, longest), *(dice.randint(-(-longest // 2), longest) for _ in range(4))))
    at = 0 if index == 0 else dice.choice((0, 0, dice.randint(1, 12)))
    abort = at + dice.randint(0, 25) if dice.random() < 0.1 else None
    return Ask(_prompt(dice, min(length, longest)), _params(dice, max_tokens, sampled), at, abort)


def _prompt(dice: random.Random, length: int) -> tuple[int, ...]:
    """Return a prompt that repeats itself with small changes, so that looking it up finds something."""
    motif = [dice.randrange(VOCAB) for _ in range(dice.randint(2, 9))]
    text = [token if dice.random() < 0.85 else dice.randrange(VOCAB) for token in motif * length]
    return tuple(text[:length])


def _params(dice: random.Random, max_tokens: int, sampled: bool) -> SamplingParams:
    values: dict[str, Any] = {"temperature": 0.0}
    if sampled and dice.random() < 0.75:
        values["temperature"] = dice.choice((0.3, 0.8, 1.0, 1.3))
        values["top_k"] = dice.choice((0, 0, 5, 20))
        values["top_p"] = dice.choice((1.0, 1.0, 0.95, 0.5))
        values["min_p"] = dice.choice((0.0, 0.0, 0.05, 0.2))
    if dice.random() < 0.3:
        values["stop_token_ids"] = tuple(dice.sample(range(VOCAB), dice.randint(1, 12)))
    if dice.random() < 0.1:
        values["logprobs"] = dice.randint(0, 3)
    return SamplingParams(
        **values,
        max_tokens=dice.choice((1, dice.randint(1, max_tokens), dice.randint(-(-max_tokens // 2), max_tokens))),
        seed=dice.choice((dice.getrandbits(64), dice.getrandbits(64), dice.randrange(3), None)),
        ignore_eos=dice.random() < 0.5,
        n=dice.choice((1, 1, 1, 2, 3)),
        speculate=dice.random() < 0.95,
    )
