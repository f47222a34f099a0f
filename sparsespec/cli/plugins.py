"""`sparsespec plugins`: what is on the shelves, what it takes, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sparsespec.cli.screen import say_json, stdout
from sparsespec.core import errors, registry
from sparsespec.core.literals import write
from sparsespec.core.registry import PartInfo
from sparsespec.core.spec import PRESETS, SHELVES

PRESETS_SHELF = "presets"


def run(shelf: str | None, *, as_json: bool) -> int:
    """Show one shelf or all of them, and the presets."""
    if shelf is not None and shelf not in (*SHELVES, PRESETS_SHELF):
        raise errors.unknown("shelf", shelf, [*SHELVES, PRESETS_SHELF])
    shelves = [name for name in SHELVES if shelf in (None, name)]
    rows = {name: registry.describe(name) for name in shelves}
    presets = shelf in (None, PRESETS_SHELF)
    if as_json:
        found: dict[str, Any] = {name: [_plain(row) for row in parts] for name, parts in rows.items()}
        if presets:
            found[PRESETS_SHELF] = [
                {"name": p.name, "description": p.description, "source": p.source, "spec": p.spec.to_dict()}
                for p in PRESETS.values()
            ]
        say_json(found)
        return 0
    console = stdout()
    for name, parts in rows.items():
        console.print(_shelf(name, parts), "")
    if presets:
        console.print(_presets())
    return 0


def _table(title: str, **columns: int) -> Table:
    """Return a table whose columns after the name share the width in these proportions."""
    table = Table(title=title, title_justify="left", title_style="bold", expand=True)
    table.add_column("name", style="bold", no_wrap=True)
    for column, ratio in columns.items():
        table.add_column(column.replace("_", " "), ratio=ratio, overflow="fold")
    return table


def _shelf(shelf: str, parts: Sequence[PartInfo]) -> Table:
    table = _table(shelf, what_it_does=4, options=2, needs=2, provides=2, comes_from=2)
    for row in parts:
        doc = Text(row.error, style="red") if row.error else Text(row.doc)
        options = "\n".join(f"{name}={_default(value)}" for name, value in row.options.items())
        table.add_row(row.name, doc, Text(options or "–"), _words(row.needs), _words(row.provides), row.origin)
    return table


def _presets() -> Table:
    table = _table(PRESETS_SHELF, what_it_does=3, differs_from_dense_in=4, source=2)
    dense = PRESETS["dense"].spec
    for preset in PRESETS.values():
        parts = [f"{k}={v}" for k, v in preset.spec.parts.items() if v != dense.parts[k]]
        if preset.spec.loop != dense.loop:
            parts.append(f"loop={preset.spec.loop}")
        table.add_row(preset.name, preset.description, Text("\n".join(parts) or "–"), preset.source)
    return table


def _words(words: frozenset[str]) -> str:
    return ", ".join(sorted(words)) or "–"


def _default(value: object) -> str:
    return "…" if value is ... else write(value)


def _plain(row: PartInfo) -> dict[str, Any]:
    return {
        "name": row.name,
        "doc": row.doc,
        # an option without a default must be given
        "options": {name: {"required": True} if v is ... else {"default": v} for name, v in row.options.items()},
        "needs": sorted(row.needs),
        "provides": sorted(row.provides),
        "origin": row.origin,
        "error": row.error,
    }
