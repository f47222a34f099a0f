"""Files as `python -m bench.kernels --out` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def header(date: str = "2026-11-22", **more: Any) -> dict[str, Any]:
    return {"kind": "header", "date": date, "device": "a GPU", "torch": "2.11.0", **more}


def row(case: str = "decode", p50: float = 100.0, **more: Any) -> dict[str, Any]:
    times = {"p20": 0.9 * p50, "p50": p50, "p80": 1.1 * p50}
    what = {"kind": "row", "model": "qwen3-8b", "op": "attention", "case": case}
    return {**what, "micros": times, "bytes": 1000, "share": 0.5, "peers": {}, "peers_failed": {}, "bars": [], **more}


def peer(p50: float) -> dict[str, float]:
    return {"p20": p50, "p50": p50, "p80": p50}


def written(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path
