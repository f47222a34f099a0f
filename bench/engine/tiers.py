"""What do tier managers make of memory that is too small?

    python -m bench.engine.tiers MODEL [--demand 2 4] [--tiers host gpu reserve] [--out rows.jsonl] [--plot tiers.svg]
    python -m bench.engine.tiers --read rows.jsonl [--plot tiers.svg]

The pool is cut so that the requests that sit on seats want `--demand` times as many pages at their ends. `host` is run
a second time, with its copies left out by turns: by how much steps with copies are longer is what copying costs. MODEL
is as in `sparsespec bench`. Exit status 1 if a tier manager failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.engine.tiers_run import Pressed, PressedBench, cost_of_copies
from sparsespec.benchmarks.entries import Entry, entries
from sparsespec.benchmarks.models import RANDOM, model_of
from sparsespec.benchmarks.prompts import Prompts, prompts_for
from sparsespec.benchmarks.report import (
    Report,
    Row,
    add_output_options,
    attempt,
    check_output_options,
    count,
    device_here,
    exit_with,
    figure,
    percent_axis,
    positive,
    read_rows,
    show_again,
    span,
    where,
)
from sparsespec.benchmarks.result import step_times
from sparsespec.benchmarks.run import clear
from sparsespec.core.errors import BadOption, brief
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
    return f"{' '.join(cells)}  {row['composition']}{'  (simulated)' if row['simulated'] else ''}"


def run(
    model: Transformer, entry: Entry, *, load: Pressed, prompts: Prompts, weights: str, accept: float | None,
    demand: float, pages: int, by_turns: bool,
) -> Row:  # fmt: skip
    """Return the row of one tier manager."""
    clear(model)
    bench = PressedBench(model, entry, load, accept, by_turns=by_turns)
    try:
        bench.start(prompts, weights=weights)
        tally = bench.measure()
        watch, seconds, tokens = bench.watch, sum(tally.step_seconds), sum(tally.tokens)
        over_time = watch.pages
        # a page that is copied is neither free nor lost
        used = [1 - free / (pages - 1) for free, waits in zip(over_time.free, watch.waits, strict=True) if waits]
        return {
            "composition": entry.label + (BY_TURNS if by_turns else ""),
            "simulated": accept is not None,
            "spec": bench.spec.to_dict(),
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
            "mean_acceptance_length": tally.mean_acceptance_length,
            "gpu_idle": bench.device.idle_share(),
            "over_time": {"free": over_time.free, "moving": over_time.moving, "host": over_time.host},
            "ledger_bytes": dict(bench.engine.ledger.entries),
        }
    finally:
        bench.close()


def measured(args: argparse.Namespace) -> list[Row]:
    """Measure what is wanted, and print a row as soon as it is there; return the rows."""
    place = device_here()
    load = Pressed(
        batch=args.batch, context=args.context, output=args.output, steps=args.steps, warmup=args.warmup, windows=5,
        seconds=args.seconds, seed=args.seed, temperature=args.temperature, turnover=True, prefill=False,
    )  # fmt: skip
    entries([args.preset], accept=args.accept)
    model, tokenizer = model_of(args.model, "bfloat16" if place == "cuda" else "float32", place, args.seed)
    one = partial(
        run, model, load=load, prompts=prompts_for(model.config.vocab, tokenizer, args.prompts, args.seed),
        weights="random" if tokenizer is None else "real", accept=args.accept,
    )  # fmt: skip
    rows: list[Row] = []
    header = {"bench": "tiers", "model": args.model, "preset": args.preset, "accept": args.accept, "batch": args.batch}
    sizes = {"context": args.context, "output": args.output, "seed": args.seed}
    with Report(args.out, **header, **sizes, **where(place)) as report:
        print(HEAD, flush=True)
        for demand in args.demand:
            for tiers, by_turns in _variants(args.tiers):
                entry, pages = _entry(args, load, demand, tiers)
                measure = partial(one, entry, demand=demand, pages=pages, by_turns=by_turns)
                rows.append(attempt(measure, {"composition": entry.label}))
                report.row(line_of(rows[-1]), **rows[-1])
    return rows


def _variants(names: list[str]) -> list[tuple[str, bool]]:
    pairs: list[tuple[str, bool]] = []
    for name in names:
        pairs += [(name, False), (name, True)] if name.startswith("host") else [(name, False)]
    return pairs


def _entry(args: argparse.Namespace, load: Pressed, demand: float, tiers: str) -> tuple[Entry, int]:
    """Return the composition with a tier manager, and the pages that make `demand`."""
    text, colon = args.preset, "," if ":" in args.preset else ":"
    (whole,) = entries([text], accept=args.accept)
    pages = 1 + int(load.demand(whole) / demand)
    (entry,) = entries([f"{text}{colon}tiers={tiers},num_gpu_blocks={pages}"], accept=args.accept)
    return entry, pages


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw where the pages of the device were, step by step, and what the host held: one picture for each row."""
    drawn = [row for row in rows if "failed" not in row and "by turns" not in row["composition"]]
    with figure(path, (9, 0.6 + 1.7 * len(drawn))) as drawing:
        for axes, row in zip(drawing.subplots(len(drawn), 1, squeeze=False)[:, 0], drawn, strict=True):
            _pages(axes, row)


def _pages(axes: Any, row: Row) -> None:
    pages, over_time = row["pages"], row["over_time"]
    steps = range(len(over_time["free"]))
    free = [n / pages for n in over_time["free"]]
    moving = [n / pages for n in over_time["moving"]]
    held = [1 - f - m for f, m in zip(free, moving, strict=True)]
    axes.stackplot(steps, held, moving, free, colors=("0.75", "0.35", "1.0"), labels=("held", "being copied", "free"))
    axes.plot(steps, [n / pages for n in over_time["host"]], color="black", linestyle="--", label="on the host")
    axes.set_ylim(0, max(1.0, *(n / pages for n in over_time["host"])) * 1.02)
    axes.margins(x=0)
    axes.set_ylabel("pages")
    axes.set_xlabel("step")
    percent_axis(axes.yaxis)
    tiers = row["spec"]["tiers"]["name"] if isinstance(row["spec"]["tiers"], dict) else str(row["spec"]["tiers"])
    in_use = "" if row["in_use"] is None else f", {row['in_use']:.1%} in use while requests wait"
    axes.set_title(
        f"{tiers}, demand {row['demand']:g} ×: {row['tokens_per_second']:.0f} tokens/s{in_use}", fontsize=9, loc="left"
    )
    axes.legend(fontsize=7, loc="lower right", ncols=4)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.engine.tiers", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("model", nargs="?", help=f"random weights: {', '.join(RANDOM)}; or an alias, a folder, a hub id")
    add("--demand", nargs="+", type=positive, default=[2.0, 4.0], help="pages wanted, as a multiple of the pool's")
    add("--tiers", nargs="+", default=["host", "gpu", "reserve"], help="tier managers, with their options")
    add("--preset", default="sparsespec", metavar="NAME[:CHANGES]", help="a preset, as `sparsespec bench` takes it")
    add("--accept", type=float, metavar="MEAN", help="simulate acceptance: so many drafts of a round, in the mean")
    add("--batch", type=count, default=8, help="requests that sit on seats at once")
    add("--context", type=span, default=(64, 128), help="tokens of the prompts: a number, or LOW:HIGH")
    add("--output", type=span, default=(64, 512), help="tokens of an output: a number, or LOW:HIGH")
    add("--steps", type=count, default=300, help="steps to measure")
    add("--warmup", type=count, default=100, help="steps before them")
    add("--seconds", type=positive, default=60.0, help="measure a tier manager no longer than this")
    add("--temperature", type=float, default=0.0, help="0 is greedy")
    add("--seed", type=int, default=0, help="of weights, prompts, lengths and draws")
    add("--prompts", type=Path, help="text, or JSON lines of problems, for prompts of a model with weights")
    add_output_options(parser, "where pages were over time,")
    return parser


def again(path: Path) -> list[Row]:
    """Print what `--out` wrote before; return its rows."""
    pairs = read_rows(
        path, "bench.engine.tiers", key=lambda header, row: (header["model"], row.get("demand"), row["composition"]),
        line_of=line_of, wrote=lambda header: header["bench"] == "tiers",
    )  # fmt: skip
    return show_again(pairs, HEAD, line_of)


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    check_output_options(args)
    if bool(args.read) == bool(args.model):
        raise BadOption("give a model to measure, or --read a file that was measured before")
    rows: list[dict[str, Any]] = again(args.read) if args.read else measured(args)
    if args.plot:
        plot(rows, args.plot)
    return 1 if any("failed" in row for row in rows) else 0


if __name__ == "__main__":
    exit_with(main)
