"""Where does a composition first part from dense decoding on a GPU, and do the kernels' own errors explain it?

    python -m bench.divergence smollm2 [--preset sparsespec] [--data problems.jsonl] [--out results.jsonl] [--exact]

The same requests, every other one greedy and the others sampled with shared noise, some with filters, are decoded by
`dense` and by each composition. Both runs keep the logits that they sampled every token from, so a divergence is judged
by what the two runs saw, not by something computed again (`contract`).

A composition whose gaps differ from dense's by more than twice the kernel error (p99 of common prefixes) fails without
any divergence, and so does one whose drafts were all accepted, or read half of the context. With `--exact`, which makes
`dense` and all compositions exact, so does one whose logits are not dense's to the bit. Exit status 1 if anything
failed.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from sparsespec.benchmarks.entries import Entry, entries
from sparsespec.benchmarks.models import model_of
from sparsespec.benchmarks.prompts import problems, prompts_for
from sparsespec.benchmarks.report import Parser, Report, device_here, where
from sparsespec.core.params import SamplingParams
from sparsespec.models.tokenizer import Tokenizer
from sparsespec.testing.divergence.contract import judge, kernel_errors
from sparsespec.testing.divergence.kernel_error import Quantiles
from sparsespec.testing.divergence.recording import Workload, decode

FILTERS: tuple[dict[str, Any], ...] = ({}, {"top_p": 0.95}, {"top_k": 20}, {"min_p": 0.05})


def workload_of(args: argparse.Namespace, tokenizer: Tokenizer | None, vocab: int) -> Workload:
    """Return the requests: real text and a question each, or random tokens for a model without a tokenizer."""
    dice = random.Random(args.seed)
    lengths = [dice.randint(max(1, args.context // 2), max(1, args.context)) for _ in range(args.requests)]
    prompts = prompts_for(vocab, tokenizer, args.data, args.seed)(lengths)
    if tokenizer is not None:
        questions = (tokenizer.encode(f"\n\nProblem: {q}\n\nSolution:") for q, _ in cycle(problems(args.data)))
        prompts = (text + question for text, question in zip(prompts, questions, strict=False))
    params = tuple(params_of(i, args.temperature, args.tokens) for i in range(args.requests))
    return Workload(tuple(map(tuple, prompts)), params, args.tokens)


def params_of(request: int, temperatures: Sequence[float], tokens: int) -> SamplingParams:
    """Return how a request is decoded: even ones greedily, odd ones with every filter in turn."""
    n = request // 2
    how: dict[str, Any] = {"temperature": 0.0}
    if request % 2:
        how = {"temperature": temperatures[n // len(FILTERS) % len(temperatures)], **FILTERS[n % len(FILTERS)]}
    return SamplingParams(**how, max_tokens=tokens, seed=request, ignore_eos=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison with command-line arguments and return the exit status."""
    args = _parser().parse_args(argv)
    start = time.perf_counter()
    plain = Entry("dense", {"exact": True} if args.exact else {})
    found = entries(args.preset, loops=args.loop)
    compared = [replace(entry, changes=entry.changes | plain.changes) for entry in found]
    model, tokenizer = model_of(args.model, args.dtype, args.device, args.seed)
    workload = workload_of(args, tokenizer, model.config.vocab)
    batch = args.batch or -(-args.requests // 2)
    sizes = {name: getattr(args, name) for name in ("model", "requests", "tokens", "dtype", "context", "seed")}
    header = {**sizes, "batch": batch, "temperature": args.temperature, **where(model.device.type)}
    with Report(args.out, bench="divergence", **header) as report:
        dense = decode(model, plain, workload, batch)
        report.row(f"dense, the reference: {dense.seconds:.1f} s", what="dense", seconds=dense.seconds)
        errors = kernel_errors(model, workload, dense)
        error = Quantiles.of(errors)
        report.row(f"kernel error of a gap, in logits: {error}", what="error", **error._asdict())
        well = True
        for entry in compared:
            ours = decode(model, entry, workload, batch)
            well &= judge(report, workload, entry.label, dense, ours, errors, exact=args.exact)
        print(f"{'all explained' if well else 'FAILED'}, {time.perf_counter() - start:.0f} s", flush=True)
    return int(not well)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="bench.divergence", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("model", nargs="?", default="smollm2", help="an alias, a folder, a hub id, or tiny")
    add("--requests", type=int, default=64, help="every other one greedy")
    add("--tokens", type=int, default=512, help="new tokens of each")
    add("--batch", type=int, help="requests that run at once; half of them if absent")
    add("--context", type=int, default=1024, help="tokens of text before each question, at most; half of it at least")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    add("--device", default=device_here())
    add("--preset", nargs="+", default=["sparsespec"], metavar="NAME[:CHANGES]",
        help="compositions: sparsespec:loop=sync,scheduler=lockstep")  # fmt: skip
    add("--loop", nargs="+", default=[], help="every preset in each of these loops")
    add("--exact", action="store_true", help="with exact=true for all, where nothing may part at all")
    add("--temperature", nargs="+", type=float, default=[0.65], help="of sampled requests, in turn")
    add("--data", type=Path, help="JSONL with problem or question, and solution")
    add("--seed", type=int, default=0, help="of lengths and texts")
    add("--out", type=Path, help="append rows to this JSONL file")
    return parser
