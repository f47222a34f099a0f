"""How many drafts of each selector stand, all of them judged on the same rounds of the same texts?

    python -m bench.acceptance smollm2 --prompts problems.jsonl [--texts 10 --rounds 32] [--out results.jsonl]

A text is real text, continued by the model itself at the sampling temperature. Rounds begin at fixed places of the
continuation, `draft` + 1 tokens apart; at each, every selector drafts, greedily and with the noise of the position, and
what it drafts is compared with what the model drafts when it reads everything, by the same code (selector `full`). The
equal beginning is what a verification would accept: that is the rule of the verifier `shared-noise`, and at temperature
0 of any. Then the text moves on, whatever stood (`bench/acceptance_stage.py`).

So no selector has easier rounds than another because it got to other places, near-ties cannot part two runs, greedy
rounds do not begin in the loops that small models fall into when they decode greedily, and selectors are compared in
pairs. Two things flatter all that learn from scores: the window that they learn from stood entirely, and rounds are
full. A selector's first round of a text, which no verification came before, is left out.

Intervals are the 95 % of a bootstrap over texts. Options are chosen with `--split tuning`, on texts that are never
judged on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.acceptance_recall import Prompts, reading
from bench.acceptance_stage import Script, decode, drafted, sizes
from bench.acceptance_stats import Estimate, accepted, estimate
from bench.acceptance_texts import SPLITS, TUNING, texts
from bench.common import Report, machine
from bench.engine_models import model_of, random_prompts
from bench.engine_run import clear
from bench.gpu_run import device as gpu
from sparsespec.core.errors import BadOption, SparseSpecError
from sparsespec.core.options import parameters_of
from sparsespec.core.params import SamplingParams
from sparsespec.core.registry import lookup, make
from sparsespec.core.spec import PartSpec
from sparsespec.engine.engine import Engine
from sparsespec.models.transformer import Transformer

PUBLISHED = "pillar(groups=heads,recent=0.0,scored=[0,16],warm_start=false,min_budget=192)"
SELECTORS = (
    "pillar",
    PUBLISHED,
    "pillar(groups=1,recent=0.0)",
    "pillar(pool=5)",
    "pillar(smooth=0.5)",
    "window",
    "quest",
    "snapkv",
    "random",
    "oracle",
)
SHARES = ("budget", "keep")
"""Options that `--budget` sets where a selector has them and is given none."""

Counts = npt.NDArray[np.int64]


def selector_of(text: str, budget: float) -> str:
    """Return a selector with `budget`, unless it says its own; raises for what does not exist."""
    part = PartSpec.of(text, "selector")
    takes = [name for name in SHARES if name in parameters_of(lookup("selector", part.name))]
    options = {**dict.fromkeys(takes, budget), **part.options}
    made = str(PartSpec("selector", part.name, options))
    if not make(made, shelf="selector").drafts:
        raise BadOption(f"selector {text!r} drafts nothing; give others, such as 'window' or 'pillar'")
    return made


def continued(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sequence[SamplingParams],
    known: Prompts | None = None,
) -> Tensor:
    """Return prompts, all of one length, and their continuations by the model itself, [texts, tokens].

    What `known` is to hold of the prompts is left there.
    """
    length = len(prompts[0]) + sampling[0].max_tokens
    reader, parts = reading(model, known)
    engine = Engine.compose(reader, "dense", eos_ids=(), **parts, **sizes(len(prompts), length))
    done = decode(engine, prompts, sampling)
    if known is not None:
        known.complete = True
    rows = [[*prompt, *one.token_ids] for prompt, one in zip(prompts, done, strict=True)]
    return torch.tensor(rows, device=model.device)


class Bench:
    """A model, its texts, and the rounds that all selectors are judged on."""

    def __init__(self, args: argparse.Namespace, model: Transformer, prompts: Sequence[Sequence[int]]) -> None:
        self.model, self.prompts = model, prompts
        self.draft, self.rounds, self.temperature = args.draft, args.rounds, args.temperature
        self.known: Prompts | None = None
        n, tokens = len(prompts), (args.rounds + 1) * (args.draft + 1)
        # requests of the first half are greedy, those of the second sampled; request i has seed i
        self.sampling = [
            SamplingParams(temperature=t, max_tokens=tokens, ignore_eos=True, seed=i)
            for i, t in enumerate([0.0] * n + [args.temperature] * n)
        ]

    def texts(self, context: int) -> Tensor:
        """Return the texts of a context, once for each law; the longest context is to come first."""
        prompts = [prompt[:context] for prompt in self.prompts]
        if self.model.device.type == "cpu":
            # a shorter prompt is the beginning of a longer one
            self.known = self.known or Prompts(self.model, len(prompts), context)
            self.known.begin(context)
        return continued(self.model, prompts, self.sampling[len(prompts) :], self.known).repeat(2, 1)

    def drafts(self, selector: str, context: int, tokens: Tensor) -> tuple[Tensor, list[float]]:
        """Return the drafts of a selector, without those of the first round, and the share of KV that they read."""
        clear(self.model)
        script = Script.of(tokens, context, self.draft)
        found, shares = drafted(self.model, selector, script, self.sampling, self.known)
        return found[:, 1:], shares

    @property
    def halves(self) -> dict[str, slice]:
        """Where the requests of each law are."""
        n = len(self.prompts)
        return {"greedy": slice(0, n), f"T={self.temperature:g}": slice(n, 2 * n)}


def compared(bench: Bench, report: Report, context: int, selectors: Sequence[str]) -> list[Table]:
    """Judge all selectors on the rounds of a context; return a table for each law."""
    start = time.perf_counter()
    tokens = bench.texts(context)
    truth, _ = bench.drafts("full", context, tokens)
    _control(bench, report, context, tokens, truth, time.perf_counter() - start)
    tables = {law: _table(f"{context} tokens of context, {law}", bench, selectors[0]) for law in bench.halves}
    firsts: dict[str, Counts] = {}
    for selector in selectors:
        start = time.perf_counter()
        drafts, shares = bench.drafts(selector, context, tokens)
        seconds = time.perf_counter() - start
        for law, half in bench.halves.items():
            counts, share = accepted(drafts[half], truth[half]), float(np.mean(shares[half]))
            first = firsts.setdefault(law, counts)
            mean, ahead = estimate(counts.mean(1)), estimate((counts - first).mean(1))
            line = f"{context:>6} {law:8} {mean!s:20} {share:6.1%} {seconds:6.1f} s  {selector}"
            report.row(line, **_values(context, law, selector, counts, share, mean, ahead, seconds))
            texts = f"{counts.mean(1).min():.2f} … {counts.mean(1).max():.2f}"
            tables[law].add_row(selector, str(mean), "" if first is counts else str(ahead), f"{share:.1%}", texts)
    return list(tables.values())


def _values(
    context: int, law: str, selector: str, counts: Counts, share: float, mean: Estimate, ahead: Estimate, seconds: float
) -> dict[str, Any]:
    return {
        "what": "selector",
        "context": context,
        "law": law,
        "selector": selector,
        "mean": mean._asdict(),
        "ahead_of_first": ahead._asdict(),
        "per_text": counts.mean(1).tolist(),
        "accepted": counts.tolist(),
        "kv_share": share,
        "seconds": seconds,
    }


def _control(bench: Bench, report: Report, context: int, tokens: Tensor, truth: Tensor, seconds: float) -> None:
    """Print how often the sampled drafts of the full model are the text itself: always, but for rounding."""
    _, half = bench.halves.values()
    text = tokens[half, context:].unflatten(1, (-1, bench.draft + 1))[:, 1:, : bench.draft].cpu()
    whole = float((accepted(truth[half], text) == bench.draft).mean())
    line = f"{context:>6} the text is what the full model drafts in {whole:.1%} of sampled rounds {seconds:6.1f} s"
    report.row(line, what="control", context=context, whole=whole, seconds=seconds)


def _table(title: str, bench: Bench, first: str) -> Table:
    rounds = f"{len(bench.prompts)} texts × {bench.rounds} rounds"
    table = Table(title=f"{title}: accepted of {bench.draft} drafts, {rounds}", caption=f"ahead: of {first}")
    table.add_column("selector", overflow="fold")
    for name in ("mean [95 %]", "ahead [95 %]", "KV read", "texts"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    selectors = [selector_of(text, args.budget) for text in args.selector]
    start = time.perf_counter()
    model, tokenizer = model_of(args.model, args.dtype, args.device, args.seed)
    longest = max(args.context)
    if longest + (args.rounds + 1) * (args.draft + 1) > model.config.max_model_len:
        raise BadOption(f"--context {longest} and the rounds exceed the model's {model.config.max_model_len} tokens")
    if tokenizer is None:
        prompts, origin = list(random_prompts(model.config.vocab, [longest] * args.texts, args.seed)), None
    else:
        found = texts(tokenizer, args.prompts, args.split, args.texts)
        prompts, origin = [text.tokens for text in found], {text.number: text.pieces for text in found}
    bench = Bench(args, model, prompts)
    where = gpu() if model.device.type == "cuda" else machine()
    names = ("model", "dtype", "draft", "rounds", "budget", "temperature", "split", "seed")
    settings = {name: getattr(args, name) for name in names}
    with Report(args.out, bench="acceptance", **settings, **where) as report:
        report.row(f"{len(prompts)} texts for {args.split}", what="texts", pieces=origin)
        contexts = sorted(args.context, reverse=True)
        tables = [table for context in contexts for table in compared(bench, report, context, selectors)]
    # a log has no width of its own
    console = Console(width=None if sys.stdout.isatty() else 150)
    for table in tables:
        console.print(table)
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.acceptance", description=(__doc__ or "").partition("\n")[0])
    add, cuda = parser.add_argument, torch.cuda.is_available()
    add("model", nargs="?", default="smollm2", help="an alias, a folder, a hub id, or tiny")
    add("--selector", nargs="+", default=list(SELECTORS), help="the others are compared with the first")
    add("--budget", type=float, default=0.05, help="share of the context, where a selector does not say its own")
    add("--context", nargs="+", type=int, default=[4096, 7600], help="tokens of real text before the continuation")
    add("--texts", type=int, default=10)
    add("--rounds", type=int, default=32, help="rounds of each text")
    add("--draft", type=int, default=8, help="drafts of a round")
    add("--temperature", type=float, default=0.65, help="of texts and of sampled drafts")
    add("--split", choices=SPLITS, default="evaluation", help=f"the first {TUNING} texts are for tuning, or all others")
    add("--prompts", type=Path, help="text, or JSON lines of problems; what every machine has if absent")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add("--device", default="cuda" if cuda else "cpu")
    add("--seed", type=int, default=0, help="of random weights and prompts")
    add("--out", type=Path, help="append JSON lines here")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SparseSpecError as error:
        sys.exit(str(error))
