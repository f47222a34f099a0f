"""How long does each selector make the mean acceptance length, on the same rounds of the same texts?

    python -m bench.policies.acceptance smollm2 --prompts problems.jsonl [--texts 10 --rounds 32] [--out results.jsonl]

A text is real text, continued by the model itself at the sampling temperature. Rounds begin at fixed places of the
continuation, `draft` + 1 tokens apart; at each, every selector drafts, greedily and with the noise of the position, and
what it drafts is compared with what the model drafts when it reads everything, by the same code (selector `full`). The
equal beginning is what a verification would accept: that is the rule of the verifier `shared-noise`, and at temperature
0 of any. With the token of the verification itself, it is the acceptance length of the round. Then the text moves on,
whatever was accepted (`scripted_rounds.py`).

So no selector has easier rounds than another because it got to other places, near-ties cannot part two runs, greedy
rounds do not begin in the loops that small models fall into when they decode greedily, and selectors are compared in
pairs. Two things flatter all that learn from scores: the window that they learn from was accepted entirely, and rounds
are full. A selector's first round of a text, which no verification came before, is left out.

Intervals are the 95 % of a bootstrap over texts. Options are chosen with `--split tuning`, on texts that are never
judged on.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.policies.recalled_prompts import Prompts, reading
from bench.policies.scripted_rounds import Script, decode, drafted, sizes
from sparsespec.benchmarks.models import model_of
from sparsespec.benchmarks.prompts import pieces_of, random_prompts
from sparsespec.benchmarks.report import Parser, Report, count, device_here, exit_with, where
from sparsespec.benchmarks.run import clear
from sparsespec.core.errors import BadOption
from sparsespec.core.options import parameters_of
from sparsespec.core.params import SamplingParams
from sparsespec.core.registry import lookup, make
from sparsespec.core.spec import PartSpec
from sparsespec.engine.engine import Engine
from sparsespec.models.tokenizer import Tokenizer
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
RESAMPLES = 10_000
TUNING = 4
"""Texts for choosing options of selectors; all others are for judging them."""
SPLITS = ("evaluation", "tuning")
ORDER = 7
"""Seed of the order of pieces, which no option changes."""
LONGEST = 8192
"""Tokens of a text; contexts are its beginnings."""

Counts = npt.NDArray[np.int64]


class Estimate(NamedTuple):
    """A mean over texts, and the 95 % interval of its bootstrap."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def accepted(drafts: Tensor, truth: Tensor) -> Counts:
    """Return how many drafts are accepted in each round, [texts, rounds], of [texts, rounds, draft] both."""
    return (drafts == truth).long().cumprod(-1).sum(-1).numpy()


def estimate(per_text: npt.NDArray[np.float64], seed: int = 0) -> Estimate:
    """Return the mean of one number per text, and its interval by resampling texts: rounds of one text are alike."""
    chosen = np.random.default_rng(seed).integers(len(per_text), size=(RESAMPLES, len(per_text)))
    low, high = np.percentile(per_text[chosen].mean(1), (2.5, 97.5))
    return Estimate(float(per_text.mean()), float(low), float(high))


class Text(NamedTuple):
    """One text: its number, the pieces of the file that it consists of, and its tokens."""

    number: int
    pieces: tuple[int, ...]
    tokens: tuple[int, ...]


def texts(tokenizer: Tokenizer, path: Path | None, split: str, n: int) -> list[Text]:
    """Return the first `n` texts of a split; raises `BadOption` if the file has fewer.

    The pieces of the file (solved problems, or paragraphs) are shuffled once and dealt out: a text is as many whole
    pieces as fill the longest context, and no piece is in two texts.
    """
    pieces = pieces_of(path)
    order = list(range(len(pieces)))
    random.Random(ORDER).shuffle(order)
    found: list[Text] = []
    first, last = (0, min(n, TUNING)) if split == "tuning" else (TUNING, TUNING + n)
    used: list[int] = []
    tokens: list[int] = []
    for piece in order:
        used.append(piece)
        tokens += tokenizer.encode(pieces[piece])
        if len(tokens) >= LONGEST:
            found.append(Text(len(found), tuple(used), tuple(tokens[:LONGEST])))
            used, tokens = [], []
        if len(found) == last:
            return found[first:]
    has = f"{min(TUNING, len(found))} texts for tuning and {max(0, len(found) - TUNING)} for evaluation"
    raise BadOption(f"{path or 'the text at hand'} is enough for {has}, of {LONGEST} tokens each, got --texts {n}")


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
        self.params = [
            SamplingParams(temperature=t, max_tokens=tokens, ignore_eos=True, seed=i)
            for i, t in enumerate([0.0] * n + [args.temperature] * n)
        ]

    def texts(self, context: int) -> Tensor:
        """Return the texts of a context, once greedy and once sampled; the longest context is to come first."""
        prompts = [prompt[:context] for prompt in self.prompts]
        if self.model.device.type == "cpu":
            # a shorter prompt is the beginning of a longer one
            self.known = self.known or Prompts(self.model, len(prompts), context)
            self.known.begin(context)
        return continued(self.model, prompts, self.params[len(prompts) :], self.known).repeat(2, 1)

    def drafts(self, selector: str, context: int, tokens: Tensor) -> tuple[Tensor, list[float]]:
        """Return the drafts of a selector, without those of the first round, and the share of KV that they read."""
        clear(self.model)
        script = Script.of(tokens, context, self.draft)
        found, shares = drafted(self.model, selector, script, self.params, self.known)
        return found[:, 1:], shares

    @property
    def halves(self) -> dict[str, slice]:
        """The greedy requests, and the sampled ones."""
        n = len(self.prompts)
        return {"greedy": slice(0, n), f"T={self.temperature:g}": slice(n, 2 * n)}


def compared(bench: Bench, report: Report, context: int, selectors: Sequence[str]) -> list[Table]:
    """Judge all selectors on the rounds of a context; return a table for greedy and one for sampled requests."""
    start = time.perf_counter()
    tokens = bench.texts(context)
    truth, _ = bench.drafts("full", context, tokens)
    _control(bench, report, context, tokens, truth, time.perf_counter() - start)
    tables = {half: _table(f"{context} tokens of context, {half}", bench, selectors[0]) for half in bench.halves}
    firsts: dict[str, Counts] = {}
    for selector in selectors:
        start = time.perf_counter()
        drafts, shares = bench.drafts(selector, context, tokens)
        seconds = time.perf_counter() - start
        for half, requests in bench.halves.items():
            counts, share = accepted(drafts[requests], truth[requests]), float(np.mean(shares[requests]))
            first = firsts.setdefault(half, counts)
            lengths = 1 + counts.mean(1)
            mean, ahead = estimate(lengths), estimate((counts - first).mean(1))
            report.row(
                f"{context:>6} {half:8} {mean!s:20} {share:6.1%} {seconds:6.1f} s  {selector}",
                what="selector",
                context=context,
                sampling=half,
                selector=selector,
                mean_acceptance_length=mean._asdict(),
                ahead_of_first=ahead._asdict(),
                per_text=lengths.tolist(),
                accepted=counts.tolist(),
                kv_share=share,
                seconds=seconds,
            )
            spread = f"{lengths.min():.2f} … {lengths.max():.2f}"
            tables[half].add_row(selector, str(mean), "" if first is counts else str(ahead), f"{share:.1%}", spread)
    return list(tables.values())


def _control(bench: Bench, report: Report, context: int, tokens: Tensor, truth: Tensor, seconds: float) -> None:
    """Print how often the sampled drafts of the full model are the text itself: always, but for rounding."""
    _, half = bench.halves.values()
    text = tokens[half, context:].unflatten(1, (-1, bench.draft + 1))[:, 1:, : bench.draft].cpu()
    whole = float((accepted(truth[half], text) == bench.draft).mean())
    line = f"{context:>6} the text is what the full model drafts in {whole:.1%} of sampled rounds {seconds:6.1f} s"
    report.row(line, what="control", context=context, whole=whole, seconds=seconds)


def _table(title: str, bench: Bench, first: str) -> Table:
    rounds = f"{len(bench.prompts)} texts × {bench.rounds} rounds of {bench.draft} drafts"
    table = Table(title=f"{title}: mean acceptance length, {rounds}", caption=f"ahead: of {first}")
    table.add_column("selector", overflow="fold")
    for name in ("mean [95 %]", "ahead [95 %]", "KV read", "texts"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
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
    names = ("model", "dtype", "draft", "rounds", "budget", "temperature", "split", "seed")
    settings = {name: getattr(args, name) for name in names}
    with Report(args.out, bench="acceptance", **settings, **where(model.device.type)) as report:
        report.row(f"{len(prompts)} texts for {args.split}", what="texts", pieces=origin)
        contexts = sorted(args.context, reverse=True)
        tables = [table for context in contexts for table in compared(bench, report, context, selectors)]
    # a log has no width of its own
    console = Console(width=None if sys.stdout.isatty() else 150)
    for table in tables:
        console.print(table)
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="bench.policies.acceptance", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("model", nargs="?", default="smollm2", help="an alias, a folder, a hub id, or tiny")
    add("--selector", nargs="+", default=list(SELECTORS), help="the others are compared with the first")
    add("--budget", type=float, default=0.05, help="share of the context, where a selector does not say its own")
    add("--context", nargs="+", type=count, default=[4096, 7600], help="tokens of real text before the continuation")
    add("--texts", type=count, default=10)
    add("--rounds", type=count, default=32, help="rounds of each text")
    add("--draft", type=count, default=8, help="drafts of a round")
    add("--temperature", type=float, default=0.65, help="of texts and of sampled drafts")
    add("--split", choices=SPLITS, default="evaluation", help=f"the first {TUNING} texts are for tuning, or all others")
    add("--prompts", type=Path, help="text, or JSON lines of problems; what every machine has if absent")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add("--device", default=device_here())
    add("--seed", type=int, default=0, help="of random weights and prompts")
    add("--out", type=Path, help="append JSON lines here")
    return parser


if __name__ == "__main__":
    exit_with(main)
