"""What all benchmarks share: types of arguments, the device in words, JSON lines written and read back, tables, plots.

Rows are printed and stored as soon as they are known. A file of JSON lines holds each run's header before its rows.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, Self

import torch

from sparsespec.core.errors import BadOption, MissingPackage, SparseSpecError

Row = dict[str, Any]
Pair = tuple[Row, Row]
"""A header and one of its rows."""
ORIGIN = ("date", "device", "threads", "sparsespec", "torch", "cuda", "triton", "flashinfer")
"""Fields of a header that figures depend on."""


class Parser(argparse.ArgumentParser):
    """Raises `BadOption` with one sentence where arguments are wrong."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, without the usage before it."""
        raise BadOption(message)


def count(text: str) -> int:
    """Read a whole number above 0."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0 is wanted, got {text!r}")
    return value


def positive(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is wanted, got {text!r}")
    return value


def span(text: str) -> tuple[int, int]:
    """Read a number of tokens, or LOW:HIGH."""
    low, colon, high = text.partition(":")
    pair = count(low), count(high) if colon else count(low)
    if pair[0] > pair[1]:
        raise argparse.ArgumentTypeError(f"LOW:HIGH is wanted, the smaller first, got {text!r}")
    return pair


def add_output_options(parser: argparse.ArgumentParser, plot: str) -> None:
    """Add `--out`, `--read` and `--plot`; `plot` says what is drawn."""
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    parser.add_argument("--read", type=Path, help="show the newest rows of what --out wrote, and measure nothing")
    parser.add_argument("--plot", type=Path, help=f"draw {plot} here, as SVG")


def check_output_options(args: argparse.Namespace) -> None:
    """Raise `BadOption` or `MissingPackage` for options of `add_output_options` that do not fit, or cannot be done."""
    if args.plot and args.plot.suffix != ".svg":
        raise BadOption(f"--plot draws SVG and needs a name that ends in .svg, got {str(args.plot)!r}")
    if args.plot and not importlib.util.find_spec("matplotlib"):
        raise MissingPackage("--plot needs: pip install matplotlib")
    if args.read and args.out:
        raise BadOption("--read measures nothing: leave out --out and the model")


def machine() -> Row:
    """Return what figures on a CPU depend on: processor, threads, versions, date."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{platform.machine()} CPU, {len(os.sched_getaffinity(0))} cores",
        "load": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "sparsespec": importlib.import_module("sparsespec").__version__,
        **{name: version_of(name) for name in ("torch", "transformers", "numpy")},
    }


def gpu() -> Row:
    """Return what figures on a GPU depend on."""
    properties = torch.cuda.get_device_properties(0)
    return {
        **machine(),
        "device": f"{properties.name}, {properties.multi_processor_count} SMs",
        "cuda": torch.version.cuda,
        "triton": version_of("triton"),
        "flashinfer": version_of("flashinfer-python"),
    }


def where(device: str) -> Row:
    """Return `gpu()` for "cuda", else `machine()`."""
    return gpu() if device == "cuda" else machine()


def device_here() -> str:
    """Return "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None of one that is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Report:
    """Prints rows of a table as they come and appends them, as JSON lines, to a file.

    Args:
        out: The file; None writes none.
        header: What the rows have in common, printed and stored first.
    """

    def __init__(self, out: Path | None, **header: Any) -> None:
        self._file = out.open("a", encoding="utf-8") if out else None
        self.header = header
        print("  ".join(f"{key}={value}" for key, value in header.items()), flush=True)
        self._write({"kind": "header", **header})

    def row(self, line: str, **values: Any) -> None:
        """Print `line` and store `values`."""
        print(line, flush=True)
        self._write({"kind": "row", **values})

    def _write(self, values: Row) -> None:
        if self._file:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


def read_rows(
    path: Path,
    bench: str,
    *,
    key: Callable[[Row, Row], Hashable],
    line_of: Callable[[Row], str],
    wrote: Callable[[Row], bool] = lambda header: True,
) -> list[Pair]:
    """Return (header, row) pairs, the newest of each key.

    Args:
        path: The file.
        bench: Name of the benchmark, for errors.
        key: What tells a pair from others.
        line_of: What shows a row; a row that it cannot show is none.
        wrote: Whether a header is this benchmark's.

    Raises:
        BadOption: if the file cannot be read, or holds something else.
    """

    def unfit(why: str) -> BadOption:
        return BadOption(f"--read takes a file that --out of {bench} wrote; {path} {why}")

    def pairs(lines: list[str]) -> Iterator[Pair]:
        header: Row | None = None
        for number, line in enumerate(lines, 1):
            values = _parsed(line, line_of, wrote)
            if values and values["kind"] == "header":
                header = values
            elif values and header:
                yield header, values
            else:
                raise unfit(f"holds something else in line {number}")

    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise unfit(f"cannot be read: {error.strerror}") from error
    found = sorted(pairs(lines), key=lambda pair: pair[0]["date"])
    if not found:
        raise unfit("has no rows")
    return list({key(*pair): pair for pair in found}.values())


def _parsed(line: str, line_of: Callable[[Row], str], wrote: Callable[[Row], bool]) -> Row | None:
    """Return a header or a row, None where the line is neither."""
    try:
        values = json.loads(line)
        if values["kind"] == "header":
            return values if wrote(values) and isinstance(values["date"], str) else None
        line_of(values)
        return values
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def origin_of(header: Row, *keys: str) -> str:
    """Return `keys` of a header and what its figures depend on, in a line."""
    return "  ".join(f"{key}={header[key]}" for key in (*keys, *ORIGIN) if header.get(key) is not None)


def cell(value: float | None, form: str) -> str:
    """Return a cell of a table: `value` in a format like "7.1%", or a dash of its width."""
    return format("—", ">" + form.partition(".")[0]) if value is None else format(value, form)


def show_again(pairs: Sequence[Pair], head: str, line_of: Callable[[Row], str]) -> list[Row]:
    """Print rows that were read back, as a table; return them."""
    print(head)
    rows = [row for _, row in pairs]
    for row in rows:
        print(line_of(row), flush=True)
    return rows


def attempt(measure: Callable[[], Row], failed: Row) -> Row:
    """Return what `measure` does; one that fails must not hide the others, and is `failed` with the reason."""
    try:
        return measure()
    except SparseSpecError as error:
        why = str(error)
    except Exception as error:
        traceback.print_exc()
        why = f"{type(error).__name__}: {error}"
    return {**failed, "failed": why}


@contextmanager
def figure(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """Yield a matplotlib figure of `size` in inches, and write it to `path` as SVG."""
    drawn: Any = importlib.import_module("matplotlib.figure").Figure(figsize=size)
    yield drawn
    drawn.tight_layout()
    drawn.savefig(path, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})


def dress(axes: Any, grid: str) -> None:
    """Give axes a light grid along `grid` ("x", "y" or "both"), and no frame above and to the right."""
    axes.grid(axis=grid, color="0.85", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def percent_axis(axis: Any) -> None:
    """Let an axis of shares show percents."""
    axis.set_major_formatter(importlib.import_module("matplotlib.ticker").PercentFormatter(1.0))


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its status, or with one sentence where it could not be done."""
    try:
        sys.exit(main())
    except SparseSpecError as error:
        sys.exit(str(error))
