"""What do tier managers make of memory that is too small?

    python -m bench.tiers MODEL [--demand 2 4] [--tiers host gpu reserve] [--out results.jsonl] [--plot tiers.svg]
    python -m bench.tiers --read results.jsonl [--plot tiers.svg]

The pool is cut so that the requests that sit on seats want `--demand` times as many pages at their ends. `host` is run
a second time, with its copies left out by turns: by how much steps with copies are longer is what copying costs. MODEL
is as in `bench.engine`. Exit status 1 if a tier manager failed.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.common import Report, machine
from bench.engine import attempt, count, positive, span
from bench.engine_models import RANDOM, model_of, random_prompts, text_prompts
from bench.engine_result import step_times
from bench.engine_run import Prompts, clear
from bench.engine_subjects import Subject, subjects
from bench.gpu_run import device as gpu
from bench.row_file import Row, read_rows
from bench.tiers_plot import plot
from bench.tiers_run import Pressed, PressedBench, cost_of_copies
from sparsespec.core.errors import BadOption, SparseSpecError, brief
from sparsespec.models.transformer import Transformer

HEAD = (
    f"{'demand':>6} {'pages':>6} {'tokens/s':>9} {'mean ms':>8} {'p50':>7} {'p95':>7} {'rows':>5} {'in use':>7} "
    f"{'out GB':>7} {'back GB':>7} {'overlap':>7} {'again':>8} {'copies cost':>12}  tiers"
)
BY_TURNS = ", copies left out by turns"


def line_of(row: Row) -> str:
    """Return a row as the table shows it."""
    if "failed" in row:
        return f"{'—':>6} {row['composition']}: {brief(row['failed'])}"
    times = row["step_ms"]
    cells = (
        f"{row['demand']:6.1f} {row['pages']:6d} {row['tokens_per_second']:9.0f}",
        f"{times['mean']:8.3f} {times['p50']:7.3f} {times['p95']:7.3f} {row['rows']:5.1f}",
        f"{'—' if row['in_use'] is None else format(row['in_use'], '.1%'):>7}",
        f"{1e-9 * row['spilled_bytes']:7.2f} {1e-9 * row['restored_bytes']:7.2f}",
        f"{'—' if row['overlap'] is None else format(row['overlap'], '.1%'):>7} {row['recomputed']:8d}",
        f"{'—' if row['copies_cost'] is None else '{:+.1%} ± {:.1%}'.format(*row['copies_cost']):>12}",
    )
    return f"{' '.join(cells)}  {row['composition']}{'  (synthetic)' if row['synthetic'] else ''}"


def run(
    model: Transformer, subject: Subject, *, load: Pressed, prompts: Prompts, weights: str, accept: float | None,
    demand: float, pages: int, by_turns: bool,
) -> Row:  # fmt: skip
    """Return the row of one tier manager."""
    clear(model)
    bench = PressedBench(model, subject, load, accept, by_turns=by_turns)
    try:
        bench.start(prompts, weights=weights)
        tally = bench.measure()
        watch, seconds, tokens = bench.watch, sum(tally.step_seconds), sum(tally.tokens)
        over_time = watch.pages
        # a page that is copied is neither free nor lost
        used = [1 - free / (pages - 1) for free, waits in zip(over_time.free, watch.waits, strict=True) if waits]
        return {
            "composition": subject.label + (BY_TURNS if by_turns else ""),
            "synthetic": accept is not None,
            "spec": bench.engine.spec.to_dict(),
            "load": load.to_dict(),
            "demand": demand,
            "tokens_per_second": tokens / seconds,
            "step_ms": step_times(tally),
            "rows": sum(watch.rows) / len(watch.rows),
            "finished": tally.finished,
            "in_use": sum(used) / len(used) if used else None,
            "waiting_steps": len(used),
            **over_time.to_dict(),
            "preempted": watch.preempted,
            "recomputed": watch.recomputed,
            "copies_cost": cost_of_copies(tally.step_seconds, watch.fills, watch.begins) if by_turns else None,
            "overlap": bench.device.overlap(),
            "accepted_a_round": tally.accepted / tally.rounds if tally.rounds else None,
            "gpu_idle": bench.device.idle_share(),
            "over_time": {"free": over_time.free, "moving": over_time.moving, "host": over_time.host},
            "ledger_bytes": dict(bench.engine.ledger.entries),
        }
    finally:
        bench.close()


def measured(args: argparse.Namespace) -> list[Row]:
    """Measure what is wanted, and print a row as soon as it is there; return the rows."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    load = Pressed(
        batch=args.batch, context=args.context, output=args.output, steps=args.steps, warmup=args.warmup, windows=5,
        seconds=args.seconds, seed=args.seed, temperature=args.temperature, turnover=True, prefill=False,
    )  # fmt: skip
    subjects([args.preset], accept=args.accept)
    model, tokenizer = model_of(args.model, "bfloat16" if place == "cuda" else "float32", place, args.seed)
    if tokenizer is None:
        prompts: Prompts = partial(random_prompts, model.config.vocab, seed=args.seed)
    else:
        prompts = partial(text_prompts, tokenizer, args.prompts, seed=args.seed)
    rows: list[Row] = []
    header = {"bench": "tiers", "model": args.model, "preset": args.preset, "accept": args.accept, "batch": args.batch}
    where = gpu() if place == "cuda" else machine()
    with Report(args.out, **header, context=args.context, output=args.output, seed=args.seed, **where) as report:
        print(HEAD, flush=True)
        for demand in args.demand:
            for tiers, by_turns in _variants(args.tiers):
                rows.append(_one(model, args, load, prompts, demand, tiers, by_turns, real=tokenizer is not None))
                report.row(line_of(rows[-1]), **rows[-1])
    return rows


def _variants(names: list[str]) -> list[tuple[str, bool]]:
    pairs: list[tuple[str, bool]] = []
    for name in names:
        pairs += [(name, False), (name, True)] if name.startswith("host") else [(name, False)]
    return pairs


def _one(
    model: Transformer, args: argparse.Namespace, load: Pressed, prompts: Prompts, demand: float, tiers: str,
    by_turns: bool, *, real: bool,
) -> Row:  # fmt: skip
    text, colon = args.preset, "," if ":" in args.preset else ":"
    (whole,) = subjects([text], accept=args.accept)
    pages = 1 + int(load.demand(whole) / demand)
    (subject,) = subjects([f"{text}{colon}tiers={tiers},num_gpu_blocks={pages}"], accept=args.accept)
    one = partial(
        run, model, load=load, prompts=prompts, weights="real" if real else "random", accept=args.accept,
        demand=demand, pages=pages, by_turns=by_turns,
    )  # fmt: skip
    return attempt(subject, one)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.tiers", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("model", nargs="?", help=f"random weights: {', '.join(RANDOM)}; or an alias, a folder, a hub id")
    add("--demand", nargs="+", type=positive, default=[2.0, 4.0], help="pages wanted, as a multiple of the pool's")
    add("--tiers", nargs="+", default=["host", "gpu", "reserve"], help="tier managers, with their options")
    add("--preset", default="sparsespec", metavar="NAME[:CHANGES]", help="a preset, as `bench.engine` takes it")
    add("--accept", type=float, metavar="MEAN", help="make acceptance up: so many drafts of a round, in the mean")
    add("--batch", type=count, default=8, help="requests that sit on seats at once")
    add("--context", type=span, default=(64, 128), help="tokens of the prompts: a number, or LOW:HIGH")
    add("--output", type=span, default=(64, 512), help="tokens a request says: a number, or LOW:HIGH")
    add("--steps", type=count, default=300, help="steps to measure")
    add("--warmup", type=count, default=100, help="steps before them")
    add("--seconds", type=positive, default=60.0, help="measure a tier manager no longer than this")
    add("--temperature", type=float, default=0.0, help="0 is greedy")
    add("--seed", type=int, default=0, help="of weights, prompts, lengths and draws")
    add("--prompts", type=Path, help="text, or JSON lines of problems, for prompts of a model with weights")
    add("--out", type=Path, help="append JSON lines here")
    add("--read", type=Path, help="show the newest rows of what --out wrote, and measure nothing")
    add("--plot", type=Path, help="draw where pages were over time, as SVG")
    return parser


def again(path: Path) -> list[Row]:
    """Print what `--out` wrote before; return its rows."""
    pairs = read_rows(
        path, "bench.tiers", key=lambda header, row: (header["model"], row.get("demand"), row["composition"]),
        line_of=line_of, wrote=lambda header: header["bench"] == "tiers",
    )  # fmt: skip
    print(HEAD)
    for _, row in pairs:
        print(line_of(row))
    return [row for _, row in pairs]


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if bool(args.read) == bool(args.model):
        raise BadOption("give a model to measure, or --read a file that was measured before")
    rows: list[dict[str, Any]] = again(args.read) if args.read else measured(args)
    if args.plot:
        plot(rows, args.plot)
    return 1 if any("failed" in row for row in rows) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SparseSpecError as error:
        sys.exit(str(error))
