"""Triton's interpreter without what it does at every call for nothing: half of its time, and none of its results."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np


@cache
def quicken() -> None:
    """Take three detours from the interpreter of this process."""
    from triton import language as tl
    from triton.runtime import interpreter

    def call(self: Any, *args: Any, **options: Any) -> Any:
        # theirs patches the language at each call within a kernel; every launch does, and the rest stays patched
        if self.fn not in ready:
            interpreter._patch_lang(self.fn)
            ready.add(self.fn)
        try:
            return self.rewrite()(*args, **options)
        except Exception as error:
            raise interpreter.InterpreterError(repr(error)) from error

    def number_type(kind: Any) -> np.dtype[Any]:
        # theirs makes a table of all types to look one up
        kind = kind.element_ty if isinstance(kind, tl.block_type) else kind
        if isinstance(kind, tl.pointer_type):
            return pointer
        if kind.name not in known:
            known[kind.name] = honest(kind)
        return known[kind.name]

    ready, known = set[Any](), dict[str, np.dtype[Any]]()
    honest, pointer = interpreter._get_np_dtype, np.dtype(np.uint64)
    interpreter.InterpretedFunction.__call__ = call
    interpreter._get_np_dtype = number_type
    # sums that overflow are looked for, and told to an assertion that is only there to debug
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    builder.options = replace(builder.options, sanitize_overflow=False)
