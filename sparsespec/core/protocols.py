"""The promises between rooms: one protocol per shelf, satisfied by shape and never by inheritance.

Policies (`Selector`, `Proposer`, `Length`, `Scheduler`) have three methods: `reset(seats)` forgets those seats only,
one acts, `observe` learns. Backends (`Attention`, `Verifier`, `Tiers`) have methods of their own. A constructor stores
hyper-parameters and nothing else; `bind` allocates, once. Every class states what it `needs` and what it `provides`:

- `scores`: attention probabilities of chosen queries of rows that read everything;
- `step_query`: a look at the query and keys of each draft step;
- `host_lengths`, `host_tokens`: the host knows all lengths, or tokens, when it plans (loop `sync` only);
- `draft_probs`: the logits that each draft was sampled from are kept;
- `capturable`: all device work can be recorded in a CUDA graph;
- `batch_invariant`: a query gets the same bits whoever its neighbours are, and however many queries its row has.

A selector, proposer, length policy, scheduler or tier manager may be arbitrarily wrong: only speed changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from sparsespec.core.batch import Batch, Chosen, LayerKeys, Outcome, State, VerifyInputs, VerifyOutput
    from sparsespec.core.config import Geometry
    from sparsespec.core.plan import Lengths, Move, Placed, StepPlan
    from sparsespec.core.result import RowResults
    from sparsespec.core.view import Ints, View


@runtime_checkable
class Selection(Protocol):
    """What a selector chose for the DRAFT rows of a step, asked layer by layer."""

    def at(self, layer: int, q: Tensor, keys: LayerKeys) -> Chosen:
        """Return the positions of `layer`; `q` [N, Hq, D] is normed and rotated, `keys` includes this step's."""
        ...

    def see(self, layer: int, scores: Tensor) -> None:
        """Take the scores of `layer`, [groups, B, S] float32: mean probability a scored query gives each position.

        Higher is more read. Rows that were not scored are zero, and so are positions a row does not hold.
        """
        ...


@runtime_checkable
class Selector(Protocol):
    """Decides which KV a draft reads. Device state; every method runs in stream order."""

    needs: frozenset[str]  #: capabilities that other parts must give
    provides: frozenset[str]  #: capabilities that others may need
    drafts: bool  #: whether there is a draft level at all
    scored: tuple[int, int]  #: leading and trailing live queries to score; (0, 0) without `scores`

    def num_groups(self, n_kv_heads: int) -> int:
        """Return how many lists of positions a layer has, a divisor of `n_kv_heads`; raises `BadOption`."""
        ...

    def bind(self, geometry: Geometry) -> None:
        """Allocate."""
        ...

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats: until scored again they read everything."""
        ...

    def select(self, batch: Batch) -> Selection:
        """Return the selection for this step; a read of device state."""
        ...

    def observe(self, outcome: Outcome) -> None:
        """Learn from a settled step."""
        ...


@runtime_checkable
class Proposer(Protocol):
    """Makes cheap guesses without a forward pass. Device state; every method runs in stream order."""

    needs: frozenset[str]  #: capabilities that other parts must give
    provides: frozenset[str]  #: capabilities that others may need
    guesses: bool  #: whether it ever guesses

    def bind(self, geometry: Geometry) -> None:
        """Allocate."""
        ...

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats."""
        ...

    def propose(self, state: State, seat: Tensor, known: Tensor, room: Tensor) -> Tensor:
        """Write up to `room[b]` guesses at `state.tokens[seat[b], known[b]:]` and return counts [B], 0 … room."""
        ...

    def observe(self, outcome: Outcome) -> None:
        """Learn from a settled step."""
        ...


@runtime_checkable
class Length(Protocol):
    """Decides how far a round drafts. Host state, integers and floats."""

    needs: frozenset[str]  #: capabilities that other parts must give
    provides: frozenset[str]  #: capabilities that others may need
    max_draft: int  #: no proposal drafts more
    max_guess: int  #: no proposal asks for more guesses

    def bind(self, geometry: Geometry) -> None:
        """Learn the sizes."""
        ...

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats."""
        ...

    def propose(self, view: View, index: Ints) -> Lengths:
        """Return the lengths of the rounds that the rows `index` [n] of the view begin, perhaps `lag` rounds stale.

        Each column is a number for all of them, or an array [n].
        """
        ...

    def observe(self, results: RowResults) -> None:
        """Learn from the rows of a step that were collected, all of requests that still run."""
        ...


@runtime_checkable
class Scheduler(Protocol):
    """Decides which requests run in a step, and in which phase. Host state, integers only."""

    needs: frozenset[str]  #: capabilities that other parts must give
    provides: frozenset[str]  #: capabilities that others may need

    def bind(self, geometry: Geometry) -> None:
        """Learn the sizes."""
        ...

    def reset(self, seats: Sequence[int]) -> None:
        """Forget these seats."""
        ...

    def plan(self, view: View) -> StepPlan:
        """Return the rows of this step, made by the builders of `core/plan.py`; a round may be ended early."""
        ...

    def observe(self, results: RowResults) -> None:
        """Learn from the rows of a step that were collected, all of requests that still run."""
        ...


@runtime_checkable
class Tiers(Protocol):
    """Decides where KV lives. Integers only; pages are never touched from here."""

    needs: frozenset[str]  #: capabilities that other parts must give
    provides: frozenset[str]  #: capabilities that others may need

    def bind(self, geometry: Geometry) -> None:
        """Take ownership of the pages."""
        ...

    def reset(self) -> None:
        """Forget all requests."""
        ...

    def admit(self, seat: int, n_prompt: int, limit: int) -> bool:
        """Say whether a request of `n_prompt` tokens, never longer than `limit`, takes `seat` now; it does if so."""
        ...

    def share(self, seat: int, owner: int, n_pages: int) -> tuple[tuple[int, int, int], ...]:
        """Let `seat`, which has no pages, hold the first `n_pages` of `owner` too; returns its table entries."""
        ...

    def place(self, plan: StepPlan, view: View) -> Placed:
        """Find pages for every query token, oldest first; victims are strictly younger than the request in need."""
        ...

    def restore(self, view: View) -> Placed:
        """Bring spilled requests back, called after placing and only if no row starved; what it returns has no rows."""
        ...

    def moved(self, moves: Sequence[Move], *, failed: bool) -> None:
        """Learn that copies have ended, all of them well or all of them not; every move is reported once, in order."""
        ...

    def away(self) -> Sequence[int]:
        """Return the seats that cannot run because some of their pages are not on the device."""
        ...

    def commit(self, seats: Ints, positions: Ints) -> None:
        """Release what each of `seats` [n] holds behind its first `positions` [n]: at most so many will be written."""
        ...

    def forget(self, seat: int) -> None:
        """Release everything a seat holds, in any transfer state."""
        ...

    def pages(self, seat: int) -> int:
        """Return how many pages a seat holds."""
        ...

    def shared_pages(self, seat: int) -> int:
        """Return how many of them it took over from another sample of its prompt."""
        ...

    def free_pages(self) -> int:
        """Return how many pages are free."""
        ...

    def host_free_pages(self) -> int:
        """Return how many pages the host tier could take."""
        ...

    def host_pages(self) -> int:
        """Return how many pages are in the host tier."""
        ...

    def moving_pages(self) -> int:
        """Return how many pages of the device are being copied."""
        ...

    def check(self) -> None:
        """Raise `ContractBroken` unless the books balance."""
        ...


@runtime_checkable
class Attention(Protocol):
    """Writes K and V of a step and attends to them."""

    needs: frozenset[str]  #: capabilities that other parts must give
    provides: frozenset[str]  #: capabilities that others may need

    def bind(self, geometry: Geometry, model: AttentionSide, k_pages: Tensor, v_pages: Tensor) -> None:
        """Take the model's rotary tables and norms, and the pool [L, pages, P, Hkv, D]."""
        ...

    def plan(self, batch: Batch, choice: Selection | None) -> None:
        """Prepare for the layers of one step."""
        ...

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k and v [N, Hkv, D] to the cache and return the attention of q [N, Hq, D]; dead queries give 0."""
        ...

    def read(self) -> Tensor:
        """Return how many KV tokens each row of the step read, mean over layers, [B] float64."""
        ...


class AttentionSide(Protocol):
    """The part of a model that attention applies itself: norms of q and k, and rotation."""

    @property
    def rope(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [max_model_len, D / 2] each."""
        ...

    @property
    def rms_eps(self) -> float:
        """Epsilon of the norms of q and k."""
        ...

    def q_norm(self, layer: int) -> Tensor | None:
        """Weight of the query norm [D], or None where the family has none."""
        ...

    def k_norm(self, layer: int) -> Tensor | None:
        """Weight of the key norm [D], or None where the family has none."""
        ...


@runtime_checkable
class Verifier(Protocol):
    """Samples, drafts and verifies with one method."""

    needs: frozenset[str]  #: capabilities that other parts must give
    provides: frozenset[str]  #: capabilities that others may need

    def bind(self, geometry: Geometry) -> None:
        """Allocate."""
        ...

    def accepts(self, temperature: float) -> str | None:
        """Return None if requests of this temperature can be served, else a sentence saying what could."""
        ...

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        """Judge each row's candidates in order, and emit those that are accepted and one token more.

        `logits` [T, V]; `q` [R, m_max, V] holds the logits that sampled candidates came from, as the model gave them,
        for verifiers that need `draft_probs`: the row's filters make probabilities of these as of the others. Plain
        sampling is a row without candidates. What is emitted at a position has the distribution of its logit row,
        whatever the candidates were.
        """
        ...
