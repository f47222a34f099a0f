"""`sparsespec models`: list, pull, remove."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict

import typer
from rich.table import Table

from sparsespec.cli.screen import Bars, say_json, size, stdout
from sparsespec.core.errors import BadModel, BadRequest
from sparsespec.models.cache import VARIABLE, cache_folder
from sparsespec.models.catalog import ALIASES, resolve
from sparsespec.models.inventory import Entry, inventory
from sparsespec.models.inventory import remove as remove_model


def list_models(*, as_json: bool) -> int:
    """Show what has a name, and what lies here."""
    entries = inventory()
    if as_json:
        say_json([{**asdict(entry), "path": entry.path and str(entry.path)} for entry in entries])
        return 0
    table = Table(title="models", title_justify="left", title_style="bold")
    for column in ("name", "kind", "what", "size here", "where"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        table.add_row(entry.name, entry.kind, entry.about, size(entry.n_bytes), _where(entry))
    stdout().print(table)
    stdout().print(
        "Any folder in Hugging Face layout and any hub id org/name of the families Llama, Qwen2 and Qwen3 works too.\n"
        f"Models are kept in {cache_folder()}; ${VARIABLE} says where else.",
        markup=False,
        soft_wrap=True,
    )
    return 0


def pull(name: str, *, as_json: bool) -> int:
    """Fetch a model by alias or hub id."""
    if name not in ALIASES and "/" not in name:
        raise BadModel(f"{name!r} cannot be fetched; give a hub id org/name, or one of: {', '.join(ALIASES)}")
    start = time.perf_counter()
    with Bars() as bars:
        path = resolve(name, progress=bars)
    seconds = time.perf_counter() - start
    if as_json:
        say_json({"name": name, "path": str(path), "seconds": seconds})
    else:
        print(f"{name} is in {path} ({seconds:.0f} s)")
    return 0


def remove(name: str, *, yes: bool, as_json: bool) -> int:
    """Delete a fetched model, after asking."""
    entry = next((e for e in inventory() if e.name == name and e.path), None)
    if entry and not yes:
        if as_json or not sys.stdin.isatty():
            raise BadRequest(f"cannot ask for confirmation here; add --yes to remove {name}")
        if not typer.confirm(f"remove {name} ({size(entry.n_bytes)}) from {entry.path}?"):
            print("kept")
            return 0
    freed = remove_model(name)
    if as_json:
        say_json({"name": name, "freed_bytes": freed})
    else:
        print(f"removed {name} ({size(freed)})")
    return 0


def _where(entry: Entry) -> str:
    if entry.kind == "memory":
        return "made when asked for"
    return str(entry.path) if entry.path else f"not fetched; sparsespec models pull {entry.name}"
