"""From what was measured to a row: throughput, times of steps, the host's share, speculation, bytes, the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparsespec.benchmarks.entries import Entry
from sparsespec.benchmarks.limit import Machine, Round, limit
from sparsespec.benchmarks.load import Load
from sparsespec.benchmarks.meter import LINES, Tally
from sparsespec.benchmarks.report import Row
from sparsespec.core.registry import make
from sparsespec.core.spec import EngineSpec
from sparsespec.engine.engine import Engine


@dataclass(frozen=True)
class Measured:
    """The figures of a run; None where a device cannot say."""

    tally: Tally
    idle: float | None
    peak_bytes: int | None
    ready_seconds: float


def quantile(values: Sequence[float], q: float) -> float:
    """Return the value below which a share `q` of `values` lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def row_of(engine: Engine, spec: EngineSpec, entry: Entry, load: Load, measured: Measured, *, simulated: bool) -> Row:
    """Return the row of a run, without a roofline."""
    tally = measured.tally
    parts = tally.parts(load.windows, entry.draft + 1)
    tokens, seconds = sum(n for n, _ in parts), sum(s for _, s in parts)
    return {
        "composition": entry.label,
        "dense": entry.is_dense,
        "simulated": simulated,
        "spec": spec.to_dict(),
        "load": load.to_dict(),
        "draft": entry.draft,
        "guess": entry.guess,
        "steps": tally.launched,
        "empty_steps": tally.empty,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "windows": [n / s for n, s in parts],
        "step_ms": step_times(tally),
        "steps_ms": [round(1e3 * s, 4) for s in tally.launched_seconds],
        "query_tokens_per_step": sum(tally.query_tokens) / len(tally.query_tokens),
        "running": tally.running / len(tally.step_seconds),
        "finished": tally.finished,
        "preempted": tally.preempted,
        "gpu_idle": measured.idle,
        "host_ms": host_times(tally),
        "ready_seconds": measured.ready_seconds,
        **speculation(engine, tally),
        "ledger_bytes": dict(engine.ledger.entries),
        "peak_bytes": measured.peak_bytes,
    }


def step_times(tally: Tally) -> dict[str, float]:
    """Return mean and quantiles of the milliseconds between launches."""
    times = [1e3 * s for s in tally.launched_seconds]
    return {
        "mean": sum(times) / len(times),
        "p50": quantile(times, 0.5),
        "p95": quantile(times, 0.95),
        "max": max(times),
    }


def host_times(tally: Tally) -> dict[str, float]:
    """Return the milliseconds of the host per launched step, by line and together; waiting for the device beside it."""
    per_step = 1e3 / tally.launched
    host = {line: tally.host_seconds[line] * per_step for line in LINES}
    return {**host, "all": sum(host.values()), "waiting": tally.waited * per_step}


def speculation(engine: Engine, tally: Tally) -> dict[str, Any]:
    """Return what rounds yielded and what they read; None for a ratio without a base."""
    g, tokens = engine.geometry, sum(tally.tokens)
    itemsize = {"float64": 8, "float32": 4}.get(g.dtype, 2)
    token_bytes = 2 * g.n_layers * g.n_kv_heads * g.head_dim * itemsize
    return {
        "mean_acceptance_length": tally.mean_acceptance_length,
        "forwards_per_token": _ratio(tally.drafts + tally.verifications, tokens),
        "context_mean": _ratio(tally.kv_verify, tally.verifications),
        "draft_kv_share": _ratio(tally.kv_drafts, tally.kv_drafts_full),
        "kv_token_bytes": token_bytes,
        "kv_bytes_per_token": _ratio(token_bytes * tally.kv_read, tokens),
    }


def limits(row: Row, machine: Machine) -> Row:
    """Return the roofline of a row and its share of it; None for rounds of two levels, which it does not cover."""
    if (row["draft"] and row["guess"]) or row["context_mean"] is None:
        return {"roofline": None, "of_roofline": None}
    context = row["context_mean"]
    round_ = Round(
        rows=round(row["running"]),
        context=context,
        draft=row["draft"],
        guess=row["guess"],
        share=draft_share(row, context) if row["draft"] else 0.0,
        mean_acceptance_length=row["mean_acceptance_length"] or 1.0,
    )
    reached = limit(machine, round_)
    return {"roofline": reached, "of_roofline": row["tokens_per_second"] / reached}


def draft_share(row: Row, context: float) -> float:
    """Return the share of the context that a draft is allowed to read, or did where its selector has no budget."""
    selector: Any = make(EngineSpec.from_dict(row["spec"]).selector)
    if not hasattr(selector, "budget"):
        return row["draft_kv_share"] or 1.0
    return min(1.0, max(getattr(selector, "min_budget", 1) / context, selector.budget))


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None
