"""How far is each kernel from the hardware's limit, and from FlashInfer? GPU time only.

    python -m bench.kernels [--op attention] [--model qwen3-8b] [--out results.jsonl] [--plot results.svg]
    python -m bench.kernels --kernel your_package.module:function
    python -m bench.kernels --read results.jsonl [--plot results.svg]

An op is checked before it is timed, and not timed if the check is red; exit status 1 then. Where there is no GPU, the
reference implementations are timed on the CPU instead, on small inputs and with pytest-benchmark; their rows have no
share. FlashInfer is timed where it is installed; its first call compiles for minutes.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from bench.kernels import cpu, cpu_cases, gpu
from bench.kernels.plot import plot
from bench.kernels.rows import HEAD, KEY, Key, Row, key_of_row, line_of, read
from bench.kernels.table import cases
from sparsespec.benchmarks.report import (
    Parser,
    add_output_options,
    check_output_options,
    exit_with,
    origin_of,
    show_again,
)
from sparsespec.core.errors import BadOption

Found = TypeVar("Found")


def kernel_of(path: str) -> Any:
    """Return the function that `module:function` names."""
    module, colon, name = path.partition(":")
    if not colon:
        raise BadOption(f"--kernel is written module:function, got {path!r}")
    return getattr(importlib.import_module(module), name)


def pick(args: argparse.Namespace, found: Sequence[Found], key_of: Callable[[Found], Key]) -> list[Found]:
    """Return what --model, --op and --case let pass; raises `BadOption` if that is nothing."""
    picked = [
        one
        for one, (model, op, case) in zip(found, map(key_of, found), strict=True)
        if args.model in (None, model) and args.op in (None, op) and (args.case or "") in case
    ]
    if not picked:
        asked = " ".join(f"--{name} {value!r}" for name in KEY if (value := getattr(args, name)) is not None)
        have = ", ".join(dict.fromkeys(" ".join(key_of(one)[:2]) for one in found))
        raise BadOption(f"no case fits {asked}; have cases of {have}")
    return picked


def again(args: argparse.Namespace) -> list[Row]:
    """Print what `--out` wrote before; return its rows."""
    pairs = pick(args, read(args.read), lambda pair: key_of_row(pair[1]))
    for origin in dict.fromkeys(origin_of(header) for header, _ in pairs):
        print(origin)
    return show_again(pairs, HEAD, line_of)


def measured(args: argparse.Namespace) -> list[Row]:
    """Time what is wanted, on a GPU if there is one; return the rows."""
    if torch.cuda.is_available():
        table = cases(kernel=kernel_of(args.kernel) if args.kernel else None)
        return gpu.run(pick(args, table, lambda case: case.key), args.out)
    if args.kernel or args.plot:
        raise BadOption("--kernel and --plot need a CUDA GPU, and there is none; --read FILE --plot draws a GPU's rows")
    return cpu.run(pick(args, cpu_cases.cases(), lambda case: case.key), args.out)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="bench.kernels", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--op", help="only cases of this op: attention, append_kv, silu_mul and the like")
    parser.add_argument("--model", help="only cases of this model: qwen3-8b or smollm2-135m")
    parser.add_argument("--case", help="only cases whose name holds this")
    parser.add_argument("--kernel", help="module:function, an attention kernel of yours to time beside the project's")
    add_output_options(parser, "the shares")
    args = parser.parse_args(argv)
    if args.read and (args.out or args.kernel):
        raise BadOption("--read measures nothing: leave out --out and --kernel")
    check_output_options(args)
    rows = again(args) if args.read else measured(args)
    if args.plot:
        plot(rows, args.plot)
    return 1 if any("red" in row for row in rows) and not args.read else 0


if __name__ == "__main__":
    exit_with(main)
