"""Where does a composition first part from dense decoding on a GPU, and do the kernels' own errors explain it?

    python -m bench.divergence smollm2 [--preset sparsespec] [--data problems.jsonl] [--out results.jsonl] [--exact]

Kernels that see one query round otherwise than kernels that see K+1, so two runs may part at near-ties: the numeric
contract of docs/lossless.md. The same requests, every other one greedy and the others sampled with shared noise, some
with filters, are decoded by `dense` and by each composition. Both runs keep the logits that they drew every token from,
so a divergence is judged by what the two runs saw, not by something computed again.

The kernel error is measured on `dense` alone, so that no fault of a composition can widen what it is allowed: at every
position, by how much the gap of two of the 64 best tokens differs from that of the same weights in a wider type. A gap
may be off by the p99.9 of that, or by what it is off at this very position if that is more; in two runs, by twice as
much. Over the temperature, this is the bound on a divergence:

- near-tie: in either run the other's token lies below the run's own by no more than the bound;
- filter boundary: it would, if a mask changed that is no further than the bound from changing;
- neither: all else, a failure. So is a token that is not what its own run's logits draw.

A composition whose gaps differ from dense's by more than twice the kernel error (p99 of common prefixes) fails without
any divergence, and so does one whose drafts were all accepted, or read half of the context. With `--exact`, which makes
`dense` and all compositions exact, so does one whose logits are not dense's to the bit. Exit status 1 if anything
failed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.common import Report, machine, problems
from bench.divergence_judge import Law, Reach
from bench.divergence_tap import Run, Work, decode
from bench.divergence_truth import Spread, errors_of, gap_errors, widened
from bench.engine_models import model_of, random_prompts, text_prompts
from bench.engine_subjects import Subject, subjects
from bench.gpu_run import device as gpu
from bench.lossless import weakness
from sparsespec.core.divergence import first_divergence
from sparsespec.core.errors import SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.metrics.speculation import SpecMetrics
from sparsespec.models.tokenizer import Tokenizer
from sparsespec.models.transformer import Transformer

NEAR_TIE, BOUNDARY, NEITHER = "near-tie", "filter boundary", "neither"
KINDS = (NEAR_TIE, BOUNDARY, NEITHER)
FILTERS: tuple[dict[str, Any], ...] = ({}, {"top_p": 0.95}, {"top_k": 20}, {"min_p": 0.05})
ROUNDING = 2.0**-16
"""What adding noise to logits in float32 may lose: four units in the last place of the largest sum."""


@dataclass(frozen=True)
class Parted:
    """A first divergence.

    Attributes:
        request: Whose.
        step: Output token.
        tokens: What dense emitted, and what the composition did.
        reaches: How far the other's token was from being drawn, in dense's run and in the composition's.
        bound: What these may be, in processed logits.
        astray: Which runs emitted what their own logits do not draw.
    """

    request: int
    step: int
    tokens: tuple[int, int]
    reaches: tuple[Reach, Reach]
    bound: float
    astray: tuple[str, ...]

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.astray or not all(reach.ok for reach in self.reaches):
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
            "astray": list(self.astray),
        }


def work_of(args: argparse.Namespace, tokenizer: Tokenizer | None, vocab: int) -> Work:
    """Return the requests: real text and a question each, or random tokens for a model without a tokenizer."""
    dice = random.Random(args.seed)
    lengths = [dice.randint(max(1, args.context // 2), max(1, args.context)) for _ in range(args.requests)]
    if tokenizer is None:
        prompts: Iterator[list[int]] = random_prompts(vocab, lengths, args.seed)
    else:
        asked = (tokenizer.encode(f"\n\nProblem: {q}\n\nSolution:") for q, _ in cycle(problems(args.data)))
        texts = text_prompts(tokenizer, args.data, lengths, args.seed)
        prompts = (text + question for text, question in zip(texts, asked, strict=False))
    params = tuple(params_of(i, args.temperature, args.tokens) for i in range(args.requests))
    return Work(tuple(map(tuple, islice(prompts, args.requests))), params, args.tokens)


def params_of(request: int, temperatures: Sequence[float], tokens: int) -> SamplingParams:
    """Return how a request is decoded: even ones greedily, odd ones with every filter in turn."""
    n = request // 2
    law: dict[str, Any] = {"temperature": 0.0}
    if request % 2:
        law = {"temperature": temperatures[n // len(FILTERS) % len(temperatures)], **FILTERS[n % len(FILTERS)]}
    return SamplingParams(**law, max_tokens=tokens, seed=request, ignore_eos=True)


def kernel_errors(model: Transformer, work: Work, dense: Run) -> Tensor:
    """Return the gap errors of a run at all positions, [requests, tokens] float64 on the CPU."""
    wide = widened(model)
    rows = zip(work.prompts, dense.completions, dense.logits, strict=True)
    return torch.stack([errors_of(wide, prompt, done.token_ids, mine).cpu() for prompt, done, mine in rows])


def partings(work: Work, dense: Run, ours: Run, errors: Tensor) -> Iterator[Parted]:
    """Yield the first divergence of every request that has one."""
    usual = Spread.of(errors).p999
    for i, (a, b) in enumerate(zip(dense.completions, ours.completions, strict=True)):
        divergence = first_divergence(f"request {i}", b.token_ids, a.token_ids)
        if divergence is None:
            continue
        step = divergence.index
        if step >= min(len(a.token_ids), len(b.token_ids)):
            raise SparseSpecError(f"request {i} ended after {step} tokens in one run only, though nothing ends one")
        params, tokens = work.params[i], (a.token_ids[step], b.token_ids[step])
        bound = 2 * max(usual, float(errors[i, step])) / (params.temperature or 1.0) + ROUNDING
        laws = [Law(run.logits[i, step], params, i, work.lengths[i] + step) for run in (dense, ours)]
        runs = zip(("dense", "ours"), (dense, ours), tokens, strict=True)
        yield Parted(
            request=i,
            step=step,
            tokens=tokens,
            reaches=(laws[0].reach(tokens[1], bound), laws[1].reach(tokens[0], bound)),
            bound=bound,
            astray=tuple(name for name, run, token in runs if run.drawn(work, i, step) != token),
        )


def differences(dense: Run, ours: Run, lengths: Sequence[int]) -> Spread:
    """Return by how much gaps differ between two runs, over the first `lengths` tokens of each request."""
    rows = zip(ours.logits, dense.logits, lengths, strict=True)
    return Spread.of(torch.cat([gap_errors(b[:n], a[:n].float()) for b, a, n in rows]))


def judge(
    report: Report, work: Work, subject: Subject, dense: Run, ours: Run, errors: Tensor, *, exact: bool = False
) -> bool:
    """Print the divergences of a composition and its row; return whether all is well."""
    found: list[Parted] = []
    for parted in partings(work, dense, ours, errors):
        found.append(parted)
        report.row(_sentence(parted, work), what="divergence", composition=subject.label, **parted.to_dict())
    steps = {parted.request: parted.step for parted in found}
    # the position at which two runs part still has a common prefix
    compared = [1 + steps.get(i, work.tokens - 1) for i in range(len(work.prompts))]
    kinds = {kind: sum(parted.kind == kind for parted in found) for kind in KINDS}
    spread, error = differences(dense, ours, compared), Spread.of(errors)
    metrics = sum((c.metrics for c in ours.completions), SpecMetrics())
    wide, weak = spread.p99 > 2 * error.p99 + ROUNDING, weakness(metrics)
    logits = zip(ours.logits, dense.logits, compared, strict=True)
    inexact = exact and (bool(found) or not all(torch.equal(b[:n], a[:n]) for b, a, n in logits))
    rate = 1000 * len(found) / sum(compared)
    lines = [
        f"{subject.label}: {len(found)} of {len(work.prompts)} requests parted, {rate:.3f} per 1,000 of "
        f"{sum(compared)} tokens compared; " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()),
        f"    gaps differ from dense by {spread}; {_power(metrics)}; {ours.seconds:.1f} s",
    ]
    lines += [f"    TOO FAR: the p99 is more than twice the kernel error's, {error.p99:.2g}"] if wide else []
    lines += [f"    TOO WEAK: {weak}"] if weak else []
    lines += ["    NOT EXACT: an exact engine's bits are dense's"] if inexact else []
    report.row(
        "\n".join(lines),
        what="composition",
        composition=subject.label,
        requests=len(work.prompts),
        tokens=work.tokens * len(work.prompts),
        compared=sum(compared),
        divergences=len(found),
        per_1000=rate,
        kinds=kinds,
        groups=_groups(work, found, compared),
        gaps=spread._asdict(),
        too_far=wide,
        weak=weak,
        inexact=inexact,
        seconds=ours.seconds,
        metrics=metrics.to_dict(),
    )
    return not (kinds[NEITHER] or wide or weak or inexact)


def _groups(work: Work, found: Sequence[Parted], compared: Sequence[int]) -> dict[str, dict[str, int]]:
    """Return tokens compared and divergences by how requests are decoded."""
    names = [_law(p) for p in work.params]
    parted = Counter(names[one.request] for one in found)
    tokens: Counter[str] = Counter()
    for name, n in zip(names, compared, strict=True):
        tokens[name] += n
    return {name: {"compared": n, "divergences": parted[name]} for name, n in tokens.items()}


def _law(p: SamplingParams) -> str:
    if p.is_greedy:
        return "greedy"
    on = {"top_k": p.top_k > 0, "top_p": p.top_p < 1, "min_p": p.min_p > 0}
    return " ".join([f"T={p.temperature:g}", *(f"{name}={getattr(p, name):g}" for name, is_on in on.items() if is_on)])


def _sentence(parted: Parted, work: Work) -> str:
    a, b = parted.reaches
    words = f"    request {parted.request} ({_law(work.params[parted.request])}), output token {parted.step}: "
    words += (
        f"{parted.tokens[1]} instead of {parted.tokens[0]}, {parted.kind}; gap {a.gap:.2g} in dense, {b.gap:.2g} here"
    )
    if a.by_filter or b.by_filter:
        words += f", mask {max(a.boundary, b.boundary):.2g} from changing"
    words += f", bound {parted.bound:.2g}"
    return words + "".join(f"; {name} emitted what its logits do not draw" for name in parted.astray)


def _power(m: SpecMetrics) -> str:
    if not m.num_draft_tokens:
        return "no drafts"
    share = f", KV read by drafts {m.draft_kv_share:.1%}" if m.kv_full_draft else ""
    return f"rejected {m.num_rejected_tokens} of {m.num_draft_tokens} drafts{share}"


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    start = time.perf_counter()
    plain = Subject("dense", {"exact": True} if args.exact else {})
    found = subjects(args.preset, loops=args.loop)
    compared = [replace(subject, changes=subject.changes | plain.changes) for subject in found]
    model, tokenizer = model_of(args.model, args.dtype, args.device, args.seed)
    work = work_of(args, tokenizer, model.config.vocab)
    batch = args.batch or -(-args.requests // 2)
    where = gpu() if model.device.type == "cuda" else machine()
    sizes = {name: getattr(args, name) for name in ("model", "requests", "tokens", "dtype", "context", "seed")}
    with Report(args.out, bench="divergence", **sizes, batch=batch, temperature=args.temperature, **where) as report:
        dense = decode(model, plain, work, batch)
        report.row(f"dense, the reference: {dense.seconds:.1f} s", what="dense", seconds=dense.seconds)
        errors = kernel_errors(model, work, dense)
        error = Spread.of(errors)
        report.row(f"kernel error of a gap, in logits: {error}", what="error", **error._asdict())
        well = True
        for subject in compared:
            well &= judge(report, work, subject, dense, decode(model, subject, work, batch), errors, exact=args.exact)
        print(f"{'all explained' if well else 'FAILED'}, {time.perf_counter() - start:.0f} s", flush=True)
    return int(not well)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.divergence", description=(__doc__ or "").partition("\n")[0])
    add, cuda = parser.add_argument, torch.cuda.is_available()
    add("model", nargs="?", default="smollm2", help="an alias, a folder, a hub id, or tiny")
    add("--requests", type=int, default=64, help="every other one greedy")
    add("--tokens", type=int, default=512, help="new tokens of each")
    add("--batch", type=int, help="requests that run at once; half of them if absent")
    add("--context", type=int, default=1024, help="tokens of text before each question, at most; half of it at least")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    add("--device", default="cuda" if cuda else "cpu")
    add("--preset", nargs="+", default=["sparsespec"], metavar="NAME[:CHANGES]",
        help="compositions: sparsespec:loop=sync,scheduler=lockstep")  # fmt: skip
    add("--loop", nargs="+", default=[], help="every preset in each of these loops")
    add("--exact", action="store_true", help="with exact=true for all, where nothing may part at all")
    add("--temperature", nargs="+", type=float, default=[0.65], help="of sampled requests, in turn")
    add("--data", type=Path, help="JSONL with problem or question, and solution")
    add("--seed", type=int, default=0, help="of lengths and texts")
    add("--out", type=Path, help="append rows to this JSONL file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SparseSpecError as error:
        sys.exit(str(error))
