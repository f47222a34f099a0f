"""A row of a comparison: what a composition did with some prompts, beside what dense decoding did with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from sparsespec.comparison.acceptance import Acceptance
from sparsespec.comparison.variants import Variant
from sparsespec.core.divergence import first_divergence
from sparsespec.core.spec import EngineSpec
from sparsespec.metrics.speculation import SpecMetrics

Verdict: TypeAlias = Literal[
    "baseline", "identical", "equal, proves nothing", "parted", "not compared", "no baseline", "failed"
]
BAD: tuple[Verdict, ...] = ("parted", "failed")
"""Verdicts that make a comparison fail."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What rows that are compared with one another have in common.

    Attributes:
        model: Name of the model.
        prompts: Name of the set of prompts.
        n_prompts: Prompts in the set.
        max_tokens: New tokens of each prompt, at most.
        temperature: 0 is greedy.
        seed: Seed from which each prompt gets one of its own; None for greedy decoding.
        max_num_seqs: Requests that run at once.
    """

    model: str
    prompts: str
    n_prompts: int
    max_tokens: int
    temperature: float
    seed: int | None
    max_num_seqs: int


@dataclass(frozen=True, slots=True)
class Run:
    """The output tokens of each prompt, and what decoding them took; `error` says why there are none.

    Attributes:
        kv_token_bytes: Bytes of K and V of a token in all layers.
    """

    tokens: tuple[tuple[int, ...], ...] = ()
    seconds: float = 0.0
    metrics: SpecMetrics | None = None
    by_position: tuple[Acceptance, ...] = ()
    by_context: tuple[Acceptance, ...] = ()
    kv_token_bytes: int = 0
    spec: EngineSpec | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One composition under one setting; a figure that is not known, as all of one that failed, is None.

    Attributes:
        composition: Its name.
        budget: Share of the context that its drafts read.
        min_budget: Tokens that they read at least.
        spec: The spec of the engine.
        verdict: "identical" only where drafts were rejected, or else "equal, proves nothing"; "not compared" where the
            verifier keeps the distribution of sampled tokens and not the tokens; "parted"; "failed"; "no baseline"
            where dense decoding failed; and "baseline" for dense decoding itself.
        n_identical: Prompts whose tokens are those of dense decoding.
        parted: A sentence for each prompt whose tokens are not.
        error: Why it failed.
        tokens: Output tokens.
        seconds: From the first prompt to the last token, without making the engine.
        speed_of_dense: Tokens per second over those of dense decoding.
        drafts: Drafts that were verified, or guesses where there is no draft level.
        rejected: How many of them were rejected.
        mean_acceptance_length: Tokens a round with drafts yields, its bonus token included: 1 + accepted drafts.
        forwards_per_token: Forwards of a request per output token.
        kv_bytes_per_token: Bytes of KV that attention read per output token, drafts and verifications together.
        kv_of_dense: Those over what dense decoding read.
        draft_kv_share: Share of the context that drafts read.
        by_position: Drafts by their position in the round.
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
    mean_acceptance_length: float | None = None
    forwards_per_token: float | None = None
    kv_bytes_per_token: float | None = None
    kv_of_dense: float | None = None
    draft_kv_share: float | None = None
    by_position: tuple[Acceptance, ...] = ()
    by_context: tuple[Acceptance, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, those of the setting among them."""
        # a spec has a form of its own, which asdict does not know
        spec = self.spec and self.spec.to_dict()
        values = {name: getattr(self, name) for name in self.__slots__ if name not in ("setting", "spec")}
        curves = {name: [asdict(one) for one in values.pop(name)] for name in ("by_position", "by_context")}
        return {**asdict(self.setting), **values, "parted": list(self.parted), **curves, "spec": spec}


def row_of(setting: Setting, variant: Variant, run: Run, dense: Run) -> ComparisonRow:
    """Return the row of a run, beside the run of dense decoding under the same setting."""
    row = ComparisonRow(
        setting, variant.name, variant.budget, variant.min_budget, run.spec, verdict="no baseline", error=run.error
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
        mean_acceptance_length=m.mean_acceptance_length if m.num_spec_rounds else None,
        forwards_per_token=_ratio(m.num_draft_steps + m.num_verify_steps, n),
        kv_bytes_per_token=_kv_bytes(run),
        draft_kv_share=_ratio(m.kv_read_draft, m.kv_full_draft),
        by_position=run.by_position,
        by_context=run.by_context,
    )
    return row if dense.metrics is None else _beside_dense(row, variant, run, dense)


def _beside_dense(row: ComparisonRow, variant: Variant, run: Run, dense: Run) -> ComparisonRow:
    """Return the row with the figures that take dense decoding into account."""
    parted = tuple(_parted(run, dense))
    kv_bytes, most = _kv_bytes(run), _kv_bytes(dense)
    return replace(
        row,
        verdict=_verdict(row, variant, run is dense, bool(parted)),
        n_identical=len(run.tokens) - len(parted),
        parted=parted,
        speed_of_dense=_ratio(_speed(run), _speed(dense)),
        kv_of_dense=None if kv_bytes is None or most is None else _ratio(kv_bytes, most),
    )


def _verdict(row: ComparisonRow, variant: Variant, is_dense: bool, has_parted: bool) -> Verdict:
    if is_dense:
        return "baseline"
    if variant.same_distribution_only and row.setting.temperature:
        return "not compared"
    if has_parted:
        return "parted"
    return "identical" if row.rejected else "equal, proves nothing"


def _parted(run: Run, dense: Run) -> Iterator[str]:
    """Yield a sentence for each prompt whose tokens are not those of dense decoding."""
    for i, (tokens, expected) in enumerate(zip(run.tokens, dense.tokens, strict=True)):
        divergence = first_divergence(f"prompt {i}", tokens, expected)
        if divergence:
            yield divergence.sentence


def _speed(run: Run) -> float:
    return sum(map(len, run.tokens)) / run.seconds


def _kv_bytes(run: Run) -> float | None:
    """Return the bytes of KV read per output token."""
    m = run.metrics
    return m and _ratio(run.kv_token_bytes * m.kv_read, m.num_output_tokens)


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None
