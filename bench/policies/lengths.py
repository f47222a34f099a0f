"""Does a length that adapts choose as well as the better of plain decoding and a fixed length, wherever it runs?

    python -m bench.policies.lengths MODEL [--batch 1 8] [--context 256 2048] [--accept 6.16 3.0] [--out rows.jsonl]
    python -m bench.policies.lengths --read rows.jsonl [--plot lengths.svg]

A cell is a batch size and a context. In each, plain decoding (preset `dense` in the loop of --preset, an engine of its
own) and the lengths of --length (one engine that drafts) take turns, in runs that begin with another of them each time;
a figure is the median of its windows. The last length is the one that is judged: by its throughput over the best of all
others, and the worst cell is the headline. MODEL is as in `sparsespec bench`. With random weights acceptance is
simulated (--accept, of 8 drafts), the KV is random, and both engines share one pool. Exit status 1 if a cell failed.
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.policies.lengths_run import OF, Arena, Contest
from bench.policies.lengths_stage import SLACK, room_for
from sparsespec.benchmarks.models import RANDOM, model_of
from sparsespec.benchmarks.prompts import prompts_for
from sparsespec.benchmarks.report import (
    Report,
    Row,
    add_output_options,
    check_output_options,
    count,
    device_here,
    exit_with,
    figure,
    positive,
    read_rows,
    show_again,
    where,
)
from sparsespec.core import cost
from sparsespec.core.errors import BadOption, SparseSpecError, brief
from sparsespec.core.params import SamplingParams
from sparsespec.core.registry import make
from sparsespec.core.spec import PartSpec, preset
from sparsespec.models.config import ModelConfig
from sparsespec.models.transformer import Transformer
from sparsespec.testing.simulated_acceptance import chance_for

BAR = 0.95
DARKEST = 0.7
"""A cell of this ratio, or below, is as dark as it gets."""
HEAD = f"{'batch':>5} {'context':>7} {'accept':>6}  {'ratio':>6}  tokens/s by contender (accepted of drafted, plain)"


def line_of(row: Row) -> str:
    """Return a row as the table shows it."""
    label = f"{row['batch']:5d} {row['context']:7d} {'—' if row['accept'] is None else format(row['accept'], '.2f'):>6}"
    if "failed" in row:
        return f"{label}  {'—':>6}  {brief(row['failed'])}"
    cells = (
        f"{name} {one['tokens_per_second']:.0f} ({one['accepted']:.2f} of {one['drafted']:.2f}, {one['plain']:.0%})"
        for name, one in row["contenders"].items()
    )
    return f"{label}  {row['ratio']:6.3f}  {', '.join(cells)}{'  (simulated)' if row['simulated'] else ''}"


def headline(rows: Sequence[Row]) -> str:
    """Return the worst cell in words."""
    found = [row for row in rows if "failed" not in row]
    if not found:
        return "no cell was measured"
    worst = min(found, key=lambda row: row["ratio"])
    simulated = "" if worst["accept"] is None else f", {worst['accept']:g} of {OF} accepted"
    below = sum(row["ratio"] < BAR for row in found)
    return (
        f"worst of {len(found)} cells: {worst['ratio']:.3f} of {worst['better']} at batch {worst['batch']}, context "
        f"{worst['context']}{simulated}; below {BAR:g}: {below}"
    )


def cells_of(args: argparse.Namespace, longest: int) -> dict[int, dict[int, int]]:
    """Return, by batch, the tokens of the prompts by context: a context that the model does not hold ends with it."""
    found: dict[int, dict[int, int]] = {}
    for batch in args.batch:
        contexts = [context for context in args.context if batch * context <= args.most]
        found[batch] = {context: min(context, longest - room_for(context) - SLACK) for context in contexts}
        if any(tokens < 2 for tokens in found[batch].values()):
            raise BadOption(f"the model holds {longest} tokens, which leaves no room for a prompt beside its output")
    return {batch: contexts for batch, contexts in found.items() if contexts}


def own_costs(lengths: Sequence[str], config: ModelConfig) -> Iterator[str]:
    """Yield the lengths; `cost` without a cost model gets the one of this model's shape, where the package has one."""
    shape = asdict(config)
    names = ("n_layers", "hidden", "n_heads", "n_kv_heads", "head_dim", "vocab")
    for text in lengths:
        part = PartSpec.of(text, "length")
        if part.name == "cost" and "costs" not in part.options:
            for name in cost.names():
                geometry = cost.CostModel.load(name).geometry
                if all(geometry.get(key) == shape[key] for key in names):
                    part = PartSpec("length", "cost", {"costs": name, **part.options})
        yield str(part)


def measured(args: argparse.Namespace) -> list[Row]:
    """Measure all cells, and print a row as soon as it is there; return the rows."""
    place = device_here()
    contest = _contest(args)
    model, tokenizer = model_of(args.model, "bfloat16" if place == "cuda" else "float32", place, args.seed)
    random = tokenizer is None
    contest = replace(contest, lengths=tuple(own_costs(contest.lengths, model.config)))
    batches = cells_of(args, model.config.max_model_len)
    longest = max(tokens for contexts in batches.values() for tokens in contexts.values())
    many = [longest] * max(batches)
    texts = list(prompts_for(model.config.vocab, tokenizer, args.prompts, args.seed)(many))
    rows: list[Row] = []
    header = {"bench": "lengths", "model": args.model, "weights": "random" if random else "real", **asdict(contest)}
    with Report(args.out, **header, **where(place)) as report:
        print(HEAD, flush=True)
        for batch, contexts in batches.items():
            for row in _batch(model, contest, texts[:batch], contexts, random=random):
                rows.append(row)
                report.row(line_of(row), **row)
    return rows


def _batch(
    model: Transformer, contest: Contest, texts: Sequence[list[int]], contexts: dict[int, int], *, random: bool
) -> Iterator[Row]:
    """Yield the rows of a batch size; one that fails must not hide the others."""
    key: dict[str, Any] = {"batch": len(texts), "simulated": contest.accepts != (None,)}
    left = dict(contexts)
    arena: Arena | None = None
    try:
        most = max(tokens + room_for(context) + SLACK for context, tokens in contexts.items())
        arena = Arena(model, contest, len(texts), most, random=random)
        for context, tokens in contexts.items():
            rows = arena.cell([text[:tokens] for text in texts], room_for(context))
            del left[context]
            yield from ({**key, "context": context, **row} for row in rows)
    except Exception as error:
        if not isinstance(error, SparseSpecError):
            traceback.print_exc()
        for context in left:
            yield {**key, "context": context, "accept": None, "failed": f"{type(error).__name__}: {error}"}
    finally:
        if arena is not None:
            arena.close()


def again(path: Path) -> list[Row]:
    """Print what `--out` wrote before; return its rows."""
    pairs = read_rows(
        path, "bench.policies.lengths", line_of=line_of, wrote=lambda header: header["bench"] == "lengths",
        key=lambda header, row: (header["model"], row["batch"], row["context"], row["accept"]),
    )  # fmt: skip
    return show_again(pairs, HEAD, line_of)


def _contest(args: argparse.Namespace) -> Contest:
    """Return what all cells have in common; raises for what does not exist, before anything is loaded."""
    simulated = args.model in RANDOM
    if args.accept and not simulated:
        raise BadOption(f"--accept simulates acceptance for random weights, and {args.model} has real ones")
    if args.prompts and simulated:
        raise BadOption(f"--prompts are for a model with weights; {args.model} has random ones and takes no text")
    accepts = tuple(args.accept or (6.16, 3.0)) if simulated else (None,)
    for accept in args.accept or ():
        chance_for(accept, OF)
    preset(args.preset)
    for text in args.length:
        make(PartSpec.of(text, "length"))
    SamplingParams(temperature=args.temperature)
    return Contest(
        preset=args.preset, lengths=tuple(args.length), accepts=accepts, runs=args.runs, warmup=args.warmup,
        seconds=args.seconds, seed=args.seed, temperature=args.temperature,
    )  # fmt: skip


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw a table of batches and contexts for each acceptance: darker where the judged length loses more."""
    drawn = [row for row in rows if "failed" not in row]
    accepts = list(dict.fromkeys(row["accept"] for row in drawn))
    with figure(path, (4.2 * len(accepts), 3.2)) as drawing:
        for axes, accept in zip(drawing.subplots(1, len(accepts), squeeze=False)[0], accepts, strict=True):
            _table(axes, [row for row in drawn if row["accept"] == accept])
            simulated = "" if accept is None else f", {accept:g} accepted"
            axes.set_title(f"{drawn[0]['judged']}{simulated}", fontsize=9)


def _table(axes: Any, rows: Sequence[Row]) -> None:
    batches, contexts = (sorted({row[name] for row in rows}) for name in ("batch", "context"))
    for row in rows:
        x, y = contexts.index(row["context"]), batches.index(row["batch"])
        shade = max(0.0, min(1.0, (row["ratio"] - DARKEST) / (1 - DARKEST)))
        axes.fill_between((x - 0.5, x + 0.5), y - 0.5, y + 0.5, color=str(0.35 + 0.65 * shade), lw=0)
        axes.text(x, y, f"{row['ratio']:.2f}\n{row['better']}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(contexts)), contexts)
    axes.set_yticks(range(len(batches)), batches)
    axes.set_xlim(-0.5, len(contexts) - 0.5)
    axes.set_ylim(-0.5, len(batches) - 0.5)
    axes.set_xlabel("context")
    axes.set_ylabel("batch")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.policies.lengths", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("model", nargs="?", help=f"random weights: {', '.join(RANDOM)}; or an alias, a folder, a hub id")
    add("--batch", nargs="+", type=count, default=[1, 8, 32, 128], help="requests that run at once")
    add("--context", nargs="+", type=count, default=[256, 2048, 8192], help="tokens of the prompts")
    add("--most", type=count, default=380_000, help="leave out cells of more tokens, batch times context")
    add(
        "--accept",
        nargs="+",
        type=float,
        metavar="MEAN",
        help=f"accepted drafts of {OF}; 6.16 and 3 if absent",
    )
    add("--preset", default="best", help="what the lengths are put into")
    add("--length", nargs="+", default=["fixed(draft=8)", "cost"], help="lengths that compete; the last is judged")
    add("--runs", type=count, default=3, help="windows of each contender in a cell")
    add("--seconds", type=positive, default=0.5, help="length of a window, at most")
    add("--warmup", type=count, default=24, help="steps before each window")
    add("--temperature", type=float, default=0.0, help="0 is greedy")
    add("--seed", type=int, default=0, help="of weights, prompts and draws")
    add("--prompts", type=Path, help="text, or JSON lines of problems, for prompts of a model with weights")
    add_output_options(parser, "the ratios of all cells")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    check_output_options(args)
    if bool(args.read) == bool(args.model):
        raise BadOption("give a model to measure, or --read a file that was measured before")
    rows = again(args.read) if args.read else measured(args)
    print(headline(rows))
    if args.plot:
        plot(rows, args.plot)
    return 1 if any("failed" in row for row in rows) else 0


if __name__ == "__main__":
    exit_with(main)
