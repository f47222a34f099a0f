"""Does every preset emit what dense decoding emits, and dense decoding what transformers emits? SmolLM2, float32.

    python -m bench.lossless [--data problems.jsonl] [--out results.jsonl]

Part a: preset `dense` against greedy `transformers` generation. Part b: prompts behind real text, all presets against
`dense`, greedy and sampled, in one batch; some also alone, in reverse order and in every loop. An equality in which no
draft was rejected, or in which drafts read half of the context, would prove little and counts as a failure.
Exit status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sparsespec.benchmarks.prompts import problems, prose
from sparsespec.benchmarks.report import Parser, Report, count, exit_with, machine
from sparsespec.cli.check import CheckResult, check_outputs
from sparsespec.core.errors import SparseSpecError
from sparsespec.core.loops import LOOPS
from sparsespec.core.params import SamplingParams
from sparsespec.core.registry import make
from sparsespec.core.spec import PRESETS, EngineSpec, PartSpec
from sparsespec.engine.outputs import Completion
from sparsespec.llm import LLM, load_model
from sparsespec.metrics.speculation import SpecMetrics
from sparsespec.models.catalog import resolve
from sparsespec.models.tokenizer import Tokenizer
from sparsespec.models.transformer import Transformer
from sparsespec.testing.divergence.contract import weakness

MODEL = "smollm2"
DEEP = ("sparsespec", "triforce")
"""Presets that are also checked alone, in reverse order and in every loop."""
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Workload:
    """A batch: prompts with how each is to be decoded."""

    prompts: tuple[tuple[int, ...], ...]
    params: tuple[SamplingParams, ...]

    def pick(self, places: Sequence[int]) -> Workload:
        """Return the requests at some places."""
        return Workload(tuple(self.prompts[i] for i in places), tuple(self.params[i] for i in places))


@dataclass
class Bench:
    """A model, the report, and whether anything failed so far."""

    model: Transformer
    tokenizer: Tokenizer
    report: Report
    min_budget: int
    failed: bool = False

    def decode(self, spec: EngineSpec, workload: Workload) -> list[Completion]:
        """Decode a batch in an engine of its own."""
        context = max(len(p) + q.max_tokens for p, q in zip(workload.prompts, workload.params, strict=True))
        with LLM(
            self.model, spec, tokenizer=self.tokenizer, max_num_seqs=len(workload.prompts), max_model_len=context
        ) as llm:
            outputs = llm.generate(list(workload.prompts), list(workload.params))
        for output in outputs:
            if output.error:
                raise SparseSpecError(output.error)
        return [output.outputs[0] for output in outputs]

    def spec(self, preset: str, loop: str | None) -> EngineSpec:
        """Return a preset with the benchmark's `min_budget` where its selector takes one."""
        spec = PRESETS[preset].spec
        options = dict(spec.selector.options)
        if hasattr(make(spec.selector), "min_budget"):
            options["min_budget"] = self.min_budget
        selector = PartSpec("selector", spec.selector.name, options)
        return spec.replace(selector=selector, loop=loop or spec.loop)

    def judge(self, what: str, outputs: Sequence[Completion], expected: Sequence[Completion], start: float) -> None:
        """Compare, report a row, and remember a failure."""
        comparison, seconds = check_outputs(outputs, expected), time.perf_counter() - start
        metrics = sum((c.metrics for c in outputs), SpecMetrics())
        weak = weakness(metrics)
        self.failed |= bool(comparison.parted or weak)
        self.report.row(
            _line(what, comparison, metrics, seconds) + (f"  TOO WEAK: {weak}" if weak else ""),
            what=what,
            identical=comparison.identical,
            of=comparison.of,
            parted=list(comparison.parted),
            weak=weak,
            seconds=seconds,
            metrics=metrics.to_dict(),
        )
        for sentence in comparison.parted:
            print(f"    {sentence}")


def _line(what: str, comparison: CheckResult, m: SpecMetrics, seconds: float) -> str:
    rejected = f"{m.num_rejected_tokens} of {m.num_draft_tokens}" if m.num_draft_tokens else "–"
    share = f"{m.draft_kv_share:.1%}" if m.kv_full_draft else "–"
    length = f"{m.mean_acceptance_length:.2f}" if m.num_draft_tokens else "–"
    return (
        f"{what:38} identical {comparison.identical} of {comparison.of}   rejected {rejected:14} "
        f"KV read by drafts {share:6} mean acceptance length {length:5} {seconds:7.1f} s"
    )


def against_transformers(bench: Bench, folder: Path, questions: Sequence[str], tokens: int) -> None:
    """Part a."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    prompts = [bench.tokenizer.encode_chat([{"role": "user", "content": q}]) for q in questions]
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    start = time.perf_counter()
    workload = Workload(tuple(map(tuple, prompts)), (params,) * len(prompts))
    ours = bench.decode(EngineSpec(), workload)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs.generation_config.eos_token_id = None
    expected: list[Completion] = []
    for prompt, done in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        made = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0
        )
        expected.append(replace(done, token_ids=tuple(made[0, len(prompt) :].tolist())))
    bench.judge("dense = transformers, greedy", ours, expected, start)


def against_dense(bench: Bench, workload: Workload, presets: Sequence[str], deep: Sequence[str]) -> None:
    """Part b; `workload` is (greedy, seeds …) for each prompt in turn."""
    start = time.perf_counter()
    dense = bench.decode(bench.spec("dense", "sync"), workload)
    bench.report.row(f"{'dense, the reference':38} {time.perf_counter() - start:99.1f} s", what="dense")
    for preset in presets:
        start = time.perf_counter()
        bench.judge(f"{preset}, one batch, sync", bench.decode(bench.spec(preset, "sync"), workload), dense, start)
    few = [i for i in range(len(workload.prompts)) if i % (1 + len(SEEDS)) < 2]  # greedy and one seed
    some, expected = workload.pick(few), [dense[i] for i in few]
    for preset in deep:
        for what, spec, order in _deep_runs(bench, preset, len(few)):
            start = time.perf_counter()
            outputs: dict[int, Completion] = {}
            for places in order:
                outputs.update(zip(places, bench.decode(spec, some.pick(places)), strict=True))
            bench.judge(what, [outputs[i] for i in range(len(few))], expected, start)


def _deep_runs(bench: Bench, preset: str, n: int) -> Iterator[tuple[str, EngineSpec, list[list[int]]]]:
    """Yield label, spec, and the batches that are decoded one after the other."""
    own, places = bench.spec(preset, None), list(range(n))
    yield f"{preset}, alone, {own.loop}", own, [[i] for i in places]
    yield f"{preset}, reverse order, {own.loop}", own, [places[::-1]]
    for loop in LOOPS:
        yield f"{preset}, greedy + one seed, {loop}", own.replace(loop=loop), [places]


def long_prompts(tokenizer: Tokenizer, data: Path | None, n: int, context: int) -> list[tuple[int, ...]]:
    """Return `n` questions, each behind `context` tokens of real text of its own."""
    pieces = (token for piece in prose(data, skip=n) for token in tokenizer.encode(piece))
    prompts = []
    for question, _ in problems(data)[:n]:
        text = [token for _, token in zip(range(context), pieces, strict=False)]
        prompts.append((*text, *tokenizer.encode(f"\n\nProblem: {question}\n\nSolution:")))
    return prompts


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    folder = resolve(MODEL)
    model, tokenizer = load_model(folder, "float32")
    assert tokenizer is not None
    sizes: dict[str, Any] = {k: getattr(args, k) for k in ("prompts", "context", "tokens", "min_budget")}
    with Report(args.out, bench="lossless", model=MODEL, dtype="float32", **sizes, **machine()) as report:
        bench = Bench(model, tokenizer, report, args.min_budget)
        if "a" in args.parts:
            questions = [question for question, _ in problems(args.data)[: args.questions]]
            against_transformers(bench, folder, questions, args.greedy_tokens)
        if "b" in args.parts:
            greedy = SamplingParams(temperature=0.0, max_tokens=args.tokens, ignore_eos=True)
            sampled = [replace(greedy, temperature=0.8, top_p=0.95, seed=seed) for seed in SEEDS]
            prompts = long_prompts(tokenizer, args.data, args.prompts, args.context)
            pairs = [(prompt, params) for prompt in prompts for params in (greedy, *sampled)]
            workload = Workload(tuple(p for p, _ in pairs), tuple(q for _, q in pairs))
            against_dense(bench, workload, args.presets, args.deep)
        print("FAILED" if bench.failed else "all identical")
    return int(bench.failed)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="bench.lossless", description=(__doc__ or "").partition("\n")[0])
    add, names = parser.add_argument, list(PRESETS)
    add("--data", type=Path, help="JSONL with problem or question, and solution")
    add("--out", type=Path, help="append rows to this JSONL file")
    add("--parts", default="ab", choices=("a", "b", "ab"), help="which parts are run")
    add("--presets", nargs="+", default=[name for name in names if name != "dense"], choices=names)
    add("--deep", nargs="*", default=DEEP, choices=names, help="checked alone and in every loop")
    add("--questions", type=count, default=10, help="prompts of part a")
    add("--greedy-tokens", type=count, default=128, help="new tokens of part a")
    add("--prompts", type=count, default=4)
    add("--context", type=count, default=1500, help="tokens of text before each prompt of part b")
    add("--tokens", type=count, default=64, help="new tokens of part b")
    add("--min-budget", type=count, default=32)
    add("--threads", type=count, default=torch.get_num_threads())
    return parser


if __name__ == "__main__":
    exit_with(main)
