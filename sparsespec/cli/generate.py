"""`sparsespec generate`: text as it comes, then a table of what speculation did."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table

from sparsespec.cli.check import CheckResult, compare_with_dense, power
from sparsespec.cli.composition import Composition
from sparsespec.cli.screen import Bars, Reading, memory_rows, say_json, speculation_rows, stdout
from sparsespec.core.errors import BadModel, BadOption
from sparsespec.core.params import SamplingParams
from sparsespec.engine.outputs import Completion, StepResult
from sparsespec.engine.parts import Parts
from sparsespec.llm import LLM
from sparsespec.metrics.pages import PageMetrics
from sparsespec.metrics.speculation import SpecMetrics
from sparsespec.models.tokenizer import Tokenizer

MAX_NUM_SEQS = 8
"""Samples decoded at once."""


@dataclass(frozen=True, slots=True)
class GenerateArgs:
    """What the command line asks for; `sampling` holds the parameters that were given, by name."""

    prompt: str
    chat: bool
    composition: Composition
    sampling: Mapping[str, Any]
    as_json: bool = False
    check: bool = False


@dataclass(slots=True)
class Outcome:
    """The outputs, the seconds they took, and how they compare with dense decoding."""

    llm: LLM
    params: SamplingParams
    pages: PageMetrics
    seconds: float = 0.0
    outputs: list[Completion] = field(default_factory=list[Completion])
    check: CheckResult | None = None

    @property
    def metrics(self) -> SpecMetrics:
        """What speculation did in all samples together."""
        return sum((c.metrics for c in self.outputs), SpecMetrics())

    @property
    def code(self) -> int:
        """Exit code: 1 where a sample broke off or parted from dense decoding."""
        broken = any(c.error for c in self.outputs)
        return int(broken or (self.check is not None and bool(self.check.parted)))


def run(args: GenerateArgs) -> int:
    """Decode, print and return the exit code; raises `SparseSpecError` for what the caller can mend."""
    given, parts = SamplingParams(**args.sampling), args.composition.parts()
    if args.check and "temperature" in args.sampling:
        _check_is_possible(given, parts)  # before minutes of fetching, where it is known by then
    with Bars() as bars:
        model, tokenizer = args.composition.load(bars)
        params = replace(model.config.default_sampling_params, **args.sampling)
        if args.check:
            _check_is_possible(params, parts)
        prompt = _encode(tokenizer, args)
        sizes = {"max_model_len": len(prompt) + params.max_tokens, "max_num_seqs": min(params.n, MAX_NUM_SEQS)}
        with args.composition.open(model, tokenizer, **sizes) as llm:
            geometry = llm.engine.geometry
            outcome = Outcome(llm, params, PageMetrics(geometry.num_gpu_blocks - 1, geometry.page_bytes))
            _decode(outcome, prompt, bars, quiet=args.as_json)
            if args.check and not any(c.error for c in outcome.outputs):
                outcome.check = compare_with_dense(llm, outcome.outputs, params, progress=bars)
                bars.hide()
            _tell(outcome, args)
    return outcome.code


def _check_is_possible(params: SamplingParams, parts: Parts) -> None:
    if not params.is_greedy and "draft_probs" in parts.verifier.needs:
        raise BadOption(
            "--check compares tokens, and this verifier keeps only their distribution when it samples; "
            "use --temperature 0, or --verifier shared-noise"
        )


def _encode(tokenizer: Tokenizer, args: GenerateArgs) -> Sequence[int]:
    if not args.chat:
        return tokenizer.encode(args.prompt)
    try:
        return tokenizer.encode_chat([{"role": "user", "content": args.prompt}])
    except BadModel as error:
        raise BadModel(f"{error}, with --no-chat") from error


def _decode(outcome: Outcome, prompt: Sequence[int], bars: Bars, *, quiet: bool) -> None:
    """Decode; a single sample is printed as it comes, several when each is complete."""
    params = outcome.params
    alone, n_tokens, start = params.n == 1, 0, time.perf_counter()
    reading = Reading(bars, len(prompt))

    def watch(result: StepResult) -> None:
        reading(result)
        outcome.pages.add(result.info)

    for event in outcome.llm.stream(prompt, params, on_step=watch):
        done = event.completion
        if done:
            outcome.outputs.append(done)
        n_tokens += len(event.token_ids)
        if quiet or not (alone or done):
            bars("decoding", n_tokens, params.n * params.max_tokens)
            continue
        bars.hide()
        if alone:
            print(event.text, end="\n" if done else "", flush=True)
        elif done:
            print(f"── sample {done.sample_index} ──\n{done.text}\n", flush=True)
    bars.hide()
    outcome.seconds = time.perf_counter() - start
    outcome.outputs.sort(key=lambda c: c.sample_index)


def _tell(outcome: Outcome, args: GenerateArgs) -> None:
    if args.as_json:
        say_json(_plain(outcome, args))
        return
    console = stdout()
    console.print()
    console.print(_table(outcome))
    for completion in outcome.outputs:
        if completion.error:
            print(f"error: sample {completion.sample_index} broke off: {completion.error}", file=sys.stderr)
    if outcome.check:
        console.print(f"[bold]{outcome.check}[/]")
        if proof := power(outcome.metrics):
            console.print(f"  {proof}", soft_wrap=True)
        for sentence in outcome.check.parted:
            console.print(f"  {sentence}", markup=False, soft_wrap=True)


def _table(outcome: Outcome) -> Table:
    """Return the figures of all samples together as a table."""
    m, first = outcome.metrics, outcome.outputs[0]
    table = Table(show_header=False, title="what speculation did", title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    table.add_row("prompt", f"{len(first.prompt_token_ids)} tokens")
    table.add_row("output", f"{m.num_output_tokens} tokens in {outcome.seconds:.1f} s, prompt included")
    table.add_row("speed", f"{m.num_output_tokens / outcome.seconds:.1f} tokens/s")
    for row in speculation_rows(m):
        table.add_row(*row)
    for row in memory_rows(outcome.pages, m.num_recomputed_tokens):
        table.add_row(*row)
    table.add_row("finished by", ", ".join(c.finish_reason for c in outcome.outputs))
    table.add_row("seed", str(first.seed))
    return table


def _plain(outcome: Outcome, args: GenerateArgs) -> dict[str, Any]:
    """Return everything as JSON values."""
    check = outcome.check
    return {
        "model": args.composition.model,
        "dtype": args.composition.dtype,
        "spec": outcome.llm.spec.to_dict(),
        "sampling_params": outcome.params.to_dict(),
        "prompt_tokens": len(outcome.outputs[0].prompt_token_ids),
        "seconds": outcome.seconds,
        "outputs": [_sample(c) for c in outcome.outputs],
        "metrics": outcome.metrics.to_dict(),
        "kv": outcome.pages.to_dict(),
        "check": check and {"identical": check.identical, "of": check.of, "parted": list(check.parted)},
    }


def _sample(c: Completion) -> dict[str, Any]:
    return {
        "sample_index": c.sample_index,
        "text": c.text,
        "token_ids": list(c.token_ids),
        "finish_reason": c.finish_reason,
        "stop_reason": c.stop_reason,
        "error": c.error,
        "seed": c.seed,
        "queue_seconds": c.queue_seconds,
        "metrics": c.metrics.to_dict(),
    }
