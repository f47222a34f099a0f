"""The numeric contract: judges where a composition first parts from dense decoding, by what both runs saw there.

Kernels that see one query round otherwise than kernels that see K+1, so two runs may part at near-ties. The kernel
error is measured on `dense` alone, so that no fault of a composition can widen what it is allowed: at every position,
by how much the gap of two of the 64 best tokens differs from that of the same weights in a wider type. A gap may be off
by the p99.9 of that, or by what it is off at this very position if that is more; in two runs, by twice as much. Over
the temperature, this is the bound on a divergence:

- near-tie: in either run the other's token lies below the run's own by no more than the bound;
- filter boundary: it would, if a mask changed that is no further than the bound from changing;
- neither: all else, a failure. So is a token that is not what its own run's logits give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsespec.benchmarks.report import Report
from sparsespec.core.divergence import first_divergence
from sparsespec.core.errors import SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.metrics.speculation import SpecMetrics
from sparsespec.models.transformer import Transformer
from sparsespec.testing.divergence.distribution import Distribution, Reach
from sparsespec.testing.divergence.kernel_error import Quantiles, errors_of, gap_errors, widened
from sparsespec.testing.divergence.recording import Run, Workload

NEAR_TIE, BOUNDARY, NEITHER = "near-tie", "filter boundary", "neither"
KINDS = (NEAR_TIE, BOUNDARY, NEITHER)
ROUNDING = 2.0**-16
"""What adding noise to logits in float32 may lose: four units in the last place of the largest sum."""


@dataclass(frozen=True)
class JudgedDivergence:
    """The first divergence of a request.

    Attributes:
        request: Its index.
        step: Output token.
        tokens: What dense emitted, and what the composition did.
        reaches: How far the other's token was from being sampled, in dense's run and in the composition's.
        bound: What these may be, in processed logits.
        inconsistent: Which runs ("dense", "ours") emitted what their own logits do not give.
    """

    request: int
    step: int
    tokens: tuple[int, int]
    reaches: tuple[Reach, Reach]
    bound: float
    inconsistent: tuple[str, ...]

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.inconsistent or not all(reach.ok for reach in self.reaches):
            return NEITHER
        return BOUNDARY if any(reach.by_filter for reach in self.reaches) else NEAR_TIE

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the gap of a masked token is null."""
        return {
            "request": self.request,
            "step": self.step,
            "tokens": list(self.tokens),
            "divergence": self.kind,
            "gaps": [None if reach.gap == float("inf") else reach.gap for reach in self.reaches],
            "boundaries": [reach.boundary for reach in self.reaches],
            "bound": self.bound,
            "inconsistent": list(self.inconsistent),
        }


def kernel_errors(model: Transformer, workload: Workload, dense: Run) -> Tensor:
    """Return the gap errors of a run at all positions, [requests, tokens] float64 on the CPU."""
    wide = widened(model)
    rows = zip(workload.prompts, dense.completions, dense.logits, strict=True)
    return torch.stack([errors_of(wide, prompt, done.token_ids, mine).cpu() for prompt, done, mine in rows])


def divergences(workload: Workload, dense: Run, ours: Run, errors: Tensor) -> Iterator[JudgedDivergence]:
    """Yield the first divergence of every request that has one; `errors` is what `kernel_errors` returned."""
    usual = Quantiles.of(errors).p999
    for i, (a, b) in enumerate(zip(dense.completions, ours.completions, strict=True)):
        divergence = first_divergence(f"request {i}", b.token_ids, a.token_ids)
        if divergence is None:
            continue
        step = divergence.index
        if step >= min(len(a.token_ids), len(b.token_ids)):
            raise SparseSpecError(f"request {i} ended after {step} tokens in one run only, though nothing ends one")
        params, tokens = workload.params[i], (a.token_ids[step], b.token_ids[step])
        bound = 2 * max(usual, float(errors[i, step])) / (params.temperature or 1.0) + ROUNDING
        at = (params, i, workload.lengths[i] + step)
        own, other = (Distribution(run.logits[i, step], *at) for run in (dense, ours))
        runs = zip(("dense", "ours"), (dense, ours), tokens, strict=True)
        yield JudgedDivergence(
            request=i,
            step=step,
            tokens=tokens,
            reaches=(own.reach(tokens[1], bound), other.reach(tokens[0], bound)),
            bound=bound,
            inconsistent=tuple(name for name, run, token in runs if run.sampled(workload, i, step) != token),
        )


def differences(dense: Run, ours: Run, lengths: Sequence[int]) -> Quantiles:
    """Return by how much gaps differ between two runs, over the first `lengths` tokens of each request."""
    rows = zip(ours.logits, dense.logits, lengths, strict=True)
    return Quantiles.of(torch.cat([gap_errors(b[:n], a[:n].float()) for b, a, n in rows]))


def weakness(metrics: SpecMetrics) -> str | None:
    """Return why an equality would prove little, None if it proves something or nothing was drafted."""
    if not metrics.num_draft_tokens:
        return None
    if not metrics.num_rejected_tokens:
        return "no draft was rejected"
    if metrics.kv_full_draft and metrics.draft_kv_share >= 0.5:
        return "drafts read half of the context or more"
    return None


def judge(
    report: Report, workload: Workload, composition: str, dense: Run, ours: Run, errors: Tensor, *, exact: bool = False
) -> bool:
    """Report the divergences of a composition and its row; return whether all is well."""
    found: list[JudgedDivergence] = []
    for one in divergences(workload, dense, ours, errors):
        found.append(one)
        report.row(_sentence(one, workload), what="divergence", composition=composition, **one.to_dict())
    steps = {one.request: one.step for one in found}
    # the position at which two runs part still has a common prefix
    compared = [1 + steps.get(i, workload.tokens - 1) for i in range(len(workload.prompts))]
    gaps, error = differences(dense, ours, compared), Quantiles.of(errors)
    metrics = sum((c.metrics for c in ours.completions), SpecMetrics())
    logits = zip(ours.logits, dense.logits, compared, strict=True)
    row: dict[str, Any] = {
        "requests": len(workload.prompts),
        "tokens": workload.tokens * len(workload.prompts),
        "compared": sum(compared),
        "divergences": len(found),
        "per_1000": 1000 * len(found) / sum(compared),
        "kinds": {kind: sum(one.kind == kind for one in found) for kind in KINDS},
        "groups": _groups(workload, found, compared),
        "gaps": gaps._asdict(),
        "too_far": gaps.p99 > 2 * error.p99 + ROUNDING,
        "weak": weakness(metrics),
        "inexact": exact and (bool(found) or not all(torch.equal(b[:n], a[:n]) for b, a, n in logits)),
        "seconds": ours.seconds,
    }
    lines = _lines(composition, row, gaps, error, metrics)
    report.row(lines, what="composition", composition=composition, **row, metrics=metrics.to_dict())
    return not (row["kinds"][NEITHER] or row["too_far"] or row["weak"] or row["inexact"])


def _lines(composition: str, row: dict[str, Any], gaps: Quantiles, error: Quantiles, metrics: SpecMetrics) -> str:
    """Return what is printed of a composition."""
    lines = [
        f"{composition}: {row['divergences']} of {row['requests']} requests parted, {row['per_1000']:.3f} per 1,000 of "
        f"{row['compared']} tokens compared; " + ", ".join(f"{n} {kind}" for kind, n in row["kinds"].items()),
        f"    gaps differ from dense by {gaps}; {_power(metrics)}; {row['seconds']:.1f} s",
    ]
    if row["too_far"]:
        lines.append(f"    TOO FAR: the p99 is more than twice the kernel error's, {error.p99:.2g}")
    if row["weak"]:
        lines.append(f"    TOO WEAK: {row['weak']}")
    if row["inexact"]:
        lines.append("    NOT EXACT: an exact engine's bits are dense's")
    return "\n".join(lines)


def _groups(
    workload: Workload, found: Sequence[JudgedDivergence], compared: Sequence[int]
) -> dict[str, dict[str, int]]:
    """Return tokens compared and divergences by how requests are decoded."""
    names = [_sampling(p) for p in workload.params]
    parted = Counter(names[one.request] for one in found)
    tokens: Counter[str] = Counter()
    for name, n in zip(names, compared, strict=True):
        tokens[name] += n
    return {name: {"compared": n, "divergences": parted[name]} for name, n in tokens.items()}


def _sampling(p: SamplingParams) -> str:
    if p.is_greedy:
        return "greedy"
    on = {"top_k": p.top_k > 0, "top_p": p.top_p < 1, "min_p": p.min_p > 0}
    return " ".join([f"T={p.temperature:g}", *(f"{name}={getattr(p, name):g}" for name, is_on in on.items() if is_on)])


def _sentence(one: JudgedDivergence, workload: Workload) -> str:
    a, b = one.reaches
    words = f"    request {one.request} ({_sampling(workload.params[one.request])}), output token {one.step}: "
    words += f"{one.tokens[1]} instead of {one.tokens[0]}, {one.kind}; gap {a.gap:.2g} in dense, {b.gap:.2g} here"
    if a.by_filter or b.by_filter:
        words += f", mask {max(a.boundary, b.boundary):.2g} from changing"
    words += f", bound {one.bound:.2g}"
    return words + "".join(f"; {name} emitted what its own logits do not give" for name in one.inconsistent)


def _power(m: SpecMetrics) -> str:
    if not m.num_draft_tokens:
        return "no drafts"
    share = f", KV read by drafts {m.draft_kv_share:.1%}" if m.kv_full_draft else ""
    return f"rejected {m.num_rejected_tokens} of {m.num_draft_tokens} drafts{share}"
