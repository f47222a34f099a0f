"""`sparsespec chat`: a line is a turn; text as it comes, then one line of what speculation did.

Every turn reads the whole conversation again. Ctrl-C ends an answer and keeps what it has; at the prompt it ends the
program, as Ctrl-D does with exit code 0.
"""

from __future__ import annotations

import importlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from sparsespec.cli.composition import Composition
from sparsespec.cli.screen import Bars, Reading, say_json, stdout
from sparsespec.core.errors import BadRequest
from sparsespec.core.params import SamplingParams
from sparsespec.engine.outputs import Completion, StepResult
from sparsespec.llm import LLM

HELP = "/reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C ends an answer"


@dataclass(frozen=True, slots=True)
class ChatArgs:
    """What the command line asks for; `sampling` holds the parameters that were given, by name."""

    composition: Composition
    sampling: Mapping[str, Any]
    system: str | None = None
    max_model_len: int = 4096
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one turn; `done` is None where Ctrl-C broke it off."""

    text: str
    done: Completion | None
    seconds: float


class _Stopped(Exception):
    """Ctrl-C, raised between two steps of the engine."""


def run(args: ChatArgs) -> int:
    """Chat until the input ends; a turn that cannot be served says why, and the conversation goes on."""
    SamplingParams(**args.sampling)  # raises what is wrong with them, before minutes of fetching
    args.composition.parts()
    first = [{"role": "system", "content": args.system}] if args.system else []
    with Bars() as bars:
        model, tokenizer = args.composition.load(bars)
        params = replace(model.config.default_sampling_params, **args.sampling)
        # a template that takes no system message is refused now, and not at the first turn
        tokenizer.encode_chat([*first, {"role": "user", "content": "?"}])
        with args.composition.open(model, tokenizer, max_model_len=args.max_model_len, max_num_seqs=1) as llm:
            messages, failed = list(first), False
            for line in _lines(args):
                if line == "/reset":
                    messages = list(first)
                    continue
                messages.append({"role": "user", "content": line})
                try:
                    answer = _answer(llm, messages, params, bars, quiet=args.as_json)
                except BadRequest as error:
                    messages.pop()
                    failed = True
                    print(f"error: {error}; /reset starts again", file=sys.stderr)
                    continue
                failed |= answer.done is not None and answer.done.error is not None
                messages.append({"role": "assistant", "content": answer.text})
                _tell(args, line, answer)
    # at a terminal the error was seen; a script needs an exit code
    return int(failed and not sys.stdin.isatty())


def _lines(args: ChatArgs) -> Iterator[str]:
    """Yield what the user types, empty lines left out, until /exit or the end of stdin."""
    asks = sys.stdin.isatty() and not args.as_json
    if asks:
        # gives input() history and editing, where the platform has it
        with suppress(ImportError):
            importlib.import_module("readline")
        stdout().print(f"[dim]{HELP}[/]")
    while True:
        try:
            line = (input("> ") if asks else _read()).strip()
        except EOFError:
            return
        if line == "/exit":
            return
        if line.startswith("/") and line != "/reset":
            print(f"error: there is no {line.split()[0]}: {HELP}", file=sys.stderr)
        elif line:
            yield line


def _read() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _answer(llm: LLM, messages: list[dict[str, str]], params: SamplingParams, bars: Bars, *, quiet: bool) -> Answer:
    """Decode one turn."""
    assert llm.tokenizer is not None, "a model without a tokenizer was let in"
    prompt, start = llm.tokenizer.encode_chat(messages), time.perf_counter()
    reading, text, done = Reading(bars, len(prompt)), "", None
    with _interrupts() as interrupted:

        def watch(result: StepResult) -> None:
            reading(result)
            if interrupted():
                raise _Stopped

        try:
            for event in llm.stream(prompt, params, on_step=watch):
                bars.hide()
                text, done = text + event.text, event.completion
                if not quiet:
                    print(event.text, end="", flush=True)
        except _Stopped:
            bars.hide()
    if not quiet:
        print(flush=True)
    return Answer(text, done, time.perf_counter() - start)


@contextmanager
def _interrupts() -> Iterator[Callable[[], int]]:
    """Count Ctrl-C at a terminal instead of raising in the middle of a step; the second one raises."""
    count = 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt

    if not sys.stdin.isatty():
        yield lambda: 0
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: count
    finally:
        signal.signal(signal.SIGINT, before)


def _tell(args: ChatArgs, line: str, answer: Answer) -> None:
    done = answer.done
    if args.as_json:
        said: dict[str, Any] = {"user": line, "assistant": answer.text, "seconds": answer.seconds}
        said["finish_reason"] = done.finish_reason if done else "abort"
        said |= {"error": done and done.error, "seed": done and done.seed, "metrics": done and done.metrics.to_dict()}
        say_json(said)
    elif done is None:
        stdout().print("[dim]interrupted[/]")
    else:
        m = done.metrics
        words = [f"{m.num_output_tokens} tokens", f"{m.num_output_tokens / answer.seconds:.1f} tokens/s"]
        if m.num_spec_rounds:
            words.append(f"{m.mean_acceptance_length:.2f} tokens a round")
        if m.kv_full_draft:
            words.append(f"drafts read {m.draft_kv_share:.0%} of the context")
        if done.error:
            words.append(f"broken off: {done.error}")
        stdout().print(", ".join(words), style="dim", markup=False)
