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
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench import cpu_cases, cpu_run, gpu_run
from bench.kernel_plot import plot
from bench.kernel_rows import HEAD, KEY, Key, Row, key_of_row, line_of, origin_of, read
from bench.kernel_table import cases
from sparsespec.core.errors import BadOption, MissingPackage, SparseSpecError

Found = TypeVar("Found")


def kernel_of(path: str) -> Any:
    """Return the function that `module:function` names."""
    module, colon, name = path.partition(":")
    if not colon:
        raise BadOption(f"--kernel is written module:function, got {path!r}")
    return getattr(importlib.import_module(module), name)


def pick(args: argparse.Namespace, found: Sequence[Found], key_of: Callable[[Found], Key]) -> list[Found]:
    """Return what --model, --op and --case let pass.

    Raises:
        BadOption: if that is nothing.
    """
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
    print(HEAD)
    for _, row in pairs:
        print(line_of(row))
    return [row for _, row in pairs]


def measured(args: argparse.Namespace) -> list[Row]:
    """Time what is wanted, on a GPU if there is one; return the rows."""
    on_gpu = torch.cuda.is_available()
    if not on_gpu and (args.kernel or args.plot):
        raise BadOption("--kernel and --plot need a CUDA GPU, and there is none; --read FILE --plot draws a GPU's rows")
    table = cases(kernel=kernel_of(args.kernel) if args.kernel else None) if on_gpu else cpu_cases.cases()
    runner: Any = gpu_run if on_gpu else cpu_run
    return runner.run(pick(args, table, lambda case: (case.shape.name, case.op, case.name)), args.out)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.kernels", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--op", help="only cases of this op: attention, append_kv, silu_mul and the like")
    parser.add_argument("--model", help="only cases of this model: qwen3-8b or smollm2-135m")
    parser.add_argument("--case", help="only cases whose name holds this")
    parser.add_argument("--kernel", help="module:function, an attention kernel of yours to time beside the project's")
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    parser.add_argument("--read", type=Path, help="show the newest rows of what --out wrote, and measure nothing")
    parser.add_argument("--plot", type=Path, help="draw the shares here, as SVG")
    args = parser.parse_args(argv)
    if args.plot and args.plot.suffix != ".svg":
        raise BadOption(f"--plot draws SVG and needs a name that ends in .svg, got {str(args.plot)!r}")
    if args.plot and not importlib.util.find_spec("matplotlib"):
        raise MissingPackage("--plot needs: pip install matplotlib")
    if args.read and (args.out or args.kernel):
        raise BadOption("--read measures nothing: leave out --out and --kernel")
    rows = again(args) if args.read else measured(args)
    if args.plot:
        plot(rows, args.plot)
    return 1 if any("red" in row for row in rows) and not args.read else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SparseSpecError as error:
        sys.exit(str(error))
