"""How fast is the engine in its steady state, beside dense decoding and beside what the hardware could do?

    sparsespec bench MODEL --preset dense sparsespec [--batch 64 --context 4096] [--out results.jsonl]
    sparsespec bench qwen3-8b --preset dense:loop=delayed sparsespec --accept 6.16 --breakdown
    sparsespec bench --read results.jsonl [--plot results.svg]

MODEL is a geometry with random weights (qwen3-8b, smollm2-135m, tiny), whose KV is filled with random numbers, or a
model with weights: an alias, a folder, or a hub id; then prompts are real text, and prefilled. Prefill, warm-up and
drain are outside of all figures. `--accept` simulates acceptance, for random weights; such rows say `simulated`. Exit
status 1 if a composition failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sparsespec.benchmarks.entries import entries
from sparsespec.benchmarks.limit import Machine, Products
from sparsespec.benchmarks.load import Load
from sparsespec.benchmarks.models import RANDOM, model_of
from sparsespec.benchmarks.plot import plot
from sparsespec.benchmarks.prompts import prompts_for
from sparsespec.benchmarks.report import (
    Parser,
    Report,
    Row,
    add_output_options,
    attempt,
    check_output_options,
    count,
    device_here,
    positive,
    show_again,
    span,
    where,
)
from sparsespec.benchmarks.rows import HEAD, line_of, origin_of, parts_of, read
from sparsespec.benchmarks.run import run
from sparsespec.benchmarks.timing import read_ceiling
from sparsespec.core.errors import BadOption
from sparsespec.core.params import SamplingParams
from sparsespec.models.parameters import torch_dtype
from sparsespec.models.transformer import Transformer


def again(args: argparse.Namespace) -> list[Row]:
    """Print what `--out` wrote before; return its rows."""
    pairs = read(args.read)
    for origin in dict.fromkeys(origin_of(header) for header, _ in pairs):
        print(origin)
    return show_again(pairs, HEAD, _lines)


def measured(args: argparse.Namespace) -> list[Row]:
    """Measure what is wanted, and print a row as soon as it is there; return the rows."""
    found = entries(args.preset, loops=args.loop, schedulers=args.scheduler, budget=args.budget, accept=args.accept)
    load, place = _load(args), device_here()
    if args.breakdown and place == "cpu":
        raise BadOption("--breakdown reads the names of a GPU's kernels, and there is no CUDA GPU")
    readers = read_ceiling() if place == "cuda" else {}
    model, tokenizer = model_of(
        args.model, args.dtype or ("bfloat16" if place == "cuda" else "float32"), place, args.seed
    )
    weights = "random" if tokenizer is None else "real"
    one = partial(
        run,
        model,
        load=load,
        prompts=prompts_for(model.config.vocab, tokenizer, args.prompts, args.seed),
        weights=weights,
        accept=args.accept,
        profile=args.breakdown,
        machine=_hardware(model, readers),
    )
    rows: list[Row] = []
    with Report(args.out, **_header(args, model, weights, load, readers)) as report:
        print(HEAD, flush=True)
        for entry in found:
            failed = {"composition": entry.label, "dense": entry.is_dense}
            rows.append(_beside_dense(attempt(partial(one, entry), failed), rows))
            report.row(_lines(rows[-1]), **rows[-1])
    return rows


def _beside_dense(row: Row, before: Sequence[Row]) -> Row:
    """Return the row with its throughput over that of the fastest dense composition of the run."""
    if "failed" in row:
        return row
    dense = [one["tokens_per_second"] for one in (*before, row) if one["dense"] and "failed" not in one]
    return row | {"of_dense": row["tokens_per_second"] / max(dense) if dense else None}


def _hardware(model: Transformer, readers: dict[str, float]) -> Callable[[], Machine] | None:
    """Return what makes the roofline's figures, once there is room for them; None without a GPU."""
    if not readers:
        return None
    products, c = Products(model), model.config
    token_bytes = 2 * c.n_layers * c.n_kv_heads * c.head_dim * model.dtype.itemsize
    return lambda: Machine(products.layers, products.head, token_bytes, max(readers.values()))


def _header(args: argparse.Namespace, model: Transformer, weights: str, load: Load, readers: dict[str, float]) -> Row:
    names = ("steps", "warmup", "windows", "turnover", "seed", "temperature")
    return {
        "bench": "engine",
        "model": args.model,
        "weights": weights,
        "dtype": str(model.dtype).removeprefix("torch."),
        "batch": load.batch,
        "context": _span(load.context),
        "output": _span(load.output),
        "accept": args.accept,
        **{name: getattr(load, name) for name in names},
        **where(model.device.type),
        "readers": readers,
    }


def _span(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}:{pair[1]}"


def _lines(row: Row) -> str:
    return "\n".join(line for line in (line_of(row), parts_of(row)) if line)


def _load(args: argparse.Namespace) -> Load:
    if args.prompts and args.model in RANDOM:
        raise BadOption(f"--prompts are for a model with weights; {args.model} has random ones and takes no text")
    if args.prefill and not args.turnover:
        raise BadOption("--prefill is for requests that come later: give --turnover too")
    output = args.output or (args.warmup + args.steps + 32,) * 2
    # checked here, so that a bad one is a sentence before anything is loaded
    SamplingParams(temperature=args.temperature)
    return Load(
        batch=args.batch,
        context=args.context,
        output=output,
        steps=args.steps,
        warmup=args.warmup,
        windows=args.windows,
        seconds=args.seconds,
        seed=args.seed,
        temperature=args.temperature,
        turnover=args.turnover,
        prefill=args.prefill,
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = Parser(prog=prog, description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("model", nargs="?", help=f"random weights: {', '.join(RANDOM)}; or an alias, a folder, a hub id")
    add("--preset", nargs="+", default=["dense", "sparsespec"], metavar="NAME[:CHANGES]",
        help="presets, each with changes behind a colon: sparsespec:loop=sync,scheduler=lockstep")  # fmt: skip
    add("--loop", nargs="+", default=[], help="measure every preset in each of these loops")
    add("--scheduler", nargs="+", default=[], help="measure every preset that drafts with each of these schedulers")
    add("--budget", type=float, help="share of the context that drafts read, for all selectors that have a budget")
    add("--accept", type=float, metavar="MEAN", help="simulate acceptance: so many drafts of a round, in the mean")
    add("--batch", type=count, default=8, help="requests that run at once")
    add("--context", type=span, default=(1024, 1024), help="tokens of the prompts: a number, or LOW:HIGH")
    add("--output", type=span, help="tokens of an output: a number, or LOW:HIGH; as many as the steps need if absent")
    add("--steps", type=count, default=200, help="steps to measure, at most")
    add("--warmup", type=count, default=40, help="steps before them")
    add("--windows", type=count, default=5, help="parts of the run whose throughputs are compared")
    add("--seconds", type=positive, default=120.0, help="measure a composition no longer than this")
    add("--turnover", action="store_true", help="let requests finish, and others come, while measuring")
    add("--prefill", action="store_true", help="prefill requests that come later, though weights are random")
    add("--dtype", help="bfloat16 on a GPU, float32 on a CPU if absent")
    add("--temperature", type=float, default=0.0, help="0 is greedy")
    add("--seed", type=int, default=0, help="of weights, prompts, lengths and draws")
    add("--prompts", type=Path, help="text, or JSON lines of problems, for prompts of a model with weights")
    add("--breakdown", action="store_true", help="sort the kernels of a step by kind, under the profiler (GPU)")
    add_output_options(parser, "step times, and the breakdown if there is one,")
    return parser


def main(argv: list[str] | None = None, *, prog: str = "sparsespec bench") -> int:
    """Run the benchmark with command-line arguments and return the exit status."""
    args = _parser(prog).parse_args(argv)
    check_output_options(args)
    if args.read and args.model:
        raise BadOption("--read measures nothing: leave out --out and the model")
    if not args.read and not args.model:
        raise BadOption(f"a model is wanted: {', '.join(RANDOM)} with random weights, or an alias, a folder, a hub id")
    if args.dtype:
        torch_dtype(args.dtype)
    rows = again(args) if args.read else measured(args)
    if args.plot:
        plot(rows, args.plot)
    return 1 if any("failed" in row for row in rows) and not args.read else 0
