"""`sparsespec doctor`: what is installed, what the machine has, and which attention backends work on it.

A backend works if a small random model, decoded with it, emits what it emits with the reference.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from sparsespec import __version__
from sparsespec.cli.screen import Bars, say_json, size, stdout
from sparsespec.core import registry
from sparsespec.core.errors import SparseSpecError
from sparsespec.core.params import SamplingParams
from sparsespec.llm import LLM
from sparsespec.models.cache import cache_folder
from sparsespec.models.catalog import load

PACKAGES = ("torch", "triton", "flashinfer-python", "numpy", "transformers", "tokenizers", "safetensors", "gguf")
REFERENCE = "reference"
WORKS = "works"


def run(*, as_json: bool) -> int:
    """Report; exit code 1 if not even the reference works."""
    with Bars() as bars:
        report = _report(bars)
    if as_json:
        say_json(report)
    else:
        _show(report)
    return int(report["attention"][REFERENCE] != WORKS)


def _report(bars: Bars) -> dict[str, Any]:
    bars("looking", 0, 1)
    return {
        "sparsespec": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
        "gpus": _gpus(),
        "nvcc": _nvcc(),
        "cache": str(cache_folder()),
        "cache_free_bytes": _free(cache_folder()),
        "attention": {name: _trial(name) for name in registry.names("attention")},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        found.append({"name": gpu.name, "bytes": gpu.total_memory, "capability": f"{gpu.major}.{gpu.minor}"})
    return found


def _nvcc() -> str | None:
    """Return nvcc's version line; FlashInfer compiles with it, Triton does not need it."""
    home = os.environ.get("CUDA_HOME")
    path = shutil.which("nvcc") or (home and shutil.which("nvcc", path=str(Path(home) / "bin")))
    if not path:
        return None
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return next((line for line in said.splitlines() if "release" in line), "gives no version")


def _free(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is, or would be, on."""
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def _trial(attention: str) -> str:
    """Return "works", or why not in one sentence."""
    try:
        same = _decode(attention) == _decode(REFERENCE)
    except SparseSpecError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return WORKS if same else "runs, and emits other tokens than the reference"


def _decode(attention: str) -> tuple[int, ...]:
    with LLM(load("tiny"), "sparsespec", attention=attention, max_num_seqs=1, max_model_len=64) as llm:
        (output,) = llm.generate([list(range(20))], SamplingParams(max_tokens=8, seed=0), use_tqdm=False)
    if output.error:
        raise SparseSpecError(output.error)
    return output.outputs[0].token_ids


def _show(report: dict[str, Any]) -> None:
    table = Table(show_header=False, title="doctor", title_justify="left", title_style="bold")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("sparsespec", report["sparsespec"])
    table.add_row("python", f"{report['python']} ({sys.executable})")
    table.add_row("platform", f"{report['platform']}, {report['cpus']} CPUs, {report['threads']} torch threads")
    for name, version in report["packages"].items():
        table.add_row(name, version or "[dim]not installed[/]")
    gpus = [f"{gpu['name']}, {size(gpu['bytes'])}, capability {gpu['capability']}" for gpu in report["gpus"]]
    table.add_row("GPU", "\n".join(gpus) or "[dim]none that torch can use[/]")
    table.add_row("nvcc", report["nvcc"] or "[dim]not found; only FlashInfer needs it[/]")
    table.add_row("models", f"{report['cache']}, {size(report['cache_free_bytes'])} free")
    for name, verdict in report["attention"].items():
        style = "green" if verdict == WORKS else "yellow"
        table.add_row(f"attention {name}", f"[{style}]{verdict}[/]")
    stdout().print(table)
