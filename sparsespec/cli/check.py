"""`--check`: decodes the outputs again, densely and in an engine of their own, and compares tokens and lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sparsespec.core.divergence import first_divergence
from sparsespec.core.params import SamplingParams
from sparsespec.core.spec import EngineSpec
from sparsespec.engine.outputs import Completion
from sparsespec.llm import LLM
from sparsespec.metrics.speculation import SpecMetrics


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How many of some outputs are what dense decoding emits, and a sentence for each of the others."""

    identical: int
    of: int
    parted: tuple[str, ...]

    def __str__(self) -> str:
        return f"identical to dense: {self.identical} of {self.of}"


def check_outputs(outputs: Sequence[Completion], expected: Sequence[Completion]) -> CheckResult:
    """Compare outputs with those of dense decoding, one by one."""
    found = [
        first_divergence(f"sample {ours.sample_index}", ours.token_ids, dense.token_ids)
        for ours, dense in zip(outputs, expected, strict=True)
    ]
    parted = tuple(divergence.sentence for divergence in found if divergence)
    return CheckResult(len(outputs) - len(parted), len(outputs), parted)


def compare_with_dense(
    llm: LLM, outputs: Sequence[Completion], params: SamplingParams, *, progress: Callable[[str, int, int], None]
) -> CheckResult:
    """Decode the samples of one prompt again, densely and in an engine of their own, and compare."""
    again: list[Completion] = []
    n_tokens, n_expected = 0, sum(len(c.token_ids) for c in outputs)
    with LLM(llm.model, EngineSpec(engine=llm.spec.engine), tokenizer=llm.tokenizer) as dense:
        for event in dense.stream(outputs[0].prompt_token_ids, replace(params, seed=outputs[0].seed)):
            n_tokens += len(event.token_ids)
            progress("decoding densely, to compare", n_tokens, max(n_tokens, n_expected))
            if event.completion:
                again.append(event.completion)
    return check_outputs(outputs, sorted(again, key=lambda c: c.sample_index))


def power(metrics: SpecMetrics) -> str | None:
    """Return what an equality proves: how many drafts were rejected, and how little of the context drafts read.

    None for an engine that drafts nothing, where there is nothing to prove.
    """
    if not metrics.num_draft_tokens:
        return None
    words = f"rejected drafts: {metrics.num_rejected_tokens} of {metrics.num_draft_tokens}"
    if metrics.kv_full_draft:
        words += f", KV read by drafts: {metrics.draft_kv_share:.1%} of the context"
    if not metrics.num_rejected_tokens:
        words += "; no draft was rejected, so equality proves little: ask for more tokens, or give drafts less to read"
    return words
