"""How far is each kernel from the hardware's limit, and from FlashInfer? GPU time only.

    python -m bench.kernels [--op attention] [--model qwen3-8b] [--out results.jsonl] [--plot results.svg]
    python -m bench.kernels --kernel your_package.module:function

An op is checked before it is timed, and not timed if the check is red. Graph replays over rotating inputs are timed,
so neither host time nor a warm cache is in the figures. The read ceiling is the best of three readers of the same run.
FlashInfer is timed the same way where it is installed; its first call compiles for minutes. Exit status 1 if a check
was red.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

from bench import flashinfer_peer
from bench.common import Report, machine, version_of
from bench.kernel_cases import Case, Ready
from bench.kernel_table import cases
from bench.timing import Times, read_ceiling, time_calls
from sparsespec.core.errors import MissingPackage, SparseSpecError

HEAD = (
    f"{'model':13} {'op':13} {'case':30} {'p20':>8} {'p50':>8} {'p80':>8}  {'share':>6}  peers, and what the bars say"
)


def device() -> dict[str, Any]:
    """Return what figures depend on, with the GPU in words."""
    gpu = torch.cuda.get_device_properties(0)
    return {
        **machine(),
        "device": f"{gpu.name}, {gpu.multi_processor_count} SMs",
        "cuda": torch.version.cuda,
        "triton": version_of("triton"),
        "flashinfer": flashinfer_peer.version(),
    }


def peers_of(ready: Ready) -> tuple[dict[str, Times], dict[str, str]]:
    """Return the times of the peers that ran, and why the others did not."""
    times: dict[str, Times] = {}
    failed: dict[str, str] = {}
    for name, build in ready.peers.items():
        try:
            calls = build()
            if ready.agrees(calls[0]()):
                times[name] = time_calls(calls)
            else:
                failed[name] = "its result is not the op's"
        except Exception as error:  # a peer that cannot do the case must not end the run
            failed[name] = f"{type(error).__name__}: {error}"[:200]
    return times, failed


def measure(case: Case, ceiling: float, report: Report) -> bool:
    """Check and time one case; return whether the check was green."""
    label = f"{case.shape.name:13} {case.op:13} {case.name:30}"
    key = {"model": case.shape.name, "op": case.op, "case": case.name}
    try:
        ready = case.make(case.shape)
        wrong = ready.check()
        times = None if wrong else time_calls(ready.calls)
    except SparseSpecError as error:
        report.row(f"{label} skipped: {error}", **key, skipped=str(error))
        return True
    except Exception as error:  # a case that the compiler or the device refuses must not hide the others
        why = f"{type(error).__name__}: {error}"
        report.row(f"{label} RED, it failed: {why.splitlines()[0][:120]}", **key, red=why)
        return False
    if times is None:
        report.row(f"{label} RED, not timed: {wrong}", **key, red=wrong)
        return False
    share = ready.bytes / (1e-6 * times.p50) / ceiling
    peers, failed = peers_of(ready)
    best = min((t.p50 for t in peers.values()), default=None)
    bars = verdicts(case, share, times.p50 / best if best else None)
    shown = [f"{name} {t.p50:.1f} µs ({times.p50 / t.p50:.2f} ×)" for name, t in peers.items()]
    shown += [f"{name} was not timed ({why.splitlines()[0][:60]})" for name, why in failed.items()]
    figures = " ".join(f"{t:8.1f}" for t in times)
    report.row(
        f"{label} {figures}  {share:6.1%}  {', '.join([*shown, *bars])}",
        **key,
        micros=times._asdict(),
        bytes=ready.bytes,
        share=share,
        peers={name: t._asdict() for name, t in peers.items()},
        peers_failed=failed,
        bars=bars,
    )
    return True


def verdicts(case: Case, share: float, ratio: float | None) -> list[str]:
    """Return what each bar of the case says."""
    found = []
    if case.share is not None:
        found.append(f"{'meets' if share >= case.share else 'MISSES'} {case.share:.0%}")
    if case.ratio is not None and ratio is not None:
        found.append(f"{'meets' if ratio <= case.ratio else 'MISSES'} {case.ratio:.2f} × peer")
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the share of the read ceiling of each case, beside its best peer's."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    rows = rows[::-1]
    _, axes = pyplot.subplots(figsize=(9, 0.4 * len(rows) + 1.5))
    for i, row in enumerate(rows):
        axes.barh(i, row["share"], 0.7, color="#336699")
        if row["peers"]:
            best = min(t["p50"] for t in row["peers"].values())
            axes.plot(row["share"] * row["micros"]["p50"] / best, i, "|", color="#cc3311", ms=14, mew=2)
    axes.set_yticks(range(len(rows)), [f"{row['model']}: {row['op']}, {row['case']}" for row in rows])
    axes.set_xlabel("bytes per second as a share of the read ceiling; mark: FlashInfer")
    axes.figure.tight_layout()
    axes.figure.savefig(path)


class Kept(Report):
    """A report that keeps its timed rows, for the plot."""

    rows: list[dict[str, Any]]

    def row(self, line: str, **values: Any) -> None:
        """Print, store and keep."""
        super().row(line, **values)
        if "share" in values:
            self.rows.append(values)


def kernel_of(path: str) -> Any:
    """Return the function that `module:function` names."""
    module, colon, name = path.partition(":")
    if not colon:
        raise SystemExit(f"--kernel is written module:function, got {path!r}")
    return getattr(importlib.import_module(module), name)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--op", help="only cases of this op: attention, top_positions, append_kv or copy_pages")
    parser.add_argument("--model", help="only cases of this model: qwen3-8b or smollm2-135m")
    parser.add_argument("--case", help="only cases whose name holds this")
    parser.add_argument("--kernel", help="module:function, an attention kernel of yours to time beside the project's")
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    parser.add_argument("--plot", type=Path, help="draw the shares here")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise SystemExit("bench.kernels times kernels on a CUDA GPU and found none; bench.dense_cpu measures a CPU")
    if args.plot and not importlib.util.find_spec("matplotlib"):
        raise MissingPackage("--plot needs: pip install matplotlib")
    wanted = [
        case
        for case in cases(kernel=kernel_of(args.kernel) if args.kernel else None)
        if args.op in (None, case.op)
        and args.model in (None, case.shape.name)
        and (args.case is None or args.case in case.name)
    ]
    if not wanted:
        raise SystemExit(f"no case is of op {args.op}, model {args.model} and named like {args.case}")
    readers = read_ceiling()
    ceiling = max(readers.values())
    shown = {name: f"{rate / 1e9:.0f} GB/s" for name, rate in readers.items()}
    with Kept(args.out, **device(), readers=shown, ceiling=ceiling) as report:
        report.rows = []
        print(f"{HEAD} (µs)")
        green = True
        for case in wanted:
            green &= measure(case, ceiling, report)
            # the pools of a case are gigabytes
            gc.collect()
            torch.cuda.empty_cache()
        if args.plot and report.rows:
            plot(report.rows, args.plot)
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())
