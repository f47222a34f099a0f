"""Times kernels on a GPU: checked first, then beside the read ceiling of the same run and beside FlashInfer.

Graph replays over rotating inputs are timed, so neither host time nor a warm cache is in the figures. The read ceiling
is the best of three readers. FlashInfer is timed the same way where it is installed.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.kernels.case import Case, Ready
from bench.kernels.rows import HEAD, KEY, Row, line_of
from sparsespec.benchmarks import report
from sparsespec.benchmarks.timing import Times, read_ceiling, time_calls
from sparsespec.core.errors import SparseSpecError


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


def measure(case: Case, ceiling: float) -> Row:
    """Check and time one case."""
    key = dict(zip(KEY, case.key, strict=True))
    try:
        ready = case.make()
        wrong = ready.check()
        if wrong:
            return {**key, "red": wrong}
        times = time_calls(ready.calls)
    except SparseSpecError as error:
        return {**key, "skipped": str(error)}
    except Exception as error:  # a case that the compiler or the device refuses must not hide the others
        return {**key, "red": f"it failed with {type(error).__name__}: {error}"}
    share = ready.bytes / (1e-6 * times.p50) / ceiling
    peers, failed = peers_of(ready)
    best = min((t.p50 for t in peers.values()), default=None)
    return {
        **key,
        "micros": times._asdict(),
        "bytes": ready.bytes,
        "share": share,
        "peers": {name: t._asdict() for name, t in peers.items()},
        "peers_failed": failed,
        "bars": verdicts(case, share, times.p50, best),
    }


def verdicts(case: Case, share: float, micros: float, best: float | None) -> list[str]:
    """Return what each bar of the case says; `best` is the best peer's time, None where no peer was timed."""
    bars: list[tuple[bool, str]] = []
    if case.share is not None:
        bars.append((share >= case.share, f"{case.share:.0%}"))
    if case.ratio is not None and best is not None:
        bars.append((micros <= case.ratio * best, f"{case.ratio:.2f} × peer"))
    if case.micros is not None:
        bars.append((micros <= case.micros, f"{case.micros:g} µs"))
    if case.beyond is not None and best is not None:
        bars.append((micros - best <= case.beyond, f"{case.beyond:g} µs beyond peer"))
    return [f"{'meets' if met else 'MISSES'} {what}" for met, what in bars]


def run(cases: Sequence[Case], out: Path | None) -> list[Row]:
    """Time `cases`; return their rows."""
    readers = read_ceiling()
    ceiling = max(readers.values())
    shown = {name: f"{rate / 1e9:.0f} GB/s" for name, rate in readers.items()}
    rows: list[Row] = []
    with report.Report(out, **report.gpu(), readers=shown, ceiling=ceiling) as written:
        print(HEAD)
        for case in cases:
            rows.append(measure(case, ceiling))
            written.row(line_of(rows[-1]), **rows[-1])
            # the pools of a case are gigabytes
            gc.collect()
            torch.cuda.empty_cache()
    return rows
