"""A row of a comparison: what a composition did with some prompts, beside what plain decoding did with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from sparsespec.comparison.rounds import Stood
from sparsespec.comparison.subjects import Subject
from sparsespec.core.spec import EngineSpec
from sparsespec.metrics.speculation import SpecMetrics

Verdict: TypeAlias = Literal[
    "baseline", "identical", "equal, proves nothing", "parted", "other noise", "no baseline", "failed"
]
BAD: tuple[Verdict, ...] = ("parted", "failed")
"""Verdicts that nobody wants."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a row stands under, equal for all that are compared with one another.

    Attributes:
        model: Its name.
        prompts: The name of their set.
        n_prompts: How many there are.
        max_tokens: New tokens of each, at most.
        temperature: 0 is greedy.
        seed: What the noise of all prompts follows from; None where there is no noise.
        batch: Requests that run at once.
    """

    model: str
    prompts: str
    n_prompts: int
    max_tokens: int
    temperature: float
    seed: int | None
    batch: int


@dataclass(frozen=True, slots=True)
class Run:
    """What was decoded: a tuple of tokens for each prompt, and what it took; `error` says why there is nothing.

    Attributes:
        kv_token_bytes: Bytes of K and V of a token, all layers.
    """

    tokens: tuple[tuple[int, ...], ...] = ()
    seconds: float = 0.0
    metrics: SpecMetrics | None = None
    by_position: tuple[Stood, ...] = ()
    by_context: tuple[Stood, ...] = ()
    kv_token_bytes: int = 0
    spec: EngineSpec | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One composition under one setting. What nobody knows is None: all figures of one that failed, for instance.

    Attributes:
        composition: Its name.
        budget: Share of the context that its drafts read.
        min_budget: Tokens that they read at least.
        spec: The engine, whole.
        verdict: "identical" only where drafts were rejected, or else "equal, proves nothing"; "other noise" where the
            verifier keeps the law of sampled tokens and not the tokens; "parted"; "failed"; "no baseline" where plain
            decoding failed; and "baseline".
        n_identical: Prompts whose tokens are those of plain decoding.
        parted: A sentence for each prompt whose tokens are not.
        error: Why it failed.
        tokens: Output tokens.
        seconds: From the first prompt to the last token, without making the engine.
        speed_of_dense: Tokens per second over those of plain decoding.
        drafts: Drafts that a verification judged, or guesses where there is no draft level.
        rejected: Those of them that did not stand.
        accepted_a_round: Those that did, in the mean of rounds that judged any.
        forwards_a_token: Forwards of a request per output token.
        kv_bytes_a_token: Bytes of KV that attention read per output token, drafts and verifications together.
        kv_of_dense: Those over what plain decoding read.
        draft_kv_share: Share of the context that drafts read.
        by_position: Drafts by their place in the round.
        by_context: Drafts by tokens of context.
    """

    setting: Setting
    composition: str
    budget: float | None
    min_budget: int | None
    spec: EngineSpec | None
    verdict: Verdict
    n_identical: int | None = None
    parted: tuple[str, ...] = ()
    error: str | None = None
    tokens: int | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    speed_of_dense: float | None = None
    drafts: int | None = None
    rejected: int | None = None
    accepted_a_round: float | None = None
    forwards_a_token: float | None = None
    kv_bytes_a_token: float | None = None
    kv_of_dense: float | None = None
    draft_kv_share: float | None = None
    by_position: tuple[Stood, ...] = ()
    by_context: tuple[Stood, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the setting's fields stand among the others."""
        # a spec is no dataclass of plain values, and says itself how it is written
        spec = self.spec and self.spec.to_dict()
        values = {name: getattr(self, name) for name in self.__slots__ if name not in ("setting", "spec")}
        curves = {name: [asdict(one) for one in values.pop(name)] for name in ("by_position", "by_context")}
        return {**asdict(self.setting), **values, "parted": list(self.parted), **curves, "spec": spec}


def row_of(setting: Setting, subject: Subject, run: Run, dense: Run) -> Row:
    """Return the row of a run, beside the run of plain decoding under the same setting."""
    row = Row(
        setting, subject.name, subject.budget, subject.min_budget, run.spec, verdict="no baseline", error=run.error
    )
    if run.metrics is None:
        return replace(row, verdict="failed")
    m, n = run.metrics, run.metrics.num_output_tokens
    row = replace(
        row,
        tokens=n,
        seconds=run.seconds,
        tokens_per_second=_speed(run),
        drafts=m.num_draft_tokens,
        rejected=m.num_rejected_tokens,
        accepted_a_round=_ratio(m.num_accepted_tokens, m.num_spec_rounds),
        forwards_a_token=_ratio(m.num_draft_steps + m.num_verify_steps, n),
        kv_bytes_a_token=_kv_bytes(run),
        draft_kv_share=_ratio(m.kv_read_draft, m.kv_full_draft),
        by_position=run.by_position,
        by_context=run.by_context,
    )
    return row if dense.metrics is None else _beside(row, subject, run, dense)


def _beside(row: Row, subject: Subject, run: Run, dense: Run) -> Row:
    """Return the row with what plain decoding says of it."""
    parted = tuple(_partings(run.tokens, dense.tokens))
    kv_bytes, most = _kv_bytes(run), _kv_bytes(dense)
    return replace(
        row,
        verdict=_verdict(row, subject, run is dense, bool(parted)),
        n_identical=len(run.tokens) - len(parted),
        parted=parted,
        speed_of_dense=_ratio(_speed(run), _speed(dense)),
        kv_of_dense=None if kv_bytes is None or most is None else _ratio(kv_bytes, most),
    )


def _verdict(row: Row, subject: Subject, is_dense: bool, has_parted: bool) -> Verdict:
    if is_dense:
        return "baseline"
    if subject.keeps_law_only and row.setting.temperature:
        return "other noise"
    if has_parted:
        return "parted"
    return "identical" if row.rejected else "equal, proves nothing"


def _partings(ours: Sequence[Sequence[int]], dense: Sequence[Sequence[int]]) -> Iterator[str]:
    """Yield a sentence for each prompt whose tokens are not those of plain decoding."""
    for i, (tokens, expected) in enumerate(zip(ours, dense, strict=True)):
        where = first_divergence(tokens, expected)
        if where is not None:
            yield (
                f"prompt {i} parts from dense at output token {where}: {list(tokens[where : where + 4])} instead of "
                f"{list(expected[where : where + 4])} (lengths {len(tokens)} and {len(expected)})"
            )


def first_divergence(tokens: Sequence[int], expected: Sequence[int]) -> int | None:
    """Return the index of the first token in which two outputs differ, None if they are equal.

    Where one is the beginning of the other, that is the length of the shorter.
    """
    for i, (a, b) in enumerate(zip(tokens, expected, strict=False)):
        if a != b:
            return i
    return None if len(tokens) == len(expected) else min(len(tokens), len(expected))


def _speed(run: Run) -> float:
    return sum(map(len, run.tokens)) / run.seconds


def _kv_bytes(run: Run) -> float | None:
    """Return the bytes of KV read per output token."""
    m = run.metrics
    return m and _ratio(run.kv_token_bytes * m.kv_read, m.num_output_tokens)


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None
