"""Reads the package's imports with `ast` and judges them by the floors of the architecture.

Relative imports and imports under `TYPE_CHECKING` count, and so does `import_module` with a literal
name. Lazy strings in the registry do not: that is how the floors below name those above.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sparsespec"

FLOOR = {
    "core": 0,
    "kernels": 1,
    "policies": 2,
    "sched": 2,
    "kv": 2,
    "models": 2,
    "sampling": 2,
    "attention": 2,
    "metrics": 2,
    "engine": 3,
    "testing": 5,
}
ROOF = 4
ORACLE_MAY = ("torch", "math", "__future__", "dataclasses", "itertools", "typing", f"{PACKAGE}.core")
IMPLEMENTATIONS = ("reference", "cpu", "triton", "flashinfer")


def modules(root: Path = ROOT) -> dict[str, str]:
    """Return dotted name → source of every module of the package."""
    found: dict[str, str] = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found[".".join(parts[:-1] if is_package else parts)] = path.read_text("utf-8")
    return found


def packages(known: Mapping[str, str]) -> set[str]:
    """Return the modules that hold others."""
    return {name.rpartition(".")[0] for name in known} | {PACKAGE}


def imports(name: str, source: str, known: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module) for each import of a module, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if name in packages(known) else name.split(".")[:-1]
                here = here[: len(here) - node.level + 1]
                base = ".".join([*here, base] if base else here)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in known or base == PACKAGE else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def violations(known: Mapping[str, str]) -> list[str]:
    """Return a sentence for each import that points up, sideways, or out of its room's rules."""
    found: list[str] = []
    for name, source in known.items():
        for line, target in imports(name, source, known):
            if why := _wrong(name, target, known):
                found.append(f"{name}:{line} imports {target}: {why}")
    return found


def _place(name: str) -> tuple[int, str]:
    """Return a module's floor and its room there; an op of `kernels` is a room of its own."""
    parts = name.split(".")
    room = parts[1] if len(parts) > 1 else ""
    floor = FLOOR.get(room, ROOF)
    if floor == ROOF:
        return ROOF, "roof"
    # A file directly in kernels/ is shared by its ops.
    return floor, ".".join(parts[1:3]) if room == "kernels" else room


def _wrong(name: str, target: str, known: Mapping[str, str]) -> str | None:
    stem = name.rpartition(".")[2]
    in_kernels = name.startswith(f"{PACKAGE}.kernels.")
    if in_kernels and stem == "reference" and not _under(target, *ORACLE_MAY):
        return f"an oracle may import {', '.join(ORACLE_MAY)} only"
    if not _under(target, PACKAGE):
        return None
    floor, room = _place(name)
    target_floor, target_room = _place(target)
    # benchmarks simulate acceptance with what tests use
    if floor == FLOOR["testing"] or _under(name, f"{PACKAGE}.benchmarks"):
        return None
    if target_floor > floor:
        return "points up"
    if room == "metrics" and not _under(target, f"{PACKAGE}.core", f"{PACKAGE}.metrics"):
        return "metrics imports core only"
    if floor == target_floor and room != target_room and not _shared_kernel_file(target, known):
        return "points sideways"
    if in_kernels and stem in IMPLEMENTATIONS and target.rpartition(".")[2] in IMPLEMENTATIONS:
        return "an implementation imports neither another nor the reference"
    return None


def _shared_kernel_file(target: str, known: Mapping[str, str]) -> bool:
    """Whether a module stands directly in `kernels/`, beside the ops."""
    beside = target.startswith(f"{PACKAGE}.kernels.") and target.count(".") == 2
    return beside and target in known and target not in packages(known)


def _under(name: str, *tops: str) -> bool:
    return any(name == top or name.startswith(f"{top}.") for top in tops)
