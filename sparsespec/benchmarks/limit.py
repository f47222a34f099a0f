"""The roofline of a composition: `core/roofline.py`, with the products of this model timed in this run.

A round of k drafts and a verification is spread evenly over k + 1 steps, each of which multiplies the tokens of all
rows with all weights. Dense decoding is a round without drafts; guesses without drafts widen its steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from sparsespec.benchmarks.timing import time_calls
from sparsespec.core.curve import Curve
from sparsespec.core.roofline import Roofline
from sparsespec.models.transformer import Transformer

Seconds = Callable[[float], float]
"""Seconds by query tokens."""


@dataclass(frozen=True)
class Round:
    """What all rows do: `share` is the part of the context that a draft reads."""

    rows: int
    context: float
    draft: int = 0
    guess: int = 0
    share: float = 0.0
    mean_acceptance_length: float = 1.0


@dataclass(frozen=True)
class Machine:
    """Seconds of all products of all layers and of the LM head by tokens; KV bytes of a token; bytes read a second."""

    layers: Seconds
    head: Seconds
    token_bytes: int
    bytes_per_second: float


def limit(machine: Machine, round_: Round) -> float:
    """Return tokens per second at the roofline."""
    tokens = round_.rows * (2 * round_.draft + 1 + round_.guess) / (round_.draft + 1)
    # curves of one point: that of the step which is asked for
    roofline = Roofline(
        Curve(((tokens, machine.layers(tokens)),)),
        Curve(((tokens, machine.head(tokens)),)),
        machine.token_bytes,
        machine.bytes_per_second,
    )
    # with guesses a round of no drafts yields more than the one token that the roofline takes it for
    per_round = roofline.round(
        round_.rows, round_.context, k=round_.draft, share=round_.share, mean_acceptance_length=1.0
    )
    return per_round * round_.mean_acceptance_length


class Products:
    """Seconds of a model's products on its GPU, from graph replays, measured once per number of tokens."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._known: dict[tuple[str, int], float] = {}

    def layers(self, tokens: float) -> float:
        """Return the seconds of all products of all layers."""
        return self._timed("layers", math.ceil(tokens))

    def head(self, tokens: float) -> float:
        """Return the seconds of the LM head."""
        return self._timed("head", math.ceil(tokens))

    def _timed(self, what: str, n: int) -> float:
        if (what, n) not in self._known:
            parameters = self._model.parameters
            # each call takes weights of its own, so that none finds them in a cache
            owners = [(w.qkv, w.o, w.gate_up, w.down) for w in parameters.layers]
            weights = [(parameters.head,)] if what == "head" else owners
            micros = time_calls([self._call(each, n) for each in weights]).p50
            self._known[what, n] = 1e-6 * len(weights) * micros
        return self._known[what, n]

    def _call(self, weights: Sequence[Tensor], n: int) -> Callable[[], object]:
        # not ones: a product of equal numbers takes less power, and so less time
        like = {"dtype": self._model.dtype, "device": self._model.device}
        inputs = [torch.randn(n, w.shape[1], **like) for w in weights]
        return lambda: [linear(x, w) for x, w in zip(inputs, weights, strict=True)]
