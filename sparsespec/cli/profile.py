"""`sparsespec profile`: what a model's steps take on this device, measured, fitted and written as a cost model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from sparsespec.cli.files import check_writable
from sparsespec.cli.screen import Bars, say_json, stdout
from sparsespec.core.cost import SUFFIX, CostModel
from sparsespec.core.errors import BadOption
from sparsespec.engine.profile.run import Profile, device_in_words
from sparsespec.engine.profile.sample import Sample
from sparsespec.llm import place_of
from sparsespec.models.geometries import config_of
from sparsespec.models.parameters import torch_dtype

HEAD = f"{'what':<10} {'size':<44} {'time':>12} {'rate':>12}"


@dataclass(frozen=True, slots=True)
class ProfileArgs:
    """What the command line asks for; None is what suits the device."""

    model: str
    device: str | None
    dtype: str | None
    attention: str | None


def run(args: ProfileArgs, out: Path | None, *, as_json: bool) -> int:
    """Measure, showing rows as they come; then the fit."""
    _check_out(out)
    device = place_of(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = device.type == "cuda"
    dtype = torch_dtype(args.dtype or ("bfloat16" if on_gpu else "float32"))
    backend = args.attention or ("triton" if on_gpu else "reference")
    with Bars() as bars:
        config = config_of(args.model, progress=bars)
        bars.hide()
        profile = Profile(config, dtype, device, backend)
        if not as_json:
            print(f"{config.name} in {str(dtype).removeprefix('torch.')}, attention {backend}")
            print(f"{device_in_words(device)}\n{HEAD}", flush=True)
        cost = _measure(profile, bars, quiet=as_json)
    if out:
        out.write_text(cost.to_json(), "utf-8")
    if as_json:
        say_json(cost.to_dict())
    else:
        _show(cost)
        print(f"written to {out}" if out else "nothing was written; --out names a file")
    return 0


def _check_out(out: Path | None) -> None:
    """Raise before minutes of measuring what writing would raise after them."""
    if out is None:
        return
    if out.suffix != SUFFIX:
        raise BadOption(f"--out takes a file *{SUFFIX}, by which CostModel.load knows it, got {out}")
    check_writable(out)


def _measure(profile: Profile, bars: Bars, *, quiet: bool) -> CostModel:
    samples: list[Sample] = []
    bars("measuring", 0, profile.n_samples)
    for sample in profile.run():
        samples.append(sample)
        if not quiet:
            bars.hide()
            print(_line(sample), flush=True)
        bars("measuring", len(samples), profile.n_samples)
    bars.hide()
    return profile.fit(samples)


def _line(sample: Sample) -> str:
    moved = sample.sizes[:2] if sample.group in ("read", "attention", "to_device", "to_host") else (0.0,)
    rate = sum(moved) / sample.seconds / 1e9
    return (
        f"{sample.group:<10} {sample.label:<44} {_time(sample.seconds):>12} {f'{rate:,.1f} GB/s' if rate else '':>12}"
    )


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:,.1f} µs"


def _show(cost: CostModel) -> None:
    table = Table(title="cost model", title_justify="left", title_style="bold")
    for column in ("what", "fit", "points", "median error", "largest error"):
        table.add_column(column, justify="left" if column in ("what", "fit") else "right")
    a = cost.attention
    fits = {
        **dict.fromkeys(("layers", "products", "head"), "points, each against the line between its neighbours"),
        "attention": f"{_time(a.seconds)}, dense {_rate(a.per_dense_byte)}, sparse {_rate(a.per_sparse_byte)}",
        "to_device": cost.to_device and f"{_time(cost.to_device.seconds)}, {_rate(cost.to_device.seconds_per_byte)}",
        "to_host": cost.to_host and f"{_time(cost.to_host.seconds)}, {_rate(cost.to_host.seconds_per_byte)}",
    }
    for group, error in cost.errors.items():
        table.add_row(group, fits[group], str(error.n), f"{error.median:.1%}", f"{error.largest:.1%}")
    table.add_row("read", _rate(1 / cost.read_bytes_per_second))
    table.add_row("host", f"{_time(cost.host_seconds)} a step")
    stdout().print(table)


def _rate(seconds_per_byte: float) -> str:
    return f"{1e-9 / seconds_per_byte:,.1f} GB/s" if seconds_per_byte else "no time for bytes"
