"""What the host collects of a step once its event has passed: plain numbers and tokens, no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from sparsespec.core.plan import PHASES, Phase
from sparsespec.core.view import Floats, Index, Ints

Logprobs = tuple[tuple[int, float], ...]
"""((token, logprob), …), the emitted token first."""


class RowResult(NamedTuple):
    """The outcome of one DRAFT or VERIFY row (a PREFILL row has no outcome).

    Attributes:
        seat: Seat of the request when the row was launched.
        phase: DRAFT or VERIFY.
        live: Query tokens that really ran, 0 … n_query.
        tokens: Tokens the row emitted: drafts of a DRAFT row, committed tokens of a VERIFY row.
        n_candidates: Tokens the row judged: guesses of a DRAFT row, drafts (or guesses where k = 0) of a VERIFY row.
        n_accepted: How many of them were accepted.
        k: Length of the round, lower than planned if the device ended it early.
        confidence: Top-1 probability at the newest draft of a DRAFT row, else NaN.
        kv_read: KV tokens the row read, mean over layers.
        kv_full: KV tokens a row without a selection would have read.
        logprobs: For each token of a VERIFY row its log-probabilities; empty unless asked for.
    """

    seat: int
    phase: Phase
    live: int
    tokens: tuple[int, ...]
    n_candidates: int
    n_accepted: int
    k: int
    confidence: float
    kv_read: float
    kv_full: float
    logprobs: tuple[Logprobs, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RowResults(Sequence[RowResult]):
    """Outcomes that read like a tuple of `RowResult` and are kept as columns, because a step has hundreds of them.

    The columns are [R] and have the names of the fields of `RowResult`, besides:

    Attributes:
        n_emitted: [R], tokens each row emitted.
        tokens: [R, width]; the first `n_emitted` of each row count.
        logprobs: One entry a row, or nothing where no row asked for any.
    """

    seat: Ints
    phase: Ints
    live: Ints
    n_emitted: Ints
    tokens: Ints
    n_candidates: Ints
    n_accepted: Ints
    k: Ints
    confidence: Floats
    kv_read: Floats
    kv_full: Floats
    logprobs: tuple[tuple[Logprobs, ...], ...] = ()

    @classmethod
    def of(cls, rows: Sequence[RowResult]) -> RowResults:
        """Return `rows` as columns."""
        width = max((len(row.tokens) for row in rows), default=0)
        tokens = np.zeros((len(rows), width), dtype=np.int64)
        for i, row in enumerate(rows):
            tokens[i, : len(row.tokens)] = row.tokens

        def ints(name: str) -> Ints:
            return np.array([getattr(row, name) for row in rows], dtype=np.int64)

        def floats(name: str) -> Floats:
            return np.array([getattr(row, name) for row in rows], dtype=np.float64)

        return cls(
            seat=ints("seat"),
            phase=ints("phase"),
            live=ints("live"),
            n_emitted=np.array([len(row.tokens) for row in rows], dtype=np.int64),
            tokens=tokens,
            n_candidates=ints("n_candidates"),
            n_accepted=ints("n_accepted"),
            k=ints("k"),
            confidence=floats("confidence"),
            kv_read=floats("kv_read"),
            kv_full=floats("kv_full"),
            logprobs=tuple(row.logprobs for row in rows) if any(row.logprobs for row in rows) else (),
        )

    def take(self, index: Index) -> RowResults:
        """Return the rows at `index`, in its order."""
        columns = {name: getattr(self, name)[index] for name in self.__slots__ if name != "logprobs"}
        logprobs: tuple[tuple[Logprobs, ...], ...] = ()
        if self.logprobs:
            chosen: list[int] = np.arange(len(self))[index].tolist()
            logprobs = tuple(self.logprobs[i] for i in chosen)
        return RowResults(**columns, logprobs=logprobs)

    def __len__(self) -> int:
        return len(self.seat)

    def __iter__(self) -> Iterator[RowResult]:
        emitted = self.n_emitted.tolist()
        tokens = [tuple(row[:n]) for row, n in zip(self.tokens.tolist(), emitted, strict=True)]
        columns: Any = (
            self.seat.tolist(),
            [PHASES[phase] for phase in self.phase.tolist()],
            self.live.tolist(),
            tokens,
            self.n_candidates.tolist(),
            self.n_accepted.tolist(),
            self.k.tolist(),
            self.confidence.tolist(),
            self.kv_read.tolist(),
            self.kv_full.tolist(),
            self.logprobs or [()] * len(self),
        )
        return map(RowResult._make, zip(*columns, strict=True))

    @overload
    def __getitem__(self, i: int) -> RowResult: ...
    @overload
    def __getitem__(self, i: slice) -> RowResults: ...
    def __getitem__(self, i: int | slice) -> RowResult | RowResults:
        if isinstance(i, slice):
            return self.take(np.arange(len(self))[i])
        return next(iter(self.take(np.arange(len(self))[[i]])))
