"""`sparsespec generate`: text as it comes, then a table of what speculation did."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from sparsespec.cli_check import Comparison, compare_with_dense, power
from sparsespec.core.errors import BadModel, BadOption, BadRequest
from sparsespec.core.params import SamplingParams
from sparsespec.engine.compose import compose
from sparsespec.engine.outputs import Completion
from sparsespec.llm import LLM, load_model
from sparsespec.metrics.speculation import SpecMetrics
from sparsespec.models.catalog import Progress as Report
from sparsespec.models.tokenizer import Tokenizer

MAX_BATCH = 8
"""Samples decoded at once."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the command line asks for; `changes` are parts by shelf and the loop, `sampling` loose parameters."""

    prompt: str
    chat: bool
    model: str
    dtype: str
    preset: str
    changes: Mapping[str, Any]
    sampling: Mapping[str, Any]
    as_json: bool = False
    check: bool = False


@dataclass(slots=True)
class Outcome:
    """What was decoded, in how many seconds, and how it compares with dense decoding."""

    llm: LLM
    params: SamplingParams
    seconds: float = 0.0
    outputs: list[Completion] = field(default_factory=list[Completion])
    comparison: Comparison | None = None

    @property
    def metrics(self) -> SpecMetrics:
        """All samples together."""
        return sum((c.metrics for c in self.outputs), SpecMetrics())

    @property
    def code(self) -> int:
        """Exit code: 1 where a sample broke off or parted from dense decoding."""
        broken = any(c.error for c in self.outputs)
        return int(broken or (self.comparison is not None and bool(self.comparison.parted)))


def run(job: Job) -> int:
    """Do the job and return the exit code; raises `SparseSpecError` for what the caller can mend."""
    params = SamplingParams.of(**job.sampling)
    parts = compose(job.preset, job.changes)[0]  # before minutes of fetching
    if job.check and not params.is_greedy and "draft_probs" in parts.verifier.needs:
        raise BadOption(
            "--check compares tokens, and this verifier keeps only their law when it samples; "
            "use --temperature 0, or --verifier shared-noise"
        )
    with _progress_bar() as report:
        model, tokenizer = load_model(job.model, job.dtype, progress=report)
    if tokenizer is None:
        raise BadRequest(f"the model {job.model!r} has no tokenizer; use it from Python, with token ids")
    prompt = _encode(tokenizer, job)
    room = min(model.config.max_context, len(prompt) + params.max_tokens)
    sizes = {"max_context": room, "max_batch": min(params.n, MAX_BATCH)}
    with LLM(model, job.preset, tokenizer=tokenizer, **sizes, **job.changes) as llm:
        outcome = Outcome(llm, params)
        _decode(outcome, prompt, quiet=job.as_json)
        if job.check and not any(c.error for c in outcome.outputs):
            outcome.comparison = compare_with_dense(llm, outcome.outputs, params)
        _tell(outcome, job)
    return outcome.code


def _encode(tokenizer: Tokenizer, job: Job) -> Sequence[int]:
    if not job.chat:
        return tokenizer.encode(job.prompt)
    try:
        return tokenizer.encode_chat([{"role": "user", "content": job.prompt}])
    except BadModel as error:
        raise BadModel(f"{error}, with --no-chat") from error


def _decode(outcome: Outcome, prompt: Sequence[int], *, quiet: bool) -> None:
    """Decode; a single sample is printed as it comes, several when each is complete."""
    several, start = outcome.params.n > 1, time.perf_counter()
    for event in outcome.llm.stream(prompt, outcome.params):
        done = event.completion
        if done:
            outcome.outputs.append(done)
        if not quiet:
            text = event.text
            if several:
                text = f"── sample {done.sample} ──\n{done.text}\n" if done else ""
            print(text, end="\n" if done and not several else "", flush=True)
    outcome.seconds = time.perf_counter() - start
    outcome.outputs.sort(key=lambda c: c.sample)


def _tell(outcome: Outcome, job: Job) -> None:
    if job.as_json:
        print(json.dumps(_plain(outcome, job)))
        return
    # a fixed width keeps tables whole in files and pipes
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    console.print()
    console.print(_table(outcome))
    for completion in outcome.outputs:
        if completion.error:
            print(f"error: sample {completion.sample} broke off: {completion.error}", file=sys.stderr)
    if outcome.comparison:
        console.print(f"[bold]{outcome.comparison}[/]")
        if proof := power(outcome.metrics):
            console.print(f"  {proof}", soft_wrap=True)
        for sentence in outcome.comparison.parted:
            console.print(f"  {sentence}", markup=False, soft_wrap=True)


def _table(outcome: Outcome) -> Table:
    """Return the figures of all samples together."""
    m, first = outcome.metrics, outcome.outputs[0]
    table = Table(show_header=False, title="what speculation did", title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    rate = m.num_output_tokens / outcome.seconds
    table.add_row("prompt", f"{len(first.prompt_token_ids)} tokens")
    table.add_row("output", f"{m.num_output_tokens} tokens in {outcome.seconds:.1f} s, prompt included")
    table.add_row("speed", f"{rate:.1f} tokens/s")
    table.add_row("mean acceptance length", _figure(m.mean_acceptance_length, "{:.2f} tokens a round"))
    table.add_row("draft acceptance rate", _figure(m.draft_acceptance_rate, "{:.1%}"))
    table.add_row("rejected drafts", f"{m.num_rejected_tokens} of {m.num_draft_tokens}")
    table.add_row("KV read by drafts", _figure(m.draft_kv_share, "{:.1%} of the context"))
    table.add_row("KV read in all", _figure(m.kv_share, "{:.1%} of what dense decoding reads"))
    table.add_row("finished by", ", ".join(c.finish_reason for c in outcome.outputs))
    table.add_row("seed", str(first.seed))
    return table


def _figure(value: float, form: str) -> str:
    return "–" if value != value else form.format(value)


def _plain(outcome: Outcome, job: Job) -> dict[str, Any]:
    """Return everything as JSON values."""
    comparison = outcome.comparison
    return {
        "model": job.model,
        "dtype": job.dtype,
        "spec": outcome.llm.spec.to_dict(),
        "params": outcome.params.to_dict(),
        "prompt_tokens": len(outcome.outputs[0].prompt_token_ids),
        "seconds": outcome.seconds,
        "outputs": [_sample(c) for c in outcome.outputs],
        "metrics": outcome.metrics.to_dict(),
        "check": comparison
        and {"identical": comparison.identical, "of": comparison.of, "parted": list(comparison.parted)},
    }


def _sample(c: Completion) -> dict[str, Any]:
    return {
        "sample": c.sample,
        "text": c.text,
        "token_ids": list(c.token_ids),
        "finish_reason": c.finish_reason,
        "stop_reason": c.stop_reason,
        "error": c.error,
        "seed": c.seed,
        "metrics": c.metrics.to_dict(),
    }


@contextmanager
def _progress_bar() -> Iterator[Report]:
    """Show a bar on stderr from the first report on; a model that is at hand shows none."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, TaskID] = {}

    def report(label: str, done: int, total: int) -> None:
        if not tasks:
            progress.start()
        if label not in tasks:
            # one step of one says that something is under way, and no more
            tasks[label] = progress.add_task(label, total=None if total == 1 and not done else total)
        progress.update(tasks[label], completed=done, total=None if total == 1 and not done else total)

    try:
        yield report
    finally:
        if tasks:
            progress.stop()
