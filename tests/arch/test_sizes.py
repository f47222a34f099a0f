"""Files fit in a head: 300 lines (350 for a GPU kernel), and functions on a screen.

The design asks for functions near 40 lines; 60 with signature and docstring is where this fails.
"""

from __future__ import annotations

import ast

from tests.arch.house import modules

MAX_LINES = 300
MAX_KERNEL_LINES = 350
MAX_FUNCTION = 60


def too_long(known: dict[str, str]) -> list[str]:
    found: list[str] = []
    for name, source in known.items():
        kernel = name.startswith("sparsespec.kernels.") and name.rsplit(".", 1)[1].startswith("triton")
        lines = len(source.splitlines())
        if lines > (limit := MAX_KERNEL_LINES if kernel else MAX_LINES):
            found.append(f"{name} has {lines} lines, more than {limit}")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION:
                    found.append(f"{name}.{node.name} has {lines} lines, more than {MAX_FUNCTION}")
    return found


def test_files_and_functions_are_short() -> None:
    house = modules()
    assert len(house) >= 40
    assert too_long(house) == []


def test_a_long_file_or_function_is_seen() -> None:
    body = "    pass\n" * MAX_FUNCTION
    assert "more than 60" in too_long({"sparsespec.a": f"def f():\n{body}"})[0]
    assert "more than 300" in too_long({"sparsespec.a": "pass\n" * 301})[0]
    assert too_long({"sparsespec.kernels.draw.triton": "pass\n" * 350}) == []
