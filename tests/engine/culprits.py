"""Parts that break on purpose, once or for one request, and models whose logits do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sparsespec.core.plan import Lengths, Phase, Row, StepPlan
from sparsespec.core.result import RowResults
from sparsespec.core.view import Ints, View
from sparsespec.models.transformer import Transformer
from sparsespec.policies.lengths.fixed import Fixed
from sparsespec.policies.selectors.window import Window
from sparsespec.sampling.shared_noise import SharedNoise
from sparsespec.sched.lockstep import Lockstep
from sparsespec.testing.cases import model_of
from tests.engine.running import KEY


class ProposesNot(Fixed):
    """Cannot propose for one request, once it has come some way."""

    def __init__(self, number: int = 1, after: int = 0) -> None:
        super().__init__(draft=4)
        self.number, self.after = number, after

    def propose(self, view: View, index: Ints) -> Lengths:
        if ((view.arrival[index] == self.number) & (view.n_lo[index] >= self.after)).any():
            raise ValueError("no proposal")
        return super().propose(view, index)


class ObservesNot(Fixed):
    """Cannot observe the first row of one phase that is collected from seat 1, among others or alone."""

    def __init__(self, phase: str = "VERIFY") -> None:
        super().__init__(draft=4)
        self.phase, self._armed = phase, True

    def observe(self, results: RowResults) -> None:
        if self._armed and ((results.seat == 1) & (results.phase == Phase[self.phase])).any():
            # asked again row by row, it raises once more
            self._armed = len(results) > 1
            raise KeyError("no observation")


class Fuse:
    """Blows once, at a chosen call."""

    def __init__(self, at: int) -> None:
        self.left = at

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("the fuse blew")


class _Fused(Window):
    """Blows at its n-th call of a verb."""

    def __init__(self, at: int = 5) -> None:
        super().__init__(budget=0.3, min_budget=8)
        self.at, self._fuse = at, Fuse(at)


class SelectsNot(_Fused):
    def select(self, batch: Any) -> Any:
        self._fuse.burn()
        return super().select(batch)


class LearnsNot(_Fused):
    """Cannot observe, when everything else of the step is done."""

    def observe(self, outcome: Any) -> None:
        self._fuse.burn()


class ForgetsNot(_Fused):
    """Cannot forget, outside any round; the first call is at the start, for all seats."""

    def reset(self, seats: Sequence[int]) -> None:
        self._fuse.burn()


class JudgesNot(SharedNoise):
    """Cannot judge at its n-th call."""

    def __init__(self, at: int = 5) -> None:
        self.at, self._fuse = at, Fuse(at)

    def verify(self, logits: Tensor, rows: Any, q: Tensor | None) -> Any:
        self._fuse.burn()
        return super().verify(logits, rows, q)


class PlansIllegally(Lockstep):
    """Returns one illegal plan, at the first step in which `how` can be done."""

    def __init__(self, how: str = "twice") -> None:
        super().__init__()
        self.how, self.done = how, False

    def plan(self, view: View) -> StepPlan:
        rows = list(super().plan(view).rows)
        wrong = None if self.done else _WRONG[self.how](rows)
        self.done |= wrong is not None
        return StepPlan(tuple(rows if wrong is None else wrong))


def _change(rows: list[Row], phase: Phase | None, **changes: int) -> list[Row] | None:
    """Return the rows, the first of `phase` changed by so much; None if there is none."""
    for i, row in enumerate(rows):
        if phase in (None, row.phase):
            values = {name: getattr(row, name) + by for name, by in changes.items()}
            new = Row(row.seat, row.phase, values.get("n_query", row.n_query), values.get("k", row.k))
            return [*rows[:i], new, *rows[i + 1 :]]
    return None


_WRONG: dict[str, Any] = {
    "twice": lambda rows: [*rows, rows[0]] if rows else None,
    "nobody": lambda rows: [*rows, Row(17, Phase.VERIFY, 1, 0)],
    "prefill too much": lambda rows: _change(rows, Phase.PREFILL, n_query=1),
    "draft before it is filled": lambda rows: [Row(rows[0].seat, Phase.DRAFT, 1, 4)],
    "draft with more queries": lambda rows: _change(rows, Phase.DRAFT, n_query=1),
    "a longer round": lambda rows: _change(rows, Phase.DRAFT, k=1),
    "verify with fewer queries": lambda rows: _change(rows, Phase.VERIFY, n_query=-1),
    "verify with more queries": lambda rows: _change(rows, Phase.VERIFY, n_query=1),
}
ILLEGAL = tuple(_WRONG)


WHOLE = model_of(KEY)


class Poisoned(Transformer):
    """The tiny model, with one logit row of one call spoilt.

    Args:
        at: Which call of `logits`, from 1.
        row: Which of its rows.
        value: What the row becomes.
    """

    def __init__(self, at: int, row: int, value: float) -> None:
        super().__init__(WHOLE.config, WHOLE.parameters)
        self.left, self.row, self.value = at, row, value

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden)
        self.left -= 1
        if self.left == 0:
            logits[self.row, : 1 if self.value > 0 else None] = self.value
        return logits


class Faulty(Transformer):
    """The tiny model, whose n-th forward does not happen."""

    def __init__(self, at: int) -> None:
        super().__init__(WHOLE.config, WHOLE.parameters)
        self.fuse = Fuse(at)

    def forward(self, tokens: Tensor, attend: Any) -> Tensor:
        self.fuse.burn()
        return super().forward(tokens, attend)
