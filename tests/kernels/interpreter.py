"""Triton's interpreter without what it does again at every call: a third of its time, and nothing of its results."""

from __future__ import annotations

from typing import Any

import numpy as np


def quicken() -> None:
    """Let the interpreter of this process patch `triton.language` once per launch, and look number types up."""
    from triton import language as tl
    from triton.runtime import interpreter

    def call(self: Any, *args: Any, **options: Any) -> Any:
        # theirs patches the language anew for each function that a kernel calls; the launch has done so already
        try:
            return self.rewrite()(*args, **options)
        except Exception as error:
            raise interpreter.InterpreterError(repr(error)) from error

    def number_type(kind: Any) -> np.dtype[Any]:
        # theirs builds a table of all types to look one up
        kind = getattr(kind, "element_ty", kind) if isinstance(kind, tl.block_type) else kind
        if isinstance(kind, tl.pointer_type):
            return pointer
        if kind.name not in known:
            known[kind.name] = honest(kind)
        return known[kind.name]

    known: dict[str, np.dtype[Any]] = {}
    honest, pointer = interpreter._get_np_dtype, np.dtype(np.uint64)
    interpreter.InterpretedFunction.__call__ = call
    interpreter._get_np_dtype = number_type
